"""Batches whose masks are drawn on the device: the same for a clip whoever reads it, when, and with whom."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, TrainingRecipe, dump, validate
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.dataset import ClipDataset
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.masking_batch import DeviceMasks, device_masks
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.stream import filled_batches
from mvd_ds.training.device_batch import to_device
from video_files import recipe


def motion_recipe(manifest: Path, **masking: object) -> TrainingRecipe:
    """Epochs of twelve clips; grid (2, 4, 4)."""
    settings = {"kind": "motion", "ratio": 0.75, "masks_per_clip": 2, "pick": "multinomial", **masking}
    return recipe(manifest, batch={"micro": 4, "global": 4}, masking=settings)


def batch_of(settings: TrainingRecipe, places: list[int]) -> ClipBatch:
    dataset = ClipDataset(settings, read_manifest(settings.data.manifest), 5)
    (filled,) = filled_batches(dataset, [places], len(places), settings.data, Quarantine(8))
    return dataset.batch(filled)


def masked_batch(settings: TrainingRecipe, places: list[int]) -> ClipBatch:
    masks = device_masks(settings)
    assert masks is not None
    return masks(to_device(batch_of(settings, places), torch.device("cpu")))


def test_a_batch_brings_random_numbers_and_no_masks(twelve: Path) -> None:
    batch = batch_of(motion_recipe(twelve, decoder="random"), [0, 1, 2])
    assert batch.visible.shape == batch.masked.shape == (3, 2, 0)
    assert batch.mask_numbers.shape == (3, 2, 32) and batch.mask_order.shape == (3, 2, 32)
    assert (batch.mask_numbers > 0).all() and batch.mask_numbers.unique().numel() == 3 * 2 * 32
    assert device_masks(recipe(twelve)) is None and batch_of(recipe(twelve), [0]).mask_numbers is None


@pytest.mark.parametrize("decoder", ["all", "random"])
def test_a_clip_has_the_same_masks_in_any_batch(twelve: Path, decoder: str) -> None:
    settings = motion_recipe(twelve, decoder=decoder)
    together, alone = masked_batch(settings, list(range(6))), masked_batch(settings, [4])
    for name in ("visible", "masked"):
        assert torch.equal(getattr(together, name)[4:5], getattr(alone, name))
    assert together.visible.shape == (6, 2, 8) and together.masked.shape == (6, 2, settings.predicted_tokens)
    assert len({row.numpy().tobytes() for row in together.visible.flatten(0, 1)}) > 6


def test_masks_follow_the_clip_that_is_mirrored(twelve: Path) -> None:
    """What hides in a mirrored clip is where it moves there, not where it moves in the file."""
    settings = motion_recipe(twelve, pick="high", masks_per_clip=1, ratio=0.25)
    batch = batch_of(settings, [0, 1])
    numbers = torch.ones_like(batch.mask_numbers)  # ties go by index; scores of these clips have none among the highest
    straight, mirrored = (
        DeviceMasks(settings)(to_device(batch._replace(flip=torch.full((2,), flip), mask_numbers=numbers), torch.device("cpu")))
        for flip in (False, True)
    )
    shown = torch.zeros(2, 32, dtype=torch.bool).scatter(1, straight.masked[:, 0], True).view(2, 2, 4, 4)
    assert torch.equal(
        torch.zeros(2, 32, dtype=torch.bool).scatter(1, mirrored.masked[:, 0], True).view(2, 2, 4, 4), shown.flip(3)
    )


def test_attention_is_the_score_where_a_teacher_gives_it(twelve: Path) -> None:
    values = dump(motion_recipe(twelve, masks_per_clip=1))
    teacher = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_px": 8, "weights": "random"}
    values |= {"objective": "distillation", "pixels": None, "teachers": {"video": teacher}}
    values["masking"] = {"kind": "attention", "teacher": "video", "ratio": 0.5, "ranking": "clip"}
    settings = validate(values, "a test")
    attention = torch.stack([torch.arange(32.0), torch.arange(32.0).flip(0)])
    batch = DeviceMasks(settings)(batch_of(settings, [0, 1]), attention)
    assert batch.masked[:, 0].tolist() == [list(range(16, 32)), list(range(16))]


@pytest.mark.parametrize(
    ("masking", "expected"),
    [
        ({"kind": "attention", "teacher": "nobody"}, "masking.teacher 'nobody' is not under teachers"),
        ({"kind": "attention"}, "masking.kind attention needs masking.teacher"),
        ({"kind": "tube", "teacher": "video"}, "masking.teacher is for masking.kind attention"),
        ({"kind": "tube", "pick": "low"}, "masking.pick is for masking.kind attention and motion"),
        ({"kind": "motion", "pick": "high"}, "masks_per_clip 2 would be that mask again"),
        ({"kind": "motion", "pick": "warp"}, "masking.pick warp needs"),
        ({"kind": "motion", "cell": 3}, "masking.cell 3 does not divide the grid (2, 4, 4)"),
        ({"kind": "motion", "pick": "hint", "hint_from": 0.5, "ratio": 0.9}, "of 16 cells visible"),
        ({"kind": "motion", "pick": "low", "keep": "attended", "masks_per_clip": 1}, "masking.keep attended is for"),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_drawn_are_refused_in_one_line(twelve: Path, masking: dict[str, object], expected: str) -> None:
    values = dump(recipe(twelve))
    values["masking"] = {
        "ratio": 0.75,
        "masks_per_clip": 2,
        "pick": "multinomial" if masking["kind"] == "motion" else "high",
        **masking,
    }
    if masking["kind"] == "attention":
        values["masking"]["masks_per_clip"] = 1
    with pytest.raises(ConfigError, match=r".*") as refused:
        validate(values, "a test")
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_the_python_api_says_that_such_masks_need_scores() -> None:
    with pytest.raises(ConfigError, match="masks are drawn from scores of tokens"):
        mvd_ds.draw_masks({"kind": "motion"}, (2, 4, 4))
