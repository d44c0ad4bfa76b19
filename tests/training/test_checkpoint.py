"""Checkpoint folders: whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.training.checkpoint import MAY_CHANGE, newest_manifest


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
