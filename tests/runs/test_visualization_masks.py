"""Pictures of masks that are drawn on the device show what they were drawn from."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.data.masking_batch import device_masks
from mvd_ds.evaluation.sheets import clip_sheets
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.runs.visualization import observe, picture_batch
from mvd_ds.training.step import TeacherTargets
from shrinking import shipped

CPU = torch.device("cpu")
CLIP = torch.randint(0, 255, (2, 3, 8, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize(
    ("masking", "taught", "words"),
    [
        (["kind=attention", "teacher=video"], True, "attention of teacher video"),
        (["kind=attention", "teacher=video"], False, ""),
        (["kind=motion", "motion=block_matching"], False, "motion by block matching"),
        (["kind=motion", "motion=block_matching", "pick=warp"], True, "motion by block matching"),
    ],
)
def test_the_scores_of_masks_are_a_row_of_the_sheet(masking: list[str], taught: bool, words: str, shrunk: list[str]) -> None:
    recipe = shipped([*shrunk, *(f"masking.{item}" for item in masking), "masking.ratio=0.5"])
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    targets = TeacherTargets(recipe, teachers, torch.float32, device_masks(recipe)) if taught else None
    student = build_predictor(recipe).eval()
    seen = observe(recipe, student, student, targets, picture_batch(recipe, {32: CLIP}), CPU, heads=[1])
    assert seen.hidden is not None and seen.hidden.shape == (2, 32)
    rows = [name for name in clip_sheets(seen)[0] if name.startswith("what the mask is drawn from")]
    assert rows == ([f"what the mask is drawn from: {words}"] if words else [])
    if words.startswith("attention"):
        assert seen.scores is not None and taught
        hidden = seen.scores.gather(1, seen.hidden).view(2, 4, 8)
        visible = torch.ones(2, 64, dtype=torch.bool).scatter(1, seen.hidden, False)
        assert (hidden.min(dim=2).values >= seen.scores[visible].view(2, 4, 8).max(dim=2).values).all()
        assert list(seen.losses) == ["image", "video"]
