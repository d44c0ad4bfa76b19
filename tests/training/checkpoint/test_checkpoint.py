"""Checkpoints of one process without ZeRO: exact, whole or not there, pruned, refused. tests/distributed has the real ones."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.training.checkpoint.checkpoint import Checkpoints, Resumed
from mvd_ds.training.checkpoint.files import read_checkpoint_manifest, write_manifest
from plain_engine import plain_checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return plain_checkpoints(tmp_path)


def train_and_save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        while checkpoints.engine.global_steps < step:
            checkpoints.engine.train()
            checkpoints.ema.update(torch.tensor(0.0))
        checkpoints.save(step, {"quarantine": [step]})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_resumed_run_goes_on_to_the_bit(tmp_path: Path, checkpoints: Checkpoints) -> None:
    train_and_save(checkpoints, 3)
    random = torch.rand(2)
    untouched = [checkpoints.engine.train() for _ in range(3)]
    resumed = plain_checkpoints(tmp_path, seed=1)
    assert resumed.load() == Resumed(3, {"quarantine": [3]})
    assert torch.rand(2).equal(random), "the generators go on"
    assert all(a.equal(b) for a, b in zip(resumed.ema.averages, checkpoints.ema.averages, strict=True))
    assert [resumed.engine.train() for _ in range(3)] == untouched
    assert checkpoints.last_save_seconds is not None and checkpoints.last_save_seconds > 0


def test_statistics_of_targets_come_back_to_the_bit(tmp_path: Path, checkpoints: Checkpoints) -> None:
    state = {"image.standardise.mean": torch.rand(5), "image.balance.loss": torch.rand(())}
    checkpoints.statistics = lambda: state
    train_and_save(checkpoints, 1)
    found = plain_checkpoints(tmp_path).load().statistics
    assert found.keys() == state.keys() and all(torch.equal(found[name], value) for name, value in state.items())


def test_settings_of_the_groups_are_those_of_now(tmp_path: Path, checkpoints: Checkpoints) -> None:
    """DeepSpeed would put the weight decay of the checkpoint, or even of another group, in their place."""
    train_and_save(checkpoints, 2)
    resumed = plain_checkpoints(tmp_path)
    resumed.engine.optimizer.param_groups[0]["weight_decay"] = 0.5
    resumed.load()
    assert [group["weight_decay"] for group in resumed.engine.optimizer.param_groups] == [0.5, 0.0]
    steps = [state["step"] for state in resumed.engine.optimizer.state.values()]
    assert [float(step) for step in steps] == [2.0] * 4 and len({id(step) for step in steps}) == 4


def test_an_average_begun_late_and_one_given_up(tmp_path: Path) -> None:
    without = plain_checkpoints(tmp_path, ema_decay=None)
    train_and_save(without, 2)
    begun = plain_checkpoints(tmp_path, seed=1)
    begun.load()
    assert begun.ema.averages[0].equal(without.engine.module[0].weight), "it starts at the weights of the checkpoint"
    train_and_save(begun, 3)
    given_up = plain_checkpoints(tmp_path, ema_decay=None)
    assert given_up.load().step == 3 and given_up.ema.averages == []


def test_the_two_newest_are_kept_and_every_nth(tmp_path: Path, checkpoints: Checkpoints) -> None:
    train_and_save(checkpoints, 10, 20, 30, 40, 50)
    assert names(tmp_path) == ["latest", "step-00000020", "step-00000040", "step-00000050"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000050\n"


def test_left_over_and_abandoned_folders(tmp_path: Path, checkpoints: Checkpoints) -> None:
    train_and_save(checkpoints, 1, 2)
    (tmp_path / "checkpoints" / "writing-step-00000009").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step-00000001\n")
    back = plain_checkpoints(tmp_path)
    assert back.load().step == 1, "who rolls a run back by hand gets what they ask for"
    train_and_save(back, 2)
    assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]
    (tmp_path / "checkpoints" / "latest").unlink()
    assert plain_checkpoints(tmp_path).load().step == 2


def test_nothing_there(tmp_path: Path, checkpoints: Checkpoints) -> None:
    assert checkpoints.load() == Resumed(0, {})


@pytest.mark.parametrize("latest", ["../../elsewhere\n", "step-1\n", "\0", "", "step-00000007\n"])
def test_a_latest_that_names_nothing_of_ours(
    tmp_path: Path, checkpoints: Checkpoints, latest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train_and_save(checkpoints, 1, 2)
    (tmp_path / "checkpoints" / "latest").write_text(latest)
    assert plain_checkpoints(tmp_path).load().step == 2
    assert ("step-00000007/manifest.json: cannot be read" in capsys.readouterr().out) == ("7" in latest)


def test_another_model_is_refused(tmp_path: Path, checkpoints: Checkpoints) -> None:
    train_and_save(checkpoints, 2)
    other = plain_checkpoints(tmp_path)
    other.engine.module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"another model: 1\.bias has shape \(3,\) there, \(2,\) here"):
        other.load()


def test_settings_that_an_older_version_did_not_have(tmp_path: Path, checkpoints: Checkpoints) -> None:
    train_and_save(checkpoints, 2)
    path = tmp_path / "checkpoints" / "step-00000002"
    manifest = read_checkpoint_manifest(path)
    del manifest["recipe"]["data"]["clip"]["flip"]
    write_manifest(path, manifest)
    assert plain_checkpoints(tmp_path).load().step == 2


def refused(checkpoints: Checkpoints, step: int) -> str:
    """The line with which saving ``step`` is refused; what was there before is whole and alone."""
    folder = checkpoints.folder.path
    before = names(folder)
    with pytest.raises(ConfigError) as caught:
        train_and_save(checkpoints, step)
    assert names(folder) == before and "\n" not in str(caught.value)
    assert plain_checkpoints(folder).load().step == 10
    return str(caught.value)


def test_too_little_space_is_seen_before(tmp_path: Path, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    train_and_save(checkpoints, 10)
    manifest = json.loads((tmp_path / "checkpoints" / "step-00000010" / "manifest.json").read_text())
    measured = sum(entry["size"] for entry in manifest["files"].values())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=measured - 1))
    assert "are free; free some space and start again" in refused(checkpoints, 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=measured))
    train_and_save(checkpoints, 20)


def test_a_vanished_folder(tmp_path: Path) -> None:
    checkpoints = plain_checkpoints(tmp_path / "run")
    with pytest.raises(ConfigError, match="run/checkpoints: is gone; bring it back"):
        checkpoints.save(1)
    (tmp_path / "run").mkdir()
    checkpoints.save(1)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="run/checkpoints: is gone; bring it back"):
        checkpoints.save(2)
    assert not (tmp_path / "run" / "checkpoints").exists(), "nothing is begun beside what was there"
    (tmp_path / "elsewhere").rename(tmp_path / "run" / "checkpoints")
    resumed = plain_checkpoints(tmp_path / "run")
    assert resumed.load().step == 1
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="run/checkpoints: is gone; bring it back"):
        resumed.save(2)


@pytest.mark.parametrize("room", [0, 300, 2000, 4000])
def test_a_disk_that_fills_while_writing(checkpoints: Checkpoints, room: int) -> None:
    """In the first bytes of a file, or between two of its tensors."""
    train_and_save(checkpoints, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(ConfigError) as caught:
            checkpoints.save(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "mp_rank_00_model_states.pt: could not be written (File too large); the checkpoint before it is whole" in str(
        caught.value
    )
    assert plain_checkpoints(checkpoints.folder.path).load().step == 10
    assert names(checkpoints.folder.path) == ["latest", "step-00000010"]
