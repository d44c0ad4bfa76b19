"""The quickstart's own script on a user's labelled videos, shortened to a few steps; then run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launching import ROOT
from video_files import write_video

pytestmark = pytest.mark.launch
SHORT = ["schedule.steps=3", "schedule.warmup_steps=1", "run.log_every_steps=1", "run.features_every_steps=2"]


COMMAND = ["bash", str(ROOT / "launchers" / "quickstart.sh")]
ENVIRONMENT = {**os.environ, "MVD_DS_VENV": str(Path(sys.executable).parent.parent), "DS_ACCELERATOR": "cpu"}


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


def quickstart(*arguments: str) -> str:
    done = started(*arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def write_classes(folder: Path, **counts: int) -> Path:
    """A folder for each class with so many videos."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            write_video(folder / name / f"{number}.mp4", frames=20, width=64, height=48, seed=number)
    return folder


def test_from_videos_to_report_and_again(videos: Path, tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path / "out"), "--videos", str(videos / "train.txt"), *SHORT]
    said = quickstart(*arguments)
    noise = [line for line in said.splitlines() if ("deepspeed" in line.lower() and "launchers" not in line) or "WARNING" in line]
    assert not noise, noise
    assert "clips/s" in said and "left" in said
    assert said.count("Pictures and a first table: ") == 2 and said.index("first table: ") < said.index("=== 4 of 8")
    look = json.loads((tmp_path / "out" / "look_1" / "probes.json").read_text())
    assert look["probes"].keys() == {"image_teacher", "untrained_image", "pixels"} and look["comparisons"]
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
    assert again.count("is finished") == 6
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_an_interrupt_saves_and_ends_without_a_traceback(videos: Path, tmp_path: Path) -> None:
    """A terminal sends it to everything that runs in the foreground."""
    arguments = ["--output", str(tmp_path / "out"), "--videos", str(videos / "train.txt"), "schedule.steps=4000"]
    with open(tmp_path / "log", "w") as log:
        # A job in the background of a script is born deaf to this signal, and the tests may be one.
        hearing = ["env", "--default-signal=INT", *COMMAND, *arguments]
        running = subprocess.Popen(hearing, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "out/image/metrics.jsonl").exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(timeout=120) == 75
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert "SIGINT: asked all ranks to save and end" in said and "the same command goes on" in said and "Traceback" not in said
    assert (tmp_path / "out/image/checkpoints/latest").exists()


def test_nine_videos_are_enough(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "mine", cat=5, dog=4)
    quickstart("--output", str(tmp_path / "out"), "--videos", str(folder), *SHORT)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["probes"]["student"].keys() == {"label"}


@pytest.mark.parametrize(
    ("counts", "words"),
    [({"cat": 3}, "has no labels to probe"), ({"cat": 1, "dog": 1}, "clips that a probe is fitted on show a single class")],
)
def test_a_set_that_cannot_be_probed_is_refused_before_anything_is_trained(
    counts: dict[str, int], words: str, tmp_path: Path
) -> None:
    done = started("--output", str(tmp_path / "out"), "--videos", str(write_classes(tmp_path / "mine", **counts)))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("quickstart: ") and words in line
    assert not (tmp_path / "out").exists()
