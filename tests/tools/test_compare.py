"""Comparing fine-tuned runs by what they got right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.cli import main

VIDEOS = 400


def _run(folder: Path, share: float, seed: int, videos: int = VIDEOS) -> Path:
    """A run that is right on about ``share`` of the videos."""
    folder.mkdir()
    label = np.random.default_rng(0).integers(5, size=videos)
    right = np.random.default_rng(seed).random(videos) < share
    values = {"label": label.tolist(), "predicted": np.where(right, label, (label + 1) % 5).tolist()}
    (folder / "validation.json").write_text(json.dumps(values))
    return folder


def test_a_difference_and_its_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [str(_run(tmp_path / f"good{seed}", 0.6, seed)) for seed in range(3)]
    poor = [str(_run(tmp_path / f"poor{seed}", 0.4, 10 + seed)) for seed in range(3)]
    assert main(["compare", *good, "--against", *poor, "--output", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["difference"] == pytest.approx(found["top1"] - found["against"]) and 0.12 < found["difference"] < 0.28
    assert 0 < found["low"] < found["difference"] < found["high"] and (found["seeds"], found["videos"]) == (3, VIDEOS)
    assert "points, 95 % interval" in capsys.readouterr().out
    assert main(["compare", *good, "--against", *good, "--output", str(tmp_path / "same.json")]) == 0
    assert json.loads((tmp_path / "same.json").read_text())["difference"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "b", "--against", "c"], "2 runs against 1"),
        (["a", "--against", "nothing"], "nothing: has no validation.json; give a folder of `finetune`"),
        (["a", "--against", "short"], "400 held-out videos in .*, 300 in "),
        (["a", "--against", "how"], "how: was validated on other videos, or by another label, than .*a; both need the same"),
        (["cats", "--against", "dogs"], "dogs: was validated on other videos, or by another label, than .*cats"),
        (["listed", "--against", "elsewhere"], "elsewhere: was validated on other videos, or by another label, than .*listed"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        _run(tmp_path / name, 0.5, 1)
    _run(tmp_path / "short", 0.5, 1, videos=300)
    for name in ("cats", "dogs"):
        (_run(tmp_path / name, 0.5, 1) / "held_out.txt").write_text(f"/videos/{name}/0.mp4\t0\n/videos/{name}/1.mp4\t1\n")
    for name in ("listed", "elsewhere"):
        (_run(tmp_path / name, 0.5, 1) / "contents.json").write_text(json.dumps({"validation.manifest": name}))
    other = json.loads((_run(tmp_path / "how", 0.5, 1) / "validation.json").read_text())
    other["label"][0] += 1
    (tmp_path / "how" / "validation.json").write_text(json.dumps(other))
    assert main(["compare", *(a if a.startswith("--") else str(tmp_path / a) for a in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line), line
