"""No step waits for a GPU between its batch and its update: every objective on a GPU that is not there.

``tests/distributed/engine_states.py`` asks the same of the updates of every ZeRO stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mvd_ds.config import FinetuneRecipe, TrainingRecipe, load_recipe
from mvd_ds.data.batch import LabelledBatch
from mvd_ds.data.masking_batch import device_masks
from mvd_ds.models.init_from_checkpoint import init_classifier_from_checkpoint
from mvd_ds.models.teachers import build_teacher
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.bench.step_variants import random_batch
from mvd_ds.training.classification import Classification
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.update_gate import UpdateGate
from mvd_ds.training.language import CaptionLoss
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.nonfinite.finite import minimised
from mvd_ds.training.optim import build_optimizer, parameter_groups
from mvd_ds.training.step import PixelTargets, TeacherTargets
from plain_engine import StageZero
from shrinking import AVERAGED, LOOKING, SCALES, shipped, shrink
from waits import GPU, Copies, Questions, fake_batch, on_fake_gpu

#: What learns, and what masks look at, beside the published targets.
VARIANTS = {
    "all targets": [
        "teachers.video.target={tokens: all, blocks: [0, 2], mode: each, normalise: true, visible_ramp: [3, 9]}",
        "teachers.video.more_targets={relations: {kind: relations, weight: 0.5}}",
        "teachers.image.more_targets={summary: {kind: summary}}",
        "labels={label: how, classes: 8, hidden: 16, weight: 0.1}",
    ],
    "scales": [*SCALES, "balance=loss_relative"],
    "uncertainty": [*SCALES, "balance=uncertainty"],
    "a scale of every clip": ["teachers.image.target.standardise=clip", "drop_teachers=0.5"],
    "masks by attention": LOOKING,
    "masks that stay visible": [
        *("masking.kind=attention", "masking.teacher=image", "masking.keep=attended"),
        *("masking.cell=2", "masking.blocks=all", "masking.ratio=0.5"),
    ],
    "masks by differences": ["masking.kind=motion", "masking.pick=multinomial"],
    "masks by displacements": ["masking.kind=motion", "masking.motion=block_matching"],
    "one mask along the motion": [
        *("masking.kind=motion", "masking.motion=block_matching", "masking.pick=warp", "masking.ranking=slot"),
    ],
    "living teachers": AVERAGED,
    "captions": ["language={sees: visible, embed_dim: 16, text: {kind: own, embed_dim: 32, depth: 2, num_heads: 2}}"],
    "captions by its own blocks": [
        "language={sees: all, embed_dim: 16, loss: sigmoid, text: {kind: shared, blocks: [1, -1], context: 96}}"
    ],
    "blocks of today": [
        *("model.position=rope3d", "model.registers=2", "model.layer_scale=0.1", "model.norm=rmsnorm"),
        *("model.mlp=swiglu", "model.mlp_ratio=2.5", "model.qk_norm=head"),
    ],
}
#: `auto` asks what the GPU can do.
SDPA = ["model.attention=sdpa"]
TEACHERS = [f"teachers.{name}.{item}" for name in ("image", "video") for item in ("attention=sdpa", "weights=random")]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("mvd_small_from_base", TEACHERS),
        ("mvd_small_from_base", [*TEACHERS, "model.drop_path=0.1", "masking.masks_per_clip=2", "masking.decoder=running_cell"]),
        ("videomae_small", []),
        ("mae_base", []),
    ],
)
def test_masked_prediction(name: str, overrides: list[str]) -> None:
    recipe = load_recipe(name, [*SDPA, *overrides, "batch.micro=2", "batch.global=2"])
    assert isinstance(recipe, TrainingRecipe)
    _require_no_wait(recipe)


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_every_kind_of_target_and_mask(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In small. There is no backward pass on that GPU, which the loss of captions has inside."""
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_: None)
    sizes = [one for one in shrink(Path("videos"), Path("teachers")) if ".weights=" not in one]
    _require_no_wait(shipped([*sizes, *SDPA, *TEACHERS, "batch.micro=4", "batch.global=4", "engine.precision=bf16", *overrides]))


