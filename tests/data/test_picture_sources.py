"""Pictures that go to image teachers alone: what each clip counts in the losses of other teachers, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from video_files import recipe

TEACHER = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_px": 8, "weights": "random"}
IMAGE = {**TEACHER, "kind": "image", "tubelet_frames": 1, "position": "sincos2d"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nine pictures, one of which is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        Image.fromarray(np.full((40, 40, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"none")
    return folder


def mixed(videos: Path, pictures: Path, micro: int = 8, **more: Any) -> TrainingRecipe:
    sources = [{"manifest": str(videos)}, {"manifest": str(pictures), "images": "image_teachers", "weight": 9}]
    values = {
        "objective": "distillation",
        "pixels": None,
        "teachers": {"image": IMAGE, "video": TEACHER},
        "batch": {"micro": micro, "global": 8},
        "data__sources": sources,
    }
    return recipe(Path("x"), **values | more)


def test_what_a_clip_counts_makes_the_mean_of_a_step_on_any_number_of_ranks(twelve: Path, pictures: Path) -> None:
    one = list(ClipLoader(mixed(twelve, pictures), 2, 0, 1).batches(0, 5))
    for batch in one:
        assert batch.counted is not None
        is_picture = batch.sample >= 12
        expected = torch.where(is_picture, 0.0, 8 / max(int((~is_picture).sum()), 1))
        assert torch.equal(batch.counted, expected) and batch.counted.dtype == torch.float32
        assert batch.counted.sum() == pytest.approx(8)
    assert len({float(batch.counted.max()) for batch in one if batch.counted is not None}) > 1, "steps of several mixtures"
    assert any("broken.png" in fault for batch in one for fault in batch.faults), "a replacement counts as what it replaces"
    two = [list(ClipLoader(mixed(twelve, pictures, 2), 2, rank, 2).batches(2, 5)) for rank in (0, 1)]  # after a restart
    for step in range(3):
        parts = [two[rank][2 * step + accumulation] for accumulation in (0, 1) for rank in (0, 1)]
        assert torch.equal(torch.cat([part.counted for part in parts]), one[2 + step].counted)


def test_two_clips_of_a_video_count_alike(twelve: Path, pictures: Path) -> None:
    settings = mixed(twelve, pictures, data__clips_per_video=2)
    for batch in ClipLoader(settings, 2, 0, 1).batches(0, 4):
        assert batch.counted.sum() in (0, pytest.approx(8)) and torch.equal(batch.counted[::2], batch.counted[1::2])


def test_without_the_option_batches_have_no_such_numbers(twelve: Path, pictures: Path) -> None:
    sources = [{"manifest": str(twelve)}, {"manifest": str(pictures), "weight": 9}]
    (batch,) = ClipLoader(mixed(twelve, pictures, data__sources=sources), 2, 0, 1).batches(0, 1)
    assert batch.counted is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teachers": {"video": TEACHER}}, "a teacher of kind image beside another one"),
        ({"objective": "video_reconstruction", "teachers": {}, "pixels": {}}, "a teacher of kind image beside another one"),
        ({"balance": "uncertainty"}, "balance fixed and drop_teachers 0"),
        ({"drop_teachers": 0.5}, "balance fixed and drop_teachers 0"),
        (
            {"teachers": {"image": IMAGE, "video": TEACHER | {"target": {"standardise": "running"}}}},
            "the target of video has statistics of all samples",
        ),
    ],
)
def test_what_it_does_not_fit_is_refused(twelve: Path, pictures: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        mixed(twelve, pictures, **changes)


def test_a_source_that_holds_videos_is_refused(twelve: Path) -> None:
    with pytest.raises(ConfigError, match=r"12 of 12 are no pictures, such as .*00.mp4; give these a source of their own"):
        ClipLoader(mixed(twelve, twelve), 2, 0, 1)
