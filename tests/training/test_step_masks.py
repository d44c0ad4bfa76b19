"""Masks that are drawn in a step: whose attention, how often a teacher is asked, and the same whoever draws them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.step import PixelTargets, TeacherTargets
from shrinking import shipped

CPU = torch.device("cpu")
MASKS = ["masking.kind=attention", "masking.teacher=video", "masking.pick=multinomial", "masking.decoder=random"]


@pytest.fixture(scope="module")
def recipe(shrunk: list[str]) -> TrainingRecipe:
    return shipped([*shrunk, *MASKS, "batch.micro=2"])


def batches_of(recipe: TrainingRecipe, first: int, rank: int, world: int) -> list[ClipBatch]:
    """Batches of one rank from step ``first`` to the second, as a run that resumes there reads them."""
    loader = ClipLoader(recipe, recipe.drop_path_blocks, rank, world)
    found = list(loader.batches(first, 2))
    loader.close()
    return found


class Asked:
    """A teacher that counts how it is asked."""

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        self.teacher, self.wanted = build_teacher(name, recipe.teachers[name], recipe), []

    def __call__(self, clip: Tensor, wanted: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        self.wanted.append(wanted)
        return self.teacher(clip, wanted)


def test_the_teacher_of_the_masks_is_asked_once_and_the_others_for_what_they_hide(recipe: TrainingRecipe) -> None:
    teachers = {name: Asked(recipe, name) for name in recipe.teachers}
    targets = TeacherTargets(recipe, teachers, torch.float32, device_masks(recipe))
    (batch, *_) = batches_of(recipe, 0, 0, 1)
    inputs, given = targets.draw(to_device(batch, CPU))
    found = targets(inputs, given)
    assert [each is None for each in teachers["video"].wanted] == [True]
    (wanted,) = teachers["image"].wanted
    assert torch.equal(wanted, inputs.masked[:, 0])
    assert list(found) == ["image", "video"] and inputs.masked.shape == (2, 1, recipe.predicted_tokens)
    whole = given["video"]["video"].gather(1, inputs.masked[:, 0, :, None].expand(-1, -1, 64)).float()
    assert torch.equal(found["video"], whole)


def test_an_objective_draws_masks_and_learns_under_them(recipe: TrainingRecipe) -> None:
    student = build_predictor(recipe)
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    targets = TeacherTargets(recipe, teachers, torch.float32, device_masks(recipe))
    (batch, *_) = batches_of(recipe, 0, 0, 1)
    loss = MaskedPrediction(recipe, student, targets, CPU)(batch, measure=True)
    inputs, _ = targets.draw(to_device(batch, CPU))
    drawn = MaskedPrediction(recipe, student, TeacherTargets(recipe, teachers, torch.float32), CPU)(inputs, measure=False)
    assert loss.total.isfinite() and torch.allclose(loss.total, drawn.total, rtol=1e-6)


def test_masks_are_the_same_on_any_number_of_ranks_and_after_a_resume(recipe: TrainingRecipe) -> None:
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    targets = TeacherTargets(recipe, teachers, torch.float32, device_masks(recipe))

    def masks(first: int, world: int) -> dict[int, tuple[bytes, bytes]]:
        found = {}
        for rank in range(world):
            for batch in batches_of(recipe, first, rank, world):
                inputs, _ = targets.draw(to_device(batch, CPU))
                for row, place in enumerate(inputs.place.tolist()):
                    found[place] = tuple(part[row].numpy().tobytes() for part in (inputs.visible, inputs.masked))
        return found

    whole = masks(0, 1)
    assert len(whole) == 16 and len(set(whole.values())) == 16
    assert whole == masks(0, 2) == masks(0, 4)
    assert masks(1, 2) == {place: mask for place, mask in whole.items() if place >= 8}


def test_a_batch_without_masks_is_refused_where_nothing_draws_them(recipe: TrainingRecipe) -> None:
    (batch, *_) = batches_of(recipe, 0, 0, 1)
    with pytest.raises(ValueError, match="nothing that draws them"):
        TeacherTargets(recipe, {}, torch.float32).draw(batch)


def test_stage_one_draws_masks_by_motion(shrunk: list[str]) -> None:
    distilled = shipped([*shrunk, "masking.kind=motion", "masking.motion=block_matching", "masking.pick=warp"])
    pixels = distilled.model_copy(update={"teachers": {}, "objective": "video_reconstruction", "pixels": {}})
    recipe = TrainingRecipe.model_validate(pixels.model_dump(by_alias=True))
    (batch, *_) = batches_of(recipe, 0, 0, 1)
    loss = MaskedPrediction(recipe, build_predictor(recipe), PixelTargets(recipe, device_masks(recipe)), CPU)(
        batch, measure=False
    )
    assert loss.total.isfinite() and list(loss.terms) == ["pixels"]
