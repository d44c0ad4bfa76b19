"""The command of an attempt and its files: credentials are neither written, nor shown, nor handed to DeepSpeed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.tools.launch.attempt import LaunchAttempt
from mvd_ds.tools.launch.command import VARIABLES_FILE, Start, as_shell, build_start
from mvd_ds.tools.launch.environment import forwarded
from mvd_ds.tools.launch.hosts import Host
from mvd_ds.tools.launch.launch_options import LaunchOptions
from mvd_ds.tools.launch.stop import StopSignals
from mvd_ds.training.run_folder import RunFolder

SECRETS = {
    "HF_TOKEN": "hush-1",
    "MVD_DS_API_KEY": "hush-2",
    "MVD_DS_PROXY": "http://user:hush-3@proxy:80",
    "PYTHON_REGISTRY_PASSWORD": "hush-4",
    "MLFLOW_TRACKING_PASSWORD": "hush-5",
    "NCCL_X": "hf_hush6hush6hush6",
}
NEEDED = {"HF_HOME": "/data/hf", "MVD_DS_EXTRA": "x y", "NCCL_IB_HCA": "mlx5_0", "TOKENIZERS_PARALLELISM": "false"}


def _start(folder: Path, monkeypatch: pytest.MonkeyPatch, *forward: str, **environment: str) -> Start:
    for name, value in (SECRETS | NEEDED).items():
        monkeypatch.setenv(name, value)
    options = LaunchOptions("distill", "mvd_base_from_base", (), hostfile=folder / "hosts", forward=forward)
    return build_start(options, [Host("a", 2), Host("b", 2)], 20000, environment, folder)


def test_credentials_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = _start(tmp_path, monkeypatch, "TOKENIZERS_*", WANDB_API_KEY="hush-7")
    (text,) = start.private_files.values()
    assert "hush" not in text + "".join(start.files.values()) + " ".join(start.command)
    assert all(f"{name}=" in text for name in NEEDED)
    assert {"PYTHON_REGISTRY_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "NCCL_X"} <= set(start.hidden), "DeepSpeed would export them"


def test_a_dry_run_shows_no_value_of_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".deepspeed_env").write_text("GITHUB_TOKEN=hush-8\nPLAIN=seen\n")
    shell = as_shell(_start(tmp_path, monkeypatch, WANDB_API_KEY="hush-7"))
    assert "hush" not in shell and "PLAIN=seen" in shell
    assert "export WANDB_API_KEY=***" in shell and "#   GITHUB_TOKEN=***" in shell


def test_a_credential_that_is_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="--forward WANDB_API_KEY: looks like a credential") as caught:
        forwarded({"WANDB_API_KEY": "hush"}, ("WANDB_API_KEY",))
    assert "hush" not in str(caught.value)


def test_the_variables_are_for_this_user_alone_and_go_with_the_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    private = tmp_path / "launch" / VARIABLES_FILE
    private.parent.mkdir()
    private.write_text("left behind by an older version")
    private.chmod(0o644)
    script = f"stat -c %a {private} > {seen}; cat {private} >> {seen}; echo $MVD_DS_API_KEY >> {seen}"
    monkeypatch.setenv("MVD_DS_API_KEY", "hush")
    start = Start(["bash", "-c", script], {}, {}, {private: "A=1\n"}, ["MVD_DS_API_KEY"])
    options = LaunchOptions("distill", "mvd_base_from_base", ())
    with StopSignals() as stop:
        ended = LaunchAttempt(start, options, [], RunFolder(tmp_path), stop, print).run()
    assert ended.code == 0 and seen.read_text() == "600\nA=1\n\n" and not private.exists()


def test_an_attempt_that_cannot_start_leaves_no_variables(tmp_path: Path) -> None:
    private = tmp_path / VARIABLES_FILE
    start = Start(["/nowhere/deepspeed"], {}, {}, {private: "A=1\n"})
    with StopSignals() as stop, pytest.raises(FileNotFoundError):
        LaunchAttempt(start, LaunchOptions("distill", "x", ()), [], RunFolder(tmp_path), stop, print).run()
    assert not private.exists()


def test_a_user_without_a_passwd_entry_has_caches(tmp_path: Path) -> None:
    code = (
        "import getpass, os, pwd\n"
        "def missing(*a): raise KeyError('uid not found')\n"
        "pwd.getpwuid = pwd.getpwnam = missing\n"
        "from mvd_ds.tools.launch.environment import cache_folder, deepspeed_env\n"
        "from mvd_ds.tools.doctor.ssh import doctor_command\n"
        "print(cache_folder().name); deepspeed_env({}); doctor_command([])"
    )
    nameless = {name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME", "USERNAME", "LNAME", "HOME")}
    done = subprocess.run([sys.executable, "-c", code], env=nameless, capture_output=True, text=True, cwd=Path.cwd())
    assert done.stdout == f"mvd_ds-{os.getuid()}\n", done.stderr