def _require_no_wait(recipe: TrainingRecipe) -> None:
    """Compute the losses of a recipe on the GPU that is not there, without a wait."""
    student = build_predictor(recipe)
    teachers = {key: build_teacher(key, settings, recipe) for key, settings in recipe.teachers.items()}
    batch = random_batch(recipe, 0)
    with FakeTensorMode() as mode:
        on_fake_gpu(student, mode, torch.bfloat16)
        for teacher in teachers.values():
            on_fake_gpu(teacher, mode, torch.bfloat16)
        masks = device_masks(recipe)
        targets = TeacherTargets(recipe, teachers, torch.bfloat16, masks) if teachers else PixelTargets(recipe, masks)
        captions = CaptionLoss(recipe.language, lambda own: [own], 0) if recipe.language is not None else None
        objective = MaskedPrediction(recipe, student, targets, GPU, captions)
        with Copies(), Questions() as questions:
            loss = objective(fake_batch(batch, mode), measure=True)
            assert minimised(loss.total).device == GPU
    assert not questions.asked


def test_fine_tuning() -> None:
    """With mixed clips, dropout, drop path and a teacher's logits."""
    settings = ["weights=null", "model.drop_path=0.1", "dropout=0.5", "teacher.weights=unused", "batch.micro=4", "batch.global=4"]
    recipe = load_recipe("finetune_k400_small", [*SDPA, *settings], "finetune")
    assert isinstance(recipe, FinetuneRecipe) and recipe.augmentation.mix is not None
    classifier, teacher = init_classifier_from_checkpoint(recipe, 400), init_classifier_from_checkpoint(recipe, 400)
    size, of_clip = recipe.data.clip.size_px, torch.zeros(4, dtype=torch.int64)
    batch = LabelledBatch(
        views={size: torch.zeros(4, 3, recipe.data.clip.frames, size, size, dtype=torch.uint8)},
        flip=of_clip.bool(),
        label=of_clip,
        partner=of_clip,
        own_share=torch.zeros(4),
        box=torch.zeros(4, 6, dtype=torch.int64),
        drop_path=torch.zeros(4, 1, recipe.drop_path_blocks),
        dropout=torch.zeros(4, recipe.model.embed_dim),
        sample=of_clip,
        place=of_clip,
        faults=[],
    )
    with FakeTensorMode() as mode:
        on_fake_gpu(classifier, mode, torch.bfloat16)
        on_fake_gpu(teacher, mode, torch.bfloat16)
        objective = Classification(recipe, classifier, teacher, 400, GPU)
        with Copies(), Questions() as questions:
            loss = objective(fake_batch(batch, mode), measure=False)
            assert minimised(loss.total).device == GPU
    assert not questions.asked


def test_an_update() -> None:
    recipe = load_recipe("mvd_small_from_base", SDPA)
    assert isinstance(recipe, TrainingRecipe)
    student = build_predictor(recipe)
    with FakeTensorMode() as mode:
        on_fake_gpu(student, mode, torch.float32)
        optimizer = build_optimizer(parameter_groups(student, recipe.optimizer), recipe.optimizer)
        engine = StageZero(student, optimizer, clipping=0.1)
        gate, average = UpdateGate(engine), Ema(engine, 0.9)
        for parameter in student.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with Copies(), Questions() as questions:
            optimizer.step()
            average.update(gate.shut)
    assert not questions.asked


def test_what_waits_is_found() -> None:
    """Else the tests above would pass for nothing."""
    with FakeTensorMode() as mode:
        clip = mode.from_tensor(torch.zeros(2)).to(GPU)
        for wait in (lambda: clip.new_tensor([1.0]), lambda: torch.tensor(1.0, device=GPU), lambda: clip.cpu()):
            with pytest.raises(AssertionError, match="waits"), Copies():
                wait()
        with pytest.raises(DataDependentOutputException):
            bool(clip.sum() > 0)
    with Questions() as questions:
        answers: list[Any] = [torch.ones(1).item(), bool(torch.ones(1)), torch.ones(2).nonzero(), torch.tensor(2.0)]
    assert [asked.split()[0] for asked in questions.asked] == ["item", "__bool__", "nonzero", "tensor"] and len(answers) == 4
