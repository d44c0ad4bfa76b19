"""The page of a test: any number of classes, nothing beside it, nothing of a file becomes markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from mvd_ds.config import ConfigError
from mvd_ds.evaluation.predictions import Predictions, confused_pairs, summarise
from mvd_ds.tools.report.evaluation_figures import NUMBERED_CLASSES, confusion_picture
from mvd_ds.tools.report.evaluation_page import write_evaluation_page
from video_files import write_video


def results(classes: int, count: int = 60) -> dict[str, Any]:
    """A test of ``count`` videos, the last of which could not be read."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(classes), count).astype(np.float32)
    found = Predictions(np.arange(count), probabilities, np.arange(count) < count - 1)
    labels = rng.integers(0, classes, count)
    pairs = confused_pairs(found, labels, 5, 2)
    return {
        "weights": "runs/<b>/model",
        "manifest": "val.txt",
        "label": "how",
        "views": {"segments": 5, "crops": 3},
        "classes": [f"<i>class {number} with a name that is rather long" for number in range(classes)],
        **summarise(found, labels, 15),
        "confused_pairs": [{**pair, "examples": [{"path": f"{video}.mp4"} for video in pair["examples"]]} for pair in pairs],
        "unreadable_videos": ["bad <script>.mp4: no video in it"],
    }


@pytest.mark.parametrize("classes", [2, 45])
def test_it_is_one_file_and_a_picture(tmp_path: Path, classes: int) -> None:
    told = results(classes)
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    write_evaluation_page(tmp_path)
    page = (tmp_path / "evaluation.html").read_text()
    assert "<script" not in page and "<i>class" not in page and "&lt;i&gt;class 0" in page
    assert "60 videos" in page and "5 x 3 views" in page and "no video in it" in page
    assert f"{100 * told['top1']:.2f}" in page
    assert page.count("<svg") == 2, "how sure it is, and the classes it knows least"
    width, height = Image.open(tmp_path / "confusion.png").size
    assert 400 < width < 3000 and 400 < height < 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "evaluation.html", "evaluation.json"]


@pytest.mark.parametrize("classes", [3, NUMBERED_CLASSES, NUMBERED_CLASSES + 1])
def test_the_matrix_has_numbers_where_they_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    drawn: list[tuple[int, int, int]] = []
    monkeypatch.setattr(Axes, "text", lambda axes, x, y, text, **style: drawn.append((int(y), int(x), int(text))))
    told = results(classes)
    confusion_picture(told["confusion"], told["classes"], tmp_path / "confusion.png")
    cells = np.argwhere(told["confusion"])
    assert drawn == ([(t, p, told["confusion"][t][p]) for t, p in cells.tolist()] if classes <= NUMBERED_CLASSES else [])


def test_a_single_bin_of_confidence_is_no_panel(tmp_path: Path) -> None:
    told = results(3)
    for bins, drawings in ((told["calibration"][:2], 2), (told["calibration"][:1], 1)):
        (tmp_path / "evaluation.json").write_text(json.dumps(told | {"calibration": bins}))
        write_evaluation_page(tmp_path)
        page = (tmp_path / "evaluation.html").read_text()
        assert page.count("<svg") == drawings and ("Confidence and accuracy" in page) == (drawings == 2)


def test_a_video_in_a_shard_is_shown_too(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", frames=8, width=48, height=32).read_bytes()
    (tmp_path / "0.tar").write_bytes(bytes(512) + video)
    told = results(3)
    place = {"path": "cat/a.mp4", "shard": str(tmp_path / "0.tar"), "offset": 512, "size": len(video)}
    told["confused_pairs"] = [told["confused_pairs"][0] | {"examples": [place, {"path": str(tmp_path / "a.mp4")}]}]
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    write_evaluation_page(tmp_path)
    assert (tmp_path / "evaluation.html").read_text().count("data:image/jpeg;base64,") == 2


def test_names_that_are_no_text_are_shown_as_escapes(tmp_path: Path) -> None:
    told = results(3)
    told["classes"][0] = told["weights"] = "caf\udce9\x1b[2J"
    told["unreadable_videos"] = ["caf\udce9.mp4: no video in it"]
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    write_evaluation_page(tmp_path)
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert r"caf\xe9\x1b[2J" in page and r"caf\xe9.mp4" in page and "\x1b" not in page


@pytest.mark.parametrize(("classes", "count", "said"), [(3, 40, "Numbers are videos."), (45, 60, "are in evaluation.json.")])
def test_few_videos_are_too_few_and_few_classes_have_numbers(tmp_path: Path, classes: int, count: int, said: str) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps(results(classes, count)))
    write_evaluation_page(tmp_path)
    page = (tmp_path / "evaluation.html").read_text()
    assert (f"Only {count} videos: each moves a share by" in page) == (count < 50) and said in page


def test_without_a_readable_video_there_is_a_page_too(tmp_path: Path) -> None:
    told = results(3)
    found = Predictions(np.arange(4), np.zeros((4, 3), np.float32), np.zeros(4, bool))
    told |= summarise(found, np.array([0, 1, 2, 0]), 15) | {"confused_pairs": []}
    assert told["calibration_error"] is None and told["top1"] == 0
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    write_evaluation_page(tmp_path)
    assert "counted as wrong" in (tmp_path / "evaluation.html").read_text()


def test_a_folder_without_a_test_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.json: cannot be read"):
        write_evaluation_page(tmp_path)
