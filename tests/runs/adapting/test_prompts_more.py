"""The losses of prompts in ``finetune``: one step has the gradients that the same clips have in ``probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mvd_ds.config import PROMPT_HEADS
from mvd_ds.data.batch import LabelledBatch
from mvd_ds.data.manifests.labels import Classes
from mvd_ds.evaluation.head_bank import Candidate, Group, HeadBank
from mvd_ds.models.prompts.table import build_prompts
from mvd_ds.runs.adapting.prompts import PromptClassification, open_learner
from mvd_ds.runs.fitting import fit_to_weights
from mvd_ds.training.cluster import Cluster
from prompted_runs import loaded, write_captioned

NAMES = ("three", "four", "a dog", "a cat", "circles")
CPU, STEP = torch.device("cpu"), 7


@pytest.mark.parametrize("kind", PROMPT_HEADS)
def test_a_step_has_the_gradients_of_a_probe(kind: str, tmp_path: Path) -> None:
    more = ["prompt.words={}", *{"metaprompt": ["prompt.inner_rate=0.5"], "cocoop": ["prompt.hidden=8"]}.get(kind, [])]
    recipe = fit_to_weights(loaded(kind, tmp_path, write_captioned(tmp_path / "model"), tmp_path / "run", more=tuple(more)))
    base, learner = open_learner(recipe, Classes("label", NAMES, True))
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 2, 4])
    clips = torch.randint(0, 256, (8, 3, 4, 32, 32), generator=generator, dtype=torch.uint8)

    def batch(rows: slice) -> LabelledBatch:
        count = len(labels[rows])
        none: Any = torch.zeros(count, dtype=torch.int64)
        places = torch.arange(8)[rows] + STEP * recipe.batch.global_
        mixed = torch.arange(count), torch.ones(count), none
        return LabelledBatch({32: clips[rows]}, none.bool(), labels[rows], *mixed, none, none, none, places, [])

    objective = PromptClassification(recipe, learner, None, len(NAMES), Cluster(0, 1, CPU))
    parts = list(objective.prepare([batch(slice(0, 4)), batch(slice(4, 8))]))
    seen = [learner.see(objective._shown(part)) for part in parts]
    for part in parts:
        (objective(part, measure=False).total / len(parts)).backward()

    bank = HeadBank([Candidate(0, 0, 0, 0.1, 0.0)], lambda seed: build_prompts(kind, base, recipe.prompt, seed), CPU)
    for part, one in zip(parts, seen, strict=True):
        bank.accumulate(one, part.label, torch.full((1, 4), 1 / 8))
    if bank.has_episodes:
        groups = [Group(one, part.label, torch.ones(1, 4, dtype=torch.bool)) for part, one in zip(parts, seen, strict=True)]
        bank.episodes(groups, len(NAMES), (recipe.run.seed, STEP), recipe.prompt, 1.0)
    wanted = dict(bank.heads[0].named_parameters())
    for name, parameter in learner.head.named_parameters():
        assert parameter.grad is not None and parameter.grad.any()
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-4, atol=1e-6, msg=name)
