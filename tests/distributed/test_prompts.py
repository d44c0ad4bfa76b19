"""Prompts under ZeRO: two processes equal one, and one goes on with what two began."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launching import losses, ranks
from mvd_ds.files import read_json
from mvd_ds.models.prompts.file import PROMPTS_NAME, digest_of
from mvd_ds.runs.finetune import finetune
from prompted_runs import RECIPE, STEPS, loaded, settings, write_captioned

pytestmark = pytest.mark.launch


def test_zero_3_in_two_processes_and_resumed_by_one_equals_untouched(videos: Path, tmp_path: Path) -> None:
    """With episodes, which are over the clips of all processes and micro batches of a step."""
    captioned = write_captioned(tmp_path / "captioned")
    before, one, two = digest_of(captioned), tmp_path / "one", tmp_path / "two"
    average = "optimizer.ema_decay=0.5"
    more = (average, "engine.config=zero3.json", "batch.micro=2", "run.stop_after_steps=3")
    ranks(2, "finetune", RECIPE, *settings("metaprompt", videos, captioned, two, *more))
    for folder in (one, two):
        recipe = loaded("metaprompt", videos, captioned, folder, more=(average, "batch.micro=8"))
        assert finetune(recipe, RECIPE) == 0
    for name in ("total", "class", "clips", "texts", "episodes"):
        found, wanted = (losses(folder, f"loss/{name}") for folder in (two, one))
        assert len(found) == STEPS and found == pytest.approx(wanted, rel=1e-4), name
    weights = [load_file(folder / "model" / PROMPTS_NAME) for folder in (two, one)]
    for name in weights[0] | weights[1]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5, msg=name)
    assert read_json(two / "validation.json")["predicted"] == read_json(one / "validation.json")["predicted"]
    assert digest_of(captioned) == before, "towers are not touched"
