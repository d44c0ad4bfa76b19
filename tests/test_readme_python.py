"""The Python of every README runs as it stands there, block after block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from test_readme import PAGES, ROOT

BLOCKS = {
    page.relative_to(ROOT).as_posix(): re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for page in PAGES
}


def run_blocks(page: str) -> dict[str, Any]:
    """Run the blocks of a page one after another, as in one session, and return the names that they leave."""
    names: dict[str, Any] = {}
    for block in BLOCKS[page]:
        exec(compile(block, page, "exec"), names)
    return names


def test_the_eleven_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks("mvd_ds/README.md")
    assert len(BLOCKS["mvd_ds/README.md"]) == 11
    assert names["predictions"]["video"].shape == (2, 56, 192)
    assert names["gradients"].keys() <= names["weights"].keys() and len(names["loaded"]) > 50
    assert names["predicted"]["image"].shape == (4, 48, 128)
    assert names["tokens"].shape == (2, 64, 192) and names["logits"].shape == (2, 10)
    assert names["ignored"].keys() == {"pos_embed", "pos_embed_img", "pos_embed_vid"}
    assert names["same"](names["clip"], names["mask"])["image"].shape == (2, 56, 128)


@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks and page != "mvd_ds/README.md"])
def test_blocks(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page)
