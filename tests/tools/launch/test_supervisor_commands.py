"""Commands that save nothing are launched too: they use all processes, and a stop ends them at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from classifiers import write_classifier
from launching import ROOT, cpu_environment

pytestmark = pytest.mark.launch


def _command(tmp_path: Path, videos: Path, *settings: str) -> list[str]:
    write_classifier(tmp_path / "model #1")
    inputs = [f"weights={tmp_path / 'model #1'}", f"data.manifest={videos / 'val.txt'}", f"run.output={tmp_path / 'run #1'}"]
    launch = [sys.executable, "-m", "mvd_ds", "launch", "--processes", "2", "--restarts", "0"]
    return [*launch, "evaluate", "evaluate_2x3", "label=how", "data.workers=1", *inputs, *settings]


def test_evaluate_is_launched_and_stopped(videos: Path, tmp_path: Path) -> None:
    environment = cpu_environment()
    endless = _command(tmp_path, videos, "views.segments=2000")
    running = subprocess.Popen(endless, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run #1" / "recipe.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(running.pid, signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 75, errors
    assert "asked all ranks to save and end within 1 s" in errors and "the same command goes on" in errors
    again = subprocess.run(
        _command(tmp_path, videos, f"run.output={tmp_path / 'whole'}"),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads((tmp_path / "whole" / "status.json").read_text())["state"] == "finished"
    assert (tmp_path / "whole" / "predictions.csv").read_text().count("\n") == 17
    assert not (tmp_path / "whole" / "launch" / "deepspeed_env").exists()
