"""Assignments to prototypes as targets: the loss pair by pair, and what is said of collapse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe, validate
from mvd_ds.objectives.targets import build_targets
from mvd_ds.objectives.targets.prototypes import PrototypeTarget

OUTPUTS, MASKED, LOCAL = 5, 3, 2


def recipe(target: dict[str, Any] | None = None, prototypes: dict[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """A small recipe of prototypes on grid (2, 4, 4), two clips of each video."""
    head = {"outputs": OUTPUTS, "hidden": 8, "bottleneck": 4, "local_crops": LOCAL, "local_px": 16} | (prototypes or {})
    values = {
        "objective": "distillation",
        "data": {"clip": {"frames": 4, "size_px": 32}, "clips_per_video": 2},
        "masking": {"ratio": 0.3, "kind": "random"},
        "model": {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8, "cls_token": True},
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        "teachers": {
            "own": {"weights": "ema", "target": {"kind": "prototypes", "norm": "final", "prototypes": head} | (target or {})}
        },
        "optimizer": {"ema_decay": 0.9},
        "schedule": {"steps": 2},
        "batch": {"micro": 4, "global": 4},
        "engine": {"precision": "fp32"},
    } | changes
    made = validate(values, "test")
    assert isinstance(made, TrainingRecipe)
    return made


def target_of(made: TrainingRecipe) -> PrototypeTarget:
    target = build_targets(made)["own"]
    assert isinstance(target, PrototypeTarget)
    return target


def drawn(rows: int = 4, local: int = LOCAL) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randn(rows, MASKED + 1 + local, OUTPUTS, generator=generator)
    return prediction, torch.randn(rows, MASKED + 1, OUTPUTS, generator=generator).softmax(-1)


def cross_entropy(target: torch.Tensor, logits: torch.Tensor) -> float:
    values = logits.double().numpy() / 0.1
    return float(-(target.double().numpy() * (values - np.log(np.exp(values - values.max()).sum()) - values.max())).sum())


@pytest.mark.parametrize(("clips", "local"), [(2, 2), (2, 0), (1, 2), (1, 0)])
def test_the_loss_is_that_of_all_pairs_one_by_one(clips: int, local: int) -> None:
    made = recipe(
        prototypes={"local_crops": local, "patch_weight": 0.7},
        data={"clip": {"frames": 4, "size_px": 32}, "clips_per_video": clips},
    )
    target, (prediction, wanted) = target_of(made), drawn(local=local)
    patches = np.mean([cross_entropy(wanted[b, m], prediction[b, m]) for b in range(4) for m in range(MASKED)])
    pairs = []
    for mine in range(4):
        for theirs in range(4):
            if mine // clips == theirs // clips:
                if mine != theirs or clips == 1:
                    pairs.append(cross_entropy(wanted[theirs, -1], prediction[mine, MASKED]))
                pairs += [cross_entropy(wanted[theirs, -1], prediction[mine, MASKED + 1 + crop]) for crop in range(local)]
    assert target.compare(prediction, wanted).item() == pytest.approx(0.7 * patches + np.mean(pairs), rel=1e-5)
    assert target.rows(prediction, wanted).shape == (4,)


def test_several_masks_of_a_clip_share_its_class_token() -> None:
    made = recipe(prototypes={"local_crops": 0}, masking={"ratio": 0.3, "kind": "random", "masks_per_clip": 2})
    prediction, wanted = drawn(8, 0)
    wanted = wanted[::2].repeat_interleave(2, dim=0)
    pairs = [cross_entropy(wanted[2 * (b ^ 1), -1], prediction[2 * b + k, MASKED]) for b in range(4) for k in range(2)]
    patches = [cross_entropy(wanted[b, m], prediction[b, m]) for b in range(8) for m in range(MASKED)]
    assert target_of(made).compare(prediction, wanted).item() == pytest.approx(np.mean(patches) + np.mean(pairs), rel=1e-5)


def test_collapse_is_seen_in_the_usage_and_in_the_entropy() -> None:
    target, (prediction, _) = target_of(recipe()), drawn()
    one = torch.zeros(4, MASKED + 1, OUTPUTS)
    one[..., 0] = 1.0
    said = target.measure(prediction, one, torch.ones(()))
    assert said["prototypes/own_patch_usage"] == 0 and said["prototypes/own_class_usage"] == 0
    flat = target.measure(prediction, torch.full_like(one, 1 / OUTPUTS), torch.ones(()))
    assert flat["prototypes/own_patch_usage"].item() == pytest.approx(1) == flat["prototypes/own_class_entropy"].item()
    told = target_of(recipe(prototypes={"class_weight": 0})).measure(prediction, one, torch.ones(())).keys()
    assert {name.rpartition("_")[0] for name in told if name.startswith("prototypes/")} == {"prototypes/own_patch"}


@pytest.mark.parametrize(
    ("target", "prototypes", "changes", "said"),
    [
        ({"loss": "l1"}, {}, {}, "kind prototypes compares assignments: it takes no loss"),
        ({"norm": "none"}, {}, {}, "kind prototypes needs norm final"),
        ({"kind": "features"}, {}, {}, "prototypes are for kind prototypes, not features"),
        ({"blocks": [0]}, {}, {}, "reads the student's last block, and blocks is [0]"),
        ({}, {}, {"balance": "loss_relative"}, "balance loss_relative follows a mean of features"),
        ({}, {"local_px": 12}, {}, "local_px 12"),
        ({}, {"local_px": 40}, {}, "local_px 40"),
        ({}, {}, {"masking": {"ratio": 0.3, "kind": "random", "masks_per_clip": 2}}, "local_crops"),
        ({}, {}, {"model": {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_px": 8}}, "cls_token"),
        (
            {},
            {},
            {
                "teachers": {
                    "own": {
                        "weights": "random",
                        "embed_dim": 32,
                        "depth": 1,
                        "num_heads": 2,
                        "patch_px": 8,
                        "cls_token": True,
                        "target": {"kind": "prototypes", "norm": "final"},
                    }
                }
            },
            "needs weights ema",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(target: Any, prototypes: Any, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(target, prototypes, **changes)
    assert said in str(error.value) and "\n" not in str(error.value)
