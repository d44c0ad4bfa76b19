"""The objective of masked prediction with every part beside the published one: what each adds, and that 0 adds no bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvd_ds.config import TrainingRecipe, validate
from mvd_ds.data.batch import ClipBatch
from mvd_ds.models.teachers import build_teacher
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.bench.step_variants import random_batch
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.step import PixelTargets, TeacherTargets

TEACHER: dict[str, Any] = {"embed_dim": 48, "depth": 3, "num_heads": 2, "patch_px": 8, "weights": "random"}
IMAGE = TEACHER | {"kind": "image", "tubelet_frames": 1, "position": "sincos2d"}
LABELS: dict[str, Any] = {"classes": 5, "hidden": 16, "norm": "batch"}


def recipe_of(teacher: dict[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """A small recipe of stage two on grid (2, 4, 4), or of stage one where ``pixels`` are given."""
    values = {
        "objective": "distillation",
        "data": {"clip": {"frames": 4, "size_px": 32}},
        "masking": {"ratio": 0.75, "masks_per_clip": 2},
        "model": {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8},
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        "teachers": {"video": TEACHER | (teacher or {})},
        "schedule": {"steps": 2},
        "batch": {"micro": 4, "global": 4},
        "engine": {"precision": "fp32"},
    } | changes
    made = validate(values, "test")
    assert isinstance(made, TrainingRecipe)
    return made


def run(recipe: TrainingRecipe, labels: list[int] | None = None, measure: bool = False) -> tuple[LossTerms, dict[str, Tensor]]:
    """Losses of a batch, and the gradients of the student by name."""
    batch: ClipBatch = random_batch(recipe, 0)
    if labels is not None:
        batch = batch._replace(labels=torch.tensor(labels)[:, None])
    student: nn.Module = build_predictor(recipe)
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    targets = TeacherTargets(recipe, teachers, torch.float32) if teachers else PixelTargets(recipe)
    loss = MaskedPrediction(recipe, student, targets, torch.device("cpu"))(batch, measure)
    loss.total.backward()
    return loss, {name: parameter.grad for name, parameter in student.named_parameters() if parameter.grad is not None}


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "visible": ({"target": {"tokens": "all", "visible_weight": 0.0}}, {}),
    "summary": ({"more_targets": {"summary": {"kind": "summary", "summary": "mean", "weight": 0.0}}}, {}),
    "labels": ({}, {"labels": LABELS | {"weight": 0.0}}),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_weight_0_changes_no_bit(part: str) -> None:
    teacher, changes = PARTS[part]
    (expected, gradients), (found, others) = run(recipe_of()), run(recipe_of(teacher, **changes))
    assert torch.equal(found.total, expected.total)
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient), name


def test_stage_one_with_a_class_head_of_weight_0_changes_no_bit() -> None:
    stage_one = {"objective": "video_reconstruction", "teachers": {}, "pixels": {}}
    (expected, gradients), (found, others) = run(recipe_of(**stage_one)), run(recipe_of(**stage_one, **PARTS["labels"][1]))
    assert torch.equal(found.total, expected.total) and found.terms["labels"] > 0
    assert all(torch.equal(others[name], gradient) for name, gradient in gradients.items())


def test_every_part_together() -> None:
    teacher = {
        "target": {"tokens": "all", "blocks": [0, 2], "mode": "each", "normalise": True, "visible_ramp": (0, 0)},
        "more_targets": {"summary": {"kind": "summary", "summary": "mean"}, "umt": {"tokens": "visible", "loss": "cosine"}},
        "decoder": {"embed_dim": 16, "depth": 0, "num_heads": 2, "hidden": 20},
    }
    recipe = recipe_of(teacher, labels=LABELS)
    assert recipe.decoder_names == ("video", "video_summary", "video_umt", "labels")
    loss, gradients = run(recipe, [0, -1, 4, -1], measure=True)
    weights = {"video": 1.0, "video_summary": 1.0, "video_umt": 1.0, "labels": 0.01}
    torch.testing.assert_close(loss.total.detach(), sum(weights[name] * term for name, term in loss.terms.items()))
    assert all(torch.isfinite(gradient).all() and gradient.abs().sum() > 0 for gradient in gradients.values())
    assert {f"loss_relative/{name}" for name in weights} <= loss.measurements.keys()
    assert 0.9 < loss.measurements["loss_relative/labels"] < 1.2, "an untrained head knows nothing"


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_clips_without_a_label_add_nothing(norm: str) -> None:
    """With no label at all everything else is as without the head, and its gradients are 0."""
    _, expected = run(recipe_of())
    loss, found = run(recipe_of(labels=LABELS | {"norm": norm, "weight": 1.0}), [-1] * 4)
    assert loss.terms["labels"] == 0
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert all(gradient.abs().max() == 0 for name, gradient in found.items() if name.startswith("decoders.labels"))


def test_the_weight_of_visible_tokens_is_warmed_up() -> None:
    """Before the ramp the loss is that of masked tokens alone; afterwards it is more."""

    def total(ramp: tuple[int, int]) -> Tensor:
        return run(recipe_of({"target": {"tokens": "all", "visible_weight": 1.0, "visible_ramp": ramp}}))[0].total

    assert torch.equal(total((1, 2)), run(recipe_of())[0].total)
    assert total((0, 0)) > total((1, 2))


def chosen(batch: ClipBatch, rows: list[int], counted: list[float] | None) -> ClipBatch:
    """Some clips of a batch, with what each counts in the losses of teachers that take no pictures."""
    held = {name: value[rows] for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    views = {view: clips[rows] for view, clips in batch.views.items()}
    return batch._replace(**held, views=views, counted=None if counted is None else torch.tensor(counted))


def taught(batches: list[ClipBatch], settings: TrainingRecipe) -> tuple[LossTerms, dict[str, Tensor]]:
    """The losses of the last of equal micro batches of a step, and the gradients of all."""
    student: nn.Module = build_predictor(settings)
    teachers = {name: build_teacher(name, one, settings) for name, one in settings.teachers.items()}
    predict = MaskedPrediction(settings, student, TeacherTargets(settings, teachers, torch.float32), torch.device("cpu"))
    for batch in batches:
        loss = predict(batch, measure=True)
        (loss.total / len(batches)).backward()
    return loss, {name: parameter.grad for name, parameter in student.named_parameters()}


def test_pictures_are_no_part_of_the_losses_of_video_teachers() -> None:
    settings = recipe_of(teachers={"image": IMAGE, "video": TEACHER})
    batch: ClipBatch = random_batch(settings, 0)
    every, whole = taught([chosen(batch, [0, 1, 2, 3], [0.0, 2.0, 0.0, 2.0])], settings)
    videos, of_videos = taught([chosen(batch, [1, 3], None)], settings)
    both, of_both = taught([chosen(batch, [0, 1, 2, 3], None)], settings)
    torch.testing.assert_close(every.terms["video"], videos.terms["video"])
    assert torch.equal(every.terms["image"], both.terms["image"]) and not torch.equal(every.terms["video"], both.terms["video"])
    torch.testing.assert_close(every.total.detach(), every.terms["image"] + every.terms["video"])
    for name, gradient in whole.items():
        if name.startswith("decoders.video"):
            torch.testing.assert_close(gradient, of_videos[name])
        if name.startswith("decoders.image"):
            torch.testing.assert_close(gradient, of_both[name])
    assert "loss_relative/image" in every.measurements and "loss_relative/video" not in every.measurements

    # In two micro batches, of which the first has pictures alone.
    last, parts = taught([chosen(batch, [0, 2], [0.0, 0.0]), chosen(batch, [1, 3], [2.0, 2.0])], settings)
    torch.testing.assert_close(last.terms["video"], 2 * videos.terms["video"])
    for name, gradient in parts.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)

    alone, gradients = taught([chosen(batch, [0, 2], [0.0, 0.0])], settings)
    assert alone.terms["video"] == 0 and torch.equal(alone.total.detach(), alone.terms["image"])
    assert all(gradient.abs().max() == 0 for name, gradient in gradients.items() if name.startswith("decoders.video"))
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
