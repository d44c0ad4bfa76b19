"""Prompts in training: they are all that a learner holds, in any precision, and towers are no part of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from mvd_ds.config import PROMPT_HEADS, WORD_HEADS, PromptSettings
from mvd_ds.data.tokens import text_encoder
from mvd_ds.models.prompts.classifier import PromptedClassifier
from mvd_ds.models.prompts.file import open_base
from mvd_ds.models.prompts.learning import PromptLearner
from mvd_ds.models.prompts.table import build_prompts
from mvd_ds.models.prompts.texts import ClassNames
from prompted_runs import write_captioned
from text_folders import SPACE, write_text_folder

WORDS = ("three", "four", "a dog")
NAMES = ClassNames(WORDS, WORDS, tuple((word,) for word in WORDS))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioned(tmp_path_factory.mktemp("captioned") / "model")


def opened(kind: str, captioned: Path, names: ClassNames = NAMES) -> PromptLearner:
    base = open_base(str(captioned), (4, 32), names, text_encoder, kind != "vpt", "weights")
    return PromptLearner(PromptedClassifier(base, build_prompts(kind, base, PromptSettings(hidden=8, context=2), 0)))


@pytest.mark.parametrize("kind", PROMPT_HEADS)
def test_gradients_reach_prompts_alone_and_bf16_follows_fp32(kind: str, captioned: Path) -> None:
    learner = opened(kind, captioned)
    assert {name.partition(".")[0] for name in learner.state_dict()} == {"head"}
    assert all(parameter.requires_grad for parameter in learner.parameters())
    clip = torch.randn(3, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = learner(clip)
    sum(functional.cross_entropy(logits, torch.arange(3)) for logits in learner(clip, "learn")).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learner.parameters())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in learner.towers.parameters())
    # As an engine rounds a module, and ``finetune`` the towers beside it.
    learner.bfloat16()
    learner.towers.bfloat16()
    with torch.no_grad():
        rounded = learner(clip.bfloat16())
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("text", ["siglip", "siglip2"])
def test_a_student_with_the_text_tower_of_a_siglip_learns_prompts(text: str, tmp_path: Path) -> None:
    write_text_folder(text, tmp_path / "text")
    tower = f"language={{loss: sigmoid, embed_dim: {SPACE}, text: {{weights: {tmp_path / 'text'}}}}}"
    captioned = write_captioned(tmp_path / "model", "clip_base", tower)
    names = ClassNames(("0", "1"), ("three", "a"), (("three",), ("a",)))
    clip = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    for kind in WORD_HEADS[1:]:
        learner = opened(kind, captioned, names)
        sum(functional.cross_entropy(logits, torch.arange(2)) for logits in learner(clip, "learn")).backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in learner.parameters()), kind
