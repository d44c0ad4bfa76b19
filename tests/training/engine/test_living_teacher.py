"""A teacher that is the student's average, in one process without ZeRO; tests/distributed has every stage and placement."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.models.teachers import build_teacher
from mvd_ds.models.weights import save_model
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.ema import Ema
from plain_engine import StageZero

STEPS = 5
OWN = "{weights: ema, target: {norm: final, normalise: true}, loss: l1}"
SMALL = ["embed_dim=16", "depth=2", "num_heads=2", "size=null", "drop_path=0"]


def recipe(own: str = OWN, *overrides: str) -> TrainingRecipe:
    small = [f"model.{item}" for item in SMALL]
    given = [*small, "decoder.embed_dim=16", f"teachers={{own: {own}}}", "optimizer.ema_decay=0.5", *overrides]
    loaded = load_recipe("quickstart_distill", given, "distill")
    assert isinstance(loaded, TrainingRecipe)
    return loaded


def started(living: TrainingRecipe) -> tuple[StageZero, Ema, Any]:
    """A student, its average, and the teacher that follows it."""
    student = build_predictor(living)
    engine = StageZero(student, torch.optim.AdamW(student.parameters()))
    teacher = build_teacher("own", living.teachers["own"], living)
    ema = Ema(engine, living.optimizer.ema_decay, living.optimizer.ema_decay_end)
    return engine, ema, teacher


def move(engine: StageZero, step: int) -> None:
    """One step of something: every weight goes elsewhere."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


def test_it_follows_the_recurrence_of_a_growing_decay_over_five_steps() -> None:
    living = recipe(OWN, "optimizer.ema_decay_end=1")
    engine, ema, teacher = started(living)
    ema.follow(teacher, "own")
    weights = dict(engine.module.named_parameters())
    expected = {name: weights[name].detach().numpy().astype(np.float64) for name, _ in teacher.named_parameters()}
    assert all(np.array_equal(parameter.numpy(), expected[name]) for name, parameter in teacher.named_parameters())
    for step in range(STEPS):
        move(engine, step)
        skipped = step == 2
        ema.update(torch.tensor(float(skipped)), step / STEPS)
        decay = 1 - 0.5 * (1 - 0.5) * (1 + math.cos(math.pi * step / STEPS))
        for name, before in expected.items() if not skipped else ():
            expected[name] = decay * before + (1 - decay) * weights[name].detach().numpy()
        for name, parameter in teacher.named_parameters():
            np.testing.assert_allclose(parameter.numpy(), expected[name], rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_at_momentum_1_it_is_a_frozen_teacher_of_the_starting_weights(tmp_path: Path) -> None:
    living = recipe(OWN, "optimizer.ema_decay=1")
    engine, ema, teacher = started(living)
    save_model(tmp_path / "start", engine.module.state_dict(), living, {})
    sizes = ", ".join(f"{item.replace('=', ': ')}" for item in [*SMALL, "patch_px=12", "activation_checkpointing=1"])
    frozen = recipe(OWN.replace("weights: ema", f"weights: {tmp_path / 'start'}, {sizes}"))
    other = build_teacher("own", frozen.teachers["own"], frozen)
    ema.follow(teacher, "own")
    for step in range(STEPS):
        move(engine, step)
        ema.update(torch.tensor(0.0), step / STEPS)
    clip = torch.randn(2, 3, 12, 48, 48, generator=torch.Generator().manual_seed(1))
    assert teacher(clip).equal(other(clip)) and teacher(clip).std() > 0.1


def test_it_is_read_at_the_blocks_that_are_asked_for_alone() -> None:
    _, ema, teacher = started(recipe("{weights: ema, target: {blocks: [0]}}"))
    ema.follow(teacher, "own")
    assert len(teacher.encoder.blocks) == 1 and not any(
        name.startswith("norm.") for name, _ in teacher.encoder.named_parameters()
    )


def test_a_teacher_of_other_shapes_is_refused_in_a_line() -> None:
    _, ema, _ = started(recipe())
    larger = build_teacher("own", recipe(OWN, "model.embed_dim=32").teachers["own"], recipe(OWN, "model.embed_dim=32"))
    with pytest.raises(ConfigError, match=r"teachers\.own\.weights ema: its encoder\.patch_embed.* is of shape") as error:
        ema.follow(larger, "own")
    assert "\n" not in str(error.value)


def test_a_head_of_prototypes_follows_with_the_encoder() -> None:
    head = "{outputs: 7, hidden: 8, bottleneck: 4}"
    more = ["model.cls_token=true", "masking.masks_per_clip=1"]
    living = recipe(f"{{weights: ema, target: {{kind: prototypes, norm: final, prototypes: {head}}}}}", *more)
    engine, ema, teacher = started(living)
    ema.follow(teacher, "own")
    move(engine, 0)
    ema.decay = 1e-9
    ema.update(torch.tensor(0.0))
    clip = torch.randn(2, 3, 12, 48, 48, generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor([[3, 90, 5], [7, 8, 0]])
    tokens = engine.module.encoder(clip)
    asked = torch.stack([row[1:][places] for row, places in zip(tokens, wanted, strict=True)])
    logits = engine.module.decoders["own"].head(torch.cat((asked, tokens[:, :1]), dim=1))
    assert torch.allclose(teacher(clip, wanted), logits, atol=1e-5) and teacher(clip).shape == (2, 97, 7)
