"""Where an attempt came from."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch

from mvd_ds.config import TrainingRecipe, dump
from mvd_ds.files import read_json
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.reporting.provenance import digest, write_provenance
from mvd_ds.training.run_folder import RunFolder


def test_an_attempt_tells_all_it_was_started_with(shrunk_recipe: TrainingRecipe, tmp_path: Path) -> None:
    write_provenance(
        RunFolder(tmp_path), 3, shrunk_recipe, Cluster(0, 1, torch.device("cpu")), {"zero_optimization": {"stage": 3}}
    )
    values = read_json(tmp_path / "attempts" / "attempt-003.json")
    assert values["command"] == [sys.executable, *sys.argv] and values["recipe"] == dump(shrunk_recipe)
    assert values["engine"] == {"zero_optimization": {"stage": 3}}
    assert {"python", "torch", "deepspeed"} <= values["versions"].keys()
    assert values["ranks"][0]["pid"] == os.getpid() and values["ranks"][0]["device"] == "cpu"
    manifest = Path(shrunk_recipe.data.manifest)
    assert values["digests"]["data.manifest"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    weights = Path(shrunk_recipe.teachers["video"].weights) / "model.safetensors"
    assert values["digests"]["teachers.video.weights"]["model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_folder_of_videos_is_digested_by_names_and_sizes(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.mp4").write_bytes(b"x" * number)
    before = digest(tmp_path)
    (tmp_path / "7.mp4").write_bytes(b"y" * 7)
    assert isinstance(before, str) and before.startswith("names and sizes of 40 files") and digest(tmp_path) == before
    (tmp_path / "7.mp4").write_bytes(b"y" * 8)
    assert digest(tmp_path) != before and digest(tmp_path / "none") is None
