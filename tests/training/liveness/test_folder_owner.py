"""A folder of results has one job at a time; a killed one's lock does not stay, and a finished one's leaves nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import mvd_ds
from mvd_ds.cli import main
from mvd_ds.config import ConfigError
from mvd_ds.tools.status import status_of
from mvd_ds.training.liveness import folder_owner
from mvd_ds.training.liveness.folder_owner import FolderOwner
from mvd_ds.training.liveness.heartbeat import read_beats
from mvd_ds.training.run_folder import STILL_RUNNING, RunFolder, Status


def test_the_second_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with FolderOwner(folder, "--output").take():
        told = rf"--output {folder}: another job works here \(process {os.getpid()} on .*choose another --output, or wait until"
        with pytest.raises(ConfigError, match=told), FolderOwner(folder, "--output") as second:
            second.take()
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]
    with FolderOwner(tmp_path / "new").take():
        pass
    assert not (tmp_path / "new").exists(), "a folder that was made for nothing does not stay"


def test_a_killed_owner_is_followed_at_once(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        FolderOwner(tmp_path).take()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "control" / "owner.json").exists()
    with FolderOwner(tmp_path).take() as owner:
        assert owner.lock.is_held()
    assert not list(tmp_path.iterdir())


def test_it_gives_signs_of_life_by_which_status_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_owner, "SIGN_SECONDS", 0.01)
    folder = RunFolder(tmp_path)
    for attempt in (1, 2):
        with FolderOwner(tmp_path).take():
            Status(folder, 1).write("running", 0)
            (first,) = read_beats(folder, attempt)
            while read_beats(folder) == [first]:
                pass
            assert status_of(tmp_path)[0] == STILL_RUNNING
        assert not folder.control.exists()


@pytest.mark.parametrize("command", ["export", "convert", "report"])
def test_commands_that_write_a_folder_refuse_a_second(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mvd_ds.save(mvd_ds.build_encoder({"embed_dim": 16, "depth": 1, "num_heads": 1, "patch_px": 8}, 2, 16), tmp_path / "model")
    out = str(tmp_path / "out")
    arguments = [command, str(tmp_path / "model"), *(["--output", out] if command == "report" else [out])]
    with FolderOwner(tmp_path / "out").take():
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert f"{out}: another job works here (process {os.getpid()} on" in told and told.count("\n") == 1
    if command != "report":
        assert main(arguments) == 0 and not (tmp_path / "out" / "control").exists()
        assert (tmp_path / "out" / "config.json").is_file()
