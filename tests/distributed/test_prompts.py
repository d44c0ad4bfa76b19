"""Prompts in two processes: those of ``finetune`` under ZeRO-3 and of ``probe`` equal those of one, which goes on with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from launching import losses, script_ranks
from mvd_ds.files import read_json
from mvd_ds.models.formats.containers import PROMPTS_NAME
from mvd_ds.models.prompts.file import digest_of
from mvd_ds.runs.finetune import finetune
from mvd_ds.runs.probing.probe import probe
from prompted_runs import RECIPE, STEPS, loaded, probe_settings, probed, results_of, settings, write_captioned

pytestmark = pytest.mark.launch

SCRIPT = Path(__file__).with_name("prompts_in_ranks.py")
AVERAGE = "optimizer.ema_decay=0.5"


class Launched(NamedTuple):
    """What two processes left behind."""

    captioned: Path
    digest: str
    """Of the frozen weights before."""
    finetuned: Path
    """Stopped after three of four steps."""
    probed: Path


@pytest.fixture(scope="module")
def two(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    folder = tmp_path_factory.mktemp("two")
    captioned = write_captioned(folder / "captioned")
    found = Launched(captioned, digest_of(captioned), folder / "finetuned", folder / "probed")
    more = (AVERAGE, "engine.config=zero3.json", "batch.micro=2", "run.stop_after_steps=3")
    commands = [
        ["finetune", RECIPE, *settings("metaprompt", videos, captioned, found.finetuned, *more)],
        ["probe", "probe_cocoop", *probe_settings(videos, captioned, found.probed)],
    ]
    (folder / "commands.json").write_text(json.dumps(commands))
    script_ranks(2, SCRIPT, str(folder / "commands.json"))
    return found


def test_finetune_under_zero_3_resumed_by_one_process_equals_untouched(two: Launched, videos: Path, tmp_path: Path) -> None:
    """With episodes, which are over the clips of all processes and micro batches of a step."""
    one = tmp_path / "one"
    for folder in (one, two.finetuned):
        recipe = loaded("metaprompt", videos, two.captioned, folder, more=(AVERAGE, "batch.micro=8"))
        assert finetune(recipe, RECIPE) == 0
    for name in ("total", "class", "clips", "texts", "episodes"):
        found, wanted = (losses(folder, f"loss/{name}") for folder in (two.finetuned, one))
        assert len(found) == STEPS and found == pytest.approx(wanted, rel=1e-4), name
    weights = [load_file(folder / "model" / PROMPTS_NAME) for folder in (two.finetuned, one)]
    for name in weights[0] | weights[1]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5, msg=name)
    told = [read_json(folder / "validation.json")["predicted"] for folder in (two.finetuned, one)]
    assert told[0] == told[1]
    assert digest_of(two.captioned) == two.digest, "towers are not touched"


def test_a_probe_is_that_of_one_process_to_the_bit(two: Launched, videos: Path, tmp_path: Path) -> None:
    probe(probed(videos, two.captioned, tmp_path / "run"), "x")
    assert results_of(tmp_path / "run") == results_of(two.probed)
