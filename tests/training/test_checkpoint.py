"""Checkpoint folders: whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.training.checkpoint import MAY_CHANGE, Checkpoints, newest_manifest
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ema import Ema
from mvd_ds.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint = tmp_path / "step-00000010"
    checkpoint.mkdir()
    (checkpoint / "shard.pt").write_bytes(b"12345")
    manifest = {"name": checkpoint.name, "step": 10, "files": {"shard.pt": 5}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "latest").write_text(checkpoint.name + "\n")
    return tmp_path


def test_latest_names_the_newest(folder: Path) -> None:
    manifest = newest_manifest(folder)
    assert manifest is not None and manifest["step"] == 10


def test_a_folder_that_was_never_named_is_not_taken(folder: Path) -> None:
    (folder / "latest").unlink()
    assert newest_manifest(folder) is None


@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_a_cut_or_missing_file_is_named(folder: Path, fault: str) -> None:
    shard = folder / "step-00000010" / "shard.pt"
    if fault == "cut":
        shard.write_bytes(b"12")
    else:
        shard.unlink()
    with pytest.raises(ConfigError, match=r"shard\.pt: is missing or has another size"):
        newest_manifest(folder)


@pytest.mark.parametrize(
    ("line", "may"),
    [
        ("run.output: a -> b", True),
        ("run.seed: 0 -> 1", False),
        ("data.workers: 1 -> 2", True),
        ("data.clip.size_px: 224 -> 112", False),
        ("teachers.image.placement: zero3 -> replicated", True),
        ("teachers.image.target.normalise: False -> True", False),
        ("batch.micro: 8 -> 4", True),
        ("batch.global: 8 -> 4", False),
        ("masking.ratio: 0.9 -> 0.8", False),
    ],
)
def test_what_may_change_between_attempts(line: str, may: bool) -> None:
    assert bool(MAY_CHANGE.match(line)) == may


class _Engine:
    """Writes one shard as DeepSpeed's engine would."""

    module = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(module.parameters())

    def save_checkpoint(self, folder: str, tag: str, client_state: dict[str, object], save_latest: bool) -> None:
        (Path(folder) / tag / "shard.pt").write_bytes(b"12345")

    def zero_optimization_stage(self) -> int:
        return 3


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    recipe = load_recipe("quickstart_distill", ["run.keep_every_steps=20"])
    assert isinstance(recipe, TrainingRecipe)
    engine = _Engine()
    return Checkpoints(RunFolder(tmp_path), recipe, Cluster(0, 1, torch.device("cpu")), engine, Ema(engine, None))


def test_the_newest_is_kept_and_every_nth(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        checkpoints.save(step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*step*")) == [
        "step-00000020",
        "step-00000040",
        "step-00000050",
    ]
    manifest = newest_manifest(tmp_path / "checkpoints")
    assert manifest is not None and manifest["step"] == 50 and manifest["files"]["shard.pt"] == 5


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(10)
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ConfigError, match="are free; free some space and start again") as caught:
        checkpoints.save(20)
    assert "\n" not in str(caught.value)
    manifest = newest_manifest(tmp_path / "checkpoints")
    assert manifest is not None and manifest["step"] == 10
    assert [path.name for path in (tmp_path / "checkpoints").glob("*step*")] == ["step-00000010"]
