"""The quickstart's own script on a user's labelled videos, shortened to a few steps; then run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launching import ROOT

pytestmark = pytest.mark.launch


def quickstart(*arguments: str) -> str:
    environment = {**os.environ, "MVD_DS_VENV": str(Path(sys.executable).parent.parent), "DS_ACCELERATOR": "cpu"}
    command = ["bash", str(ROOT / "launchers" / "quickstart.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_from_videos_to_report_and_again(videos: Path, tmp_path: Path) -> None:
    short = ["schedule.steps=3", "schedule.warmup_steps=1", "run.log_every_steps=1", "run.features_every_steps=2"]
    arguments = ["--output", str(tmp_path / "out"), "--videos", str(videos / "train.txt"), *short]
    said = quickstart(*arguments)
    noise = [line for line in said.splitlines() if ("deepspeed" in line.lower() and "launchers" not in line) or "WARNING" in line]
    assert not noise, noise
    assert "clips/s" in said and "left" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    models = {
        "image_teacher",
        "video_teacher",
        "student",
        "untrained",
        "untrained_image",
        "one_frame",
        "shuffled_frames",
        "pixels",
    }
    assert report["probes"].keys() == models
    assert all(0 <= report["probes"][model][label] <= 1 for model in models for label in ("what", "how"))
    assert report["chance"].keys() == {"what", "how"} and report["losses"] and report["seconds"]
    assert "<html" in (tmp_path / "out" / "report.html").read_text()[:2000].lower()
    for stage in ("image", "video", "student"):
        assert (tmp_path / "out" / stage / "model" / "model.safetensors").exists()
        assert list((tmp_path / "out" / stage / "tensorboard").iterdir())
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/model/model.safetensors")}
    again = quickstart(*arguments)
    assert again.count("is finished") == 4
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
