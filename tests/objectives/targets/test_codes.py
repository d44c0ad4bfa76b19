"""Codes as targets: cross entropy against NumPy, the trivial loss, and what is told of codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, TargetSettings
from mvd_ds.objectives.targets import Target, build_targets
from small_tokenizers import KMEANS, student_recipe, tokenizer_recipe, write_tokenizer


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return build_targets(student_recipe(write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe())))["video"]


def _pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 16, generator=generator), torch.randint(0, 16, (3, 5, 1), generator=generator)


def test_the_head_is_as_wide_as_there_are_codes(target: Target, tmp_path: Path) -> None:
    assert target.head.width == 16 and not target.is_tokenwise
    kmeans = write_tokenizer(tmp_path / "kmeans", tokenizer_recipe(**KMEANS))
    assert build_targets(student_recipe(kmeans))["video"].is_tokenwise


def test_the_loss_is_the_cross_entropy(target: Target) -> None:
    logits, codes = _pair()
    values, index = logits.double().numpy(), codes.numpy()
    logs = values - np.log(np.exp(values).sum(-1, keepdims=True))
    expected = -np.take_along_axis(logs, index, -1)[..., 0]
    assert float(target.compare(logits, codes)) == pytest.approx(expected.mean(), rel=1e-6)
    np.testing.assert_allclose(target.rows(logits, codes).numpy(), expected.mean(axis=1), rtol=1e-5)


def test_a_student_that_knows_the_codes_has_no_loss_and_a_constant_one_the_trivial_loss(target: Target) -> None:
    _, codes = _pair()
    known = 100 * torch.nn.functional.one_hot(codes[..., 0], 16).float()
    assert float(target.compare(known, codes)) == pytest.approx(0, abs=1e-6)
    shares = torch.bincount(codes.flatten(), minlength=16) / codes.numel()
    told = shares.clamp_min(1e-30).log().expand(3, 5, 16)
    assert float(target.compare(told, codes)) == pytest.approx(float(target.trivial_loss(codes)), rel=1e-5)
    seen = target.measure(known, codes, target.compare(known, codes))
    assert float(seen["codes/accuracy_video"]) == 1.0
    assert seen["codes/perplexity_video"] == seen["codes/predicted_perplexity_video"] > 1
    assert float(target.measure(told, codes, torch.ones(()))["codes/predicted_perplexity_video"]) == pytest.approx(1.0)


def test_settings_that_codes_do_not_take_are_refused() -> None:
    for more in ({"loss": "l1"}, {"tokens": "visible"}, {"standardise": "running"}, {"blocks": [0, 1], "mode": "each"}):
        with pytest.raises(ValueError, match=r"codes are classes of masked tokens|mode each"):
            TargetSettings.model_validate({"kind": "codes", "codebook": "folder", **more})
    with pytest.raises(ValueError, match="codebook is for kind codes, not features"):
        TargetSettings.model_validate({"codebook": "folder"})
    with pytest.raises(ConfigError, match=r"kind codes needs target.codebook"):
        student_recipe(Path("folder"), target={"kind": "codes"})
