"""The page about own videos: every command of it, on thirty clips of three classes, in the order of the page."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import mvd_ds
from launching import ROOT, cpu_environment
from test_readme import lines_of

pytestmark = pytest.mark.launch
PAGE = ROOT / "mvd_ds" / "recipes" / "finetune" / "README.md"
CLASSES = ("bird", "cat", "dog")
SHORTER = ["schedule.epochs=20", "data.workers=2"]


def drawn(kind: str, frame: int, drawing: dict[str, float]) -> np.ndarray:
    """uint8 (120, 160, 3): a red disc that circles, a green square that pulses, or blue stripes that fall."""
    y, x = np.mgrid[:120, :160]
    picture = np.full((120, 160, 3), drawing["ground"])
    turn = 2 * np.pi * frame / 24 * drawing["speed"] + drawing["phase"]
    if kind == "bird":
        picture[(x - 80 - 45 * np.cos(turn)) ** 2 + (y - 60 - 35 * np.sin(turn)) ** 2 < 200] = (220, 60, 40)
    elif kind == "cat":
        picture[np.maximum(abs(x - 80), abs(y - 60)) < 18 + 14 * np.sin(turn)] = (40, 200, 80)
    else:
        picture[(y - frame * 4 * drawing["speed"]) % 40 < 12] = (70, 60, 220)
    return (picture + np.random.default_rng(frame).normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)


def write_folders(folder: Path, count: int) -> None:
    """Write ``count`` H.264 clips of two seconds into a folder for each class."""
    generator = np.random.default_rng(0)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            ranges = {"ground": (60, 180), "speed": (0.7, 1.4), "phase": (0, 6)}
            drawing = {key: float(generator.uniform(*pair)) for key, pair in ranges.items()}
            with av.open(str(folder / kind / f"{number}.mp4"), "w") as output:
                stream = output.add_stream("libx264", rate=24)
                stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
                for frame in range(48):
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(kind, frame, drawing), format="rgb24")))
                output.mux(stream.encode())


def test_from_folders_to_a_classifier_that_names_a_video(tmp_path: Path) -> None:
    write_folders(tmp_path / "my_videos", 10)
    encoder = {"size": "tiny", "patch_px": 12}
    student = mvd_ds.build_student(encoder=encoder, decoder={"depth": 1}, targets={"image": 128}, frames=12, size_px=48)
    mvd_ds.save(student, tmp_path / "runs" / "quickstart" / "student" / "model", "mvd_ds")
    said = ""
    # Behind these are those of other tasks, which runs/tasks/test_task.py runs.
    commands = [line for line in lines_of(PAGE) if line.startswith("python ")][:4]
    assert [shlex.split(line)[3] for line in commands] == ["finetune", "evaluate", "export", "classify"]
    for line in commands:
        words = [sys.executable, *shlex.split(line)[1:]]
        words += SHORTER if words[3] == "finetune" else []
        environment = {**cpu_environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        said += done.stdout
    assert "batch.global 16, schedule.epochs 20, learning rate 0.0005 at its peak" in said
    assert (tmp_path / "runs" / "pets" / "held_out.txt").read_text().count(".mp4\t") == 6
    config = json.loads((tmp_path / "runs" / "pets" / "best" / "config.json").read_text())
    assert config["top1"] > 0.8 and config["classes"] == list(CLASSES)
    assert "my_videos/cat/0.mp4" in said and "cat" in said.split("my_videos/cat/0.mp4")[1]
