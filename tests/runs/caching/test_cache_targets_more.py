"""A kill in the middle of filling a cache, and another job that fills the same: nothing half-written is taken."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mvd_ds import files as ground_floor
from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.data.cached.files import RowWriter
from mvd_ds.data.loader import ClipLoader
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.training.liveness.folder_owner import FolderOwner
from shrinking import shipped


@pytest.fixture(scope="module")
def few(shrunk: list[str], videos: Path) -> list[str]:
    """Overrides of a run on 16 videos, whose cache has files of 3."""
    return [*shrunk, f"data.manifest={videos / 'val.txt'}", "data.clip.flip=0", "targets.clips_per_file=3"]


def killed_in(recipe: TrainingRecipe, owner: object, name: str, at: Callable[[int, tuple[object, ...]], bool]) -> None:
    """Fill a cache in a process that kills itself in the call of ``owner.name`` whose number and arguments ``at`` takes."""
    child = os.fork()
    if not child:
        calls, function = itertools.count(1), getattr(owner, name)

        def dying(*arguments: object) -> object:
            if at(next(calls), arguments):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        setattr(owner, name, dying)
        cache_targets(recipe, "run")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_kill_in_the_middle_costs_one_file_and_nothing_half_written_is_taken(few: list[str], tmp_path: Path) -> None:
    """First in the 8th row of 16, which is in the third file; then while the index is written, before it has its name."""
    recipe = shipped([*few, f"targets.cache={tmp_path / 'killed'}"])
    killed_in(recipe, RowWriter, "write", lambda call, _: call == 8)
    folder = tmp_path / "killed"
    assert len(list(folder.glob("targets-*.safetensors"))) == 2 and len(list(folder.glob(".*.partial"))) == 1
    with pytest.raises(ConfigError, match=r"has no index\.json; run `mvd_ds cache-targets` to its end"):
        ClipLoader(recipe, recipe.drop_path_blocks, 0, 1)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("targets-*.safetensors")}
    killed_in(recipe, ground_floor, "sync_file", lambda _, arguments: ".index.json." in str(arguments[0]))
    assert len(list(folder.glob("targets-*.safetensors"))) == 6 and len(list(folder.glob(".index.json.*"))) == 1
    with pytest.raises(ConfigError, match=r"has no index\.json"):
        ClipLoader(recipe, recipe.drop_path_blocks, 0, 1)
    cache_targets(recipe, "run")
    assert {path: path.stat().st_mtime_ns for path in before} == before, "whole files stay"
    assert not list(folder.glob(".*.partial")) and not (folder / "control").exists()
    cache_targets(shipped([*few, f"targets.cache={tmp_path / 'whole'}"]), "run")
    files = sorted(path.name for path in folder.glob("targets-*"))
    assert len(files) == 12 and (folder / "index.json").read_bytes() == (tmp_path / "whole" / "index.json").read_bytes()
    assert [name for name in files if (folder / name).read_bytes() != (tmp_path / "whole" / name).read_bytes()] == []
    assert load_file(folder / files[-1])["video"].shape == (1, 64, 64)


def test_a_second_job_is_refused_while_the_first_fills_the_cache(few: list[str], tmp_path: Path) -> None:
    with FolderOwner(tmp_path, "targets.cache").take() as other:
        with pytest.raises(ConfigError, match=rf"^targets\.cache .*: another job works here \(process {os.getpid()} .*wait"):
            cache_targets(shipped([*few, f"targets.cache={tmp_path}"]), "run")
        assert [path.name for path in tmp_path.iterdir()] == ["control"] and other.lock.is_held()
