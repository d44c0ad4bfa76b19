"""The Python of README runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_block(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["predictions"]["video"].shape == (2, 56, 192)
    assert names["logits"].shape == (2, 10)
    assert [row.theirs for row in names["checkpoint"].rows if row.ours is None] == ["pos_embed", "pos_embed_img", "pos_embed_vid"]


def test_there_is_a_block():
    assert BLOCKS
