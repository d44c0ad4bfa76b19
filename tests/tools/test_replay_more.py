"""A dumped step of prompts comes out as it did then, on towers that the dump does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_replay import dump

from mvd_ds.cli import main
from mvd_ds.data.augmentation.labelled import LabelledClips
from mvd_ds.data.loader import ClipLoader
from mvd_ds.runs.adapting.adapted import ADAPTED
from mvd_ds.runs.finetune import read_labelled
from mvd_ds.runs.fitting import fit_to_weights
from mvd_ds.training.cluster import Cluster
from prompted_runs import loaded, write_captioned


@pytest.mark.parametrize("kind", ["cocoop", "metaprompt"])
def test_a_step_of_prompts(kind: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("validation={manifest: null}", *(["prompt.inner_rate=0.1"] if kind == "metaprompt" else []))
    recipe = fit_to_weights(loaded(kind, videos, write_captioned(tmp_path / "model"), tmp_path / "run", more=more))
    labelled = read_labelled(recipe)
    adapted = ADAPTED[kind](recipe, labelled.classes)
    objective = adapted.objective(adapted.model, None, Cluster(0, 1, torch.device("cpu")))
    clips = LabelledClips(recipe, labelled.training, labelled.labels)
    loader = ClipLoader(recipe, recipe.drop_path_blocks, 0, 1, clips)
    objective.prepare(loader.again(0))
    totals = dump(tmp_path / "dump", recipe, adapted.model, objective, loader)
    assert main(["replay", str(tmp_path / "dump")]) == 0
    assert capsys.readouterr().out.count(": the same") == len(totals) == 2
