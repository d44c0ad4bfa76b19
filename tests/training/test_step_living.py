"""A teacher that is the student's average, at momentum 1, is a frozen teacher of the first weights, through whole steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, TrainingRecipe, validate
from mvd_ds.models.teachers import Teacher, build_teacher
from mvd_ds.models.weights import save_model
from mvd_ds.objectives.moving_statistics import update_statistics
from mvd_ds.runs.student import build_predictor
from mvd_ds.tools.bench.step_variants import random_batch
from mvd_ds.training.ema import Ema
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.step import TeacherTargets
from plain_engine import StageZero

STEPS = 4
OPEN = torch.zeros(())
NETWORK: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8, "cls_token": True}
FEATURES: dict[str, Any] = {"target": {"norm": "final", "normalise": True}, "loss": "l1"}
HEAD = {"outputs": 12, "hidden": 16, "bottleneck": 8, "warmup_steps": 3, "frozen_steps": 1, "local_crops": 2, "local_px": 16}
PROTOTYPES: dict[str, Any] = {"target": {"kind": "prototypes", "norm": "final", "prototypes": HEAD}}


def recipe_of(own: dict[str, Any], decay: float = 1.0, masking: dict[str, Any] | None = None) -> TrainingRecipe:
    """A recipe of one teacher on grid (2, 4, 4), two clips of each video."""
    values = {
        "objective": "distillation",
        "data": {"clip": {"frames": 4, "size_px": 32}, "clips_per_video": 2},
        "masking": masking or {"ratio": 0.5, "kind": "random"},
        "model": NETWORK,
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        "teachers": {"own": own},
        "optimizer": {"ema_decay": decay},
        "schedule": {"steps": STEPS},
        "batch": {"micro": 4, "global": 4},
        "engine": {"precision": "fp32"},
    }
    made = validate(values, "test")
    assert isinstance(made, TrainingRecipe)
    return made


def trained(recipe: TrainingRecipe, teacher: Teacher, follows: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of the steps of a training, and the weights behind it."""
    student = build_predictor(recipe)
    engine = StageZero(student, torch.optim.AdamW(student.parameters(), lr=3e-2))
    ema, losses = Ema(engine, recipe.optimizer.ema_decay), []
    if follows:
        ema.follow(teacher, "own")
    objective = MaskedPrediction(recipe, student, TeacherTargets(recipe, {"own": teacher}, torch.float32), torch.device("cpu"))
    for step in range(STEPS):
        batch = random_batch(recipe, step)
        loss = objective(batch._replace(place=batch.place + 4 * step), measure=False).total
        loss.backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad()
        ema.update(OPEN, step / STEPS)
        update_statistics(list(objective.statistics.values()), lambda sums: sums, OPEN, step / STEPS)
        losses.append(loss.item())
    return losses, student.state_dict()


def test_with_features_it_is_the_teacher_that_the_first_weights_were_saved_as(tmp_path: Path) -> None:
    living = recipe_of({"weights": "ema"} | FEATURES)
    save_model(tmp_path / "start", build_predictor(living).state_dict(), living, {})
    frozen = recipe_of({"weights": str(tmp_path / "start")} | NETWORK | FEATURES)
    losses, weights = trained(living, build_teacher("own", living.teachers["own"], living), follows=True)
    expected, others = trained(frozen, build_teacher("own", frozen.teachers["own"], frozen), follows=False)
    assert losses == expected and all(value.equal(others[name]) for name, value in weights.items())
    assert losses[-1] < losses[0], "it learned something"


@pytest.mark.parametrize("centring", ["ema", "sinkhorn"])
def test_with_prototypes_it_is_a_head_that_never_moves_under_centres_that_do(centring: str) -> None:
    own = {"weights": "ema", "target": PROTOTYPES["target"] | {"prototypes": HEAD | {"centring": centring}}}
    living = recipe_of(own)
    start = build_predictor(living).state_dict()
    still = build_teacher("own", living.teachers["own"], living)
    still.load_state_dict({name: start.get(name, value) for name, value in still.state_dict().items()})
    losses, weights = trained(living, build_teacher("own", living.teachers["own"], living), follows=True)
    expected, others = trained(living, still, follows=False)
    assert losses == expected and all(value.equal(others[name]) for name, value in weights.items())
    moving = recipe_of(own, decay=0.5)
    moved, _ = trained(moving, build_teacher("own", moving.teachers["own"], moving), follows=True)
    assert moved[0] == losses[0] and moved[-1] != losses[-1], "at another momentum it is another teacher"


def test_the_loss_of_vjepa_is_the_distance_to_normalised_features_of_an_average_in_numpy() -> None:
    """Five steps under two masks of blocks; the average and the loss are NumPy's."""
    blocks = {"kind": "multi_block", "ratio": 0.7, "masks_per_clip": 2, "block_scales": [0.15, 0.7], "block_aspect": [0.75, 1.5]}
    recipe = recipe_of({"weights": "ema"} | FEATURES, 0.8, blocks)
    student, teacher, other = build_predictor(recipe), *(build_teacher("own", recipe.teachers["own"], recipe) for _ in range(2))
    engine = StageZero(student, torch.optim.AdamW(student.parameters(), lr=1e-2))
    ema = Ema(engine, 0.8)
    ema.follow(teacher, "own")
    average = {name: value.detach().double().numpy() for name, value in student.named_parameters()}
    objective = MaskedPrediction(recipe, student, TeacherTargets(recipe, {"own": teacher}, torch.float32), torch.device("cpu"))
    for step in range(5):
        batch = random_batch(recipe, step)
        other.load_state_dict({name: torch.from_numpy(average[name]) for name, _ in other.named_parameters()}, strict=False)
        mean, deviation = (torch.tensor(value).view(3, 1, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        clip = (batch.views[32].float() / 255 - mean) / deviation
        with torch.no_grad():
            features, predicted = other(clip).double().numpy(), student(clip, batch.visible, batch.masked)["own"].double().numpy()
        features = features - features.mean(-1, keepdims=True)
        features /= np.sqrt((features**2).mean(-1, keepdims=True) + 1e-6)
        distances = [
            abs(predicted[2 * clip_number + mask] - features[clip_number][batch.masked[clip_number, mask].numpy()]).mean()
            for clip_number, mask in np.ndindex(4, 2)
        ]
        loss = objective(batch, measure=False).total
        assert loss.item() == pytest.approx(np.mean(distances), rel=1e-5)
        loss.backward()
        engine.optimizer.step()
        engine.optimizer.zero_grad()
        ema.update(OPEN)
        for name, value in student.named_parameters():
            average[name] = 0.8 * average[name] + 0.2 * value.detach().double().numpy()
    assert not np.allclose(average["encoder.norm.weight"], student.encoder.norm.weight.detach().numpy(), rtol=1e-3)
