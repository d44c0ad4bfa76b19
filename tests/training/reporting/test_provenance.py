"""The provenance of an attempt holds all that it was started with."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch

from mvd_ds.config import TrainingRecipe, dump
from mvd_ds.files import read_json
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.contents import contents_of
from mvd_ds.training.reporting.provenance import write_provenance
from mvd_ds.training.run_folder import RunFolder


def test_an_attempt_tells_all_it_was_started_with(shrunk_recipe: TrainingRecipe, tmp_path: Path) -> None:
    cluster, engine = Cluster(0, 1, torch.device("cpu")), {"zero_optimization": {"stage": 3}}
    write_provenance(
        RunFolder(tmp_path), 3, shrunk_recipe, cluster, engine, contents_of(shrunk_recipe), [{"name": "decay", "parameters": 3}]
    )
    values = read_json(tmp_path / "attempts" / "attempt-003.json")
    assert values["command"] == [sys.executable, *sys.argv] and values["recipe"] == dump(shrunk_recipe)
    assert values["parameter_groups"] == [{"name": "decay", "parameters": 3}]
    assert values["engine"] == {"zero_optimization": {"stage": 3}}
    assert {"python", "torch", "deepspeed"} <= values["versions"].keys()
    assert values["ranks"][0]["pid"] == os.getpid() and values["ranks"][0]["device"] == "cpu"
    manifest = Path(shrunk_recipe.data.manifest)
    assert values["digests"]["data.manifest"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert {"data.manifest", "teachers.video.weights", "engine.config"} <= values["digests"].keys()
