"""Clips of the probed classes move on the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvd_ds.data.synthetic.writer import write_sample_set
from mvd_ds.tools.report.encoders.moving_clips import class_clips, moving_picture
from mvd_ds.tools.report.run_records import ProbeResults, RunRecord, RunStatus


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_sample_set(folder, 4, 80, 0, 32, 8)
    return folder


def probe(videos: Path) -> RunRecord:
    clip = {"frames": 8, "stride_frames": 1, "size_px": 32}
    recipe = {"objective": "probe", "validation_manifest": str(videos / "val.txt"), "data": {"clip": clip}}
    return RunRecord("probe", videos, recipe, "", RunStatus(), results=ProbeResults(probes={"a": {"what": 0.5}}))


def test_each_class_has_a_clip_that_moves(videos: Path) -> None:
    found = dict(class_clips([probe(videos)]))
    assert list(found) == ["what", "how"] and len(found["how"]) == 8
    assert found["how"][0].title == "orbit clockwise"
    image = found["how"][0].image
    assert image is not None
    with Image.open(io.BytesIO(base64.b64decode(image.source.partition(",")[2]))) as picture:
        assert picture.n_frames > 1 and picture.size == (32, 32)


def test_a_wide_clip_shows_its_middle_square() -> None:
    frames = np.zeros((2, 8, 20, 3), np.uint8)
    frames[1, :, 6:14] = 255
    with Image.open(io.BytesIO(base64.b64decode(moving_picture(frames).partition(",")[2]))) as picture:
        picture.seek(1)
        assert picture.size == (8, 8) and np.asarray(picture.convert("L")).min() == 255


def test_a_set_that_is_gone_shows_nothing(videos: Path) -> None:
    run = probe(videos)
    run.recipe["validation_manifest"] = str(videos / "gone.txt")
    assert class_clips([run]) == [] and class_clips([]) == []
