"""Names of hosts are checked before anything calls ssh, pdsh or a shell with them, whichever way they come in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.config import ConfigError
from mvd_ds.tools.doctor.ssh import require_host_name
from mvd_ds.tools.launch.hosts import slurm_hosts

HOSTILE = [
    "-oProxyCommand=touch${IFS}FILE",
    "-lroot",
    "a;touch",
    "$(touch)",
    "`touch`",
    "a|b",
    "a&b",
    "a,b",
    "gpu[1-3]",
    "a'b",
    'a"b',
    "a%h",
    "a/b",
    "user@-oX",
    "-x@host",
    "^FILE",
    "a\x1b[2J",
    "é",
]
GOOD = ["gpu-01", "gpu_01.cluster.local", "10.0.0.1", "ubuntu@gpu-01", "fe80:0:0:1", "localhost", "A"]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that programs ``ssh`` and ``pdsh``, first on the PATH, write when they are called."""
    folder, called = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    for name in ("ssh", "pdsh", "srun"):
        (folder / name).write_text(f"#!/bin/sh\necho $0 >> {called}\n")
        (folder / name).chmod(0o755)
    (folder / "scontrol").write_text(f"#!/bin/sh\ncat {tmp_path / 'nodes'}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("RANK", raising=False)
    return called


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_one_line_and_starts_nothing(
    name: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text(f"good slots=1\n{name} slots=1\n", encoding="utf-8")
    run = ["distill", "mvd_base_from_base", f"run.output={tmp_path / 'run'}"]
    doors = [
        ["launch", "--hostfile", str(hostfile), *run],
        ["launch", "--hostfile", str(hostfile), "--node-rank", "0", "--port", "20000", *run],
        ["launch", "--hostfile", str(hostfile), "--dry-run", *run],
        ["doctor", "--hostfile", str(hostfile)],
    ]
    for arguments in doors:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{hostfile}:2: " in error and "\x1b" not in error
    hostfile.write_text("good slots=1\n")
    assert main(["launch", "--hostfile", str(hostfile), f"--master-addr={name}", *run]) == 2
    assert "--master-addr" in capsys.readouterr().err
    (tmp_path / "nodes").write_text(f"n1\n{name}\n", encoding="utf-8")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    with pytest.raises(ConfigError, match="scontrol show hostnames"):
        slurm_hosts(processes=8)
    assert not programs.exists(), "nothing was called"


@pytest.mark.parametrize("name", GOOD)
def test_usual_names_are_accepted(name: str) -> None:
    assert require_host_name(name, "here") == name
