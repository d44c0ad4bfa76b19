"""A dumped step comes out as it did then on what the dump does not hold: the towers of prompts; of cached targets, nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mvd_ds.cli import main
from mvd_ds.data.augmentation.labelled import LabelledClips
from mvd_ds.data.loader import ClipLoader
from mvd_ds.runs.adapting.adapted import ADAPTED
from mvd_ds.runs.building import cached_types
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.runs.finetune import read_labelled
from mvd_ds.runs.fitting import fit_to_weights
from mvd_ds.runs.student import build_predictor
from mvd_ds.training.cached_targets import CachedTargets
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.masked_prediction import MaskedPrediction
from mvd_ds.training.run_folder import RunFolder
from prompted_runs import loaded, write_captioned
from shrinking import shipped
from tools.test_replay import dump


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


@pytest.mark.parametrize("ruin", [False, True])
def test_a_step_of_cached_targets(
    ruin: bool, shrunk: list[str], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its numbers are in the dump: of the cache only the index is read, and teachers are nowhere."""
    cache = tmp_path / "cache"
    more = [f"data.manifest={videos / 'val.txt'}", f"targets.cache={cache}", "targets.store=int8", "data.clip.flip=0.5"]
    recipe = shipped([*shrunk, *more])
    cache_targets(recipe, "run")
    gone = shipped([*shrunk, *more, *(f"teachers.{name}.weights={tmp_path / 'gone'}" for name in recipe.teachers)])
    student = build_predictor(gone).train()
    if ruin:
        with torch.no_grad():
            student.decoders["video"].blocks[1].mlp.expand.weight[3, 5] = torch.inf
    targets = CachedTargets(gone, cached_types(gone, RunFolder(tmp_path / "run"), True))
    objective = MaskedPrediction(gone, student, targets, torch.device("cpu"))
    totals = dump(tmp_path / "dump", gone, student, objective, ClipLoader(gone, gone.drop_path_blocks, 0, 1))
    held = load_file(tmp_path / "dump" / "rank-0.safetensors")
    assert {held[f"0.cached.{name}"].dtype for name in ("image", "video")} == {torch.int8} and "0.cached.image.scale" in held
    for file in cache.glob("targets-*"):
        file.unlink()
    assert main(["replay", str(tmp_path / "dump")]) == 0
    said = capsys.readouterr().out
    assert said.count(": the same") == len(totals) == 4 and ("decoders.video.blocks.1.mlp.expand" in said) == ruin
