"""The first command for a cluster: a student learns from MAE and VideoMAE files as their authors publish them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import published
from launching import ROOT, alone, metrics
from shrinking import shrink

pytestmark = pytest.mark.launch
SHAPES = {"image": published.IMAGE, "video": published.VIDEO}


def test_the_command_of_the_first_page_takes_downloaded_files(videos: Path, tmp_path: Path) -> None:
    command = next(line for line in (ROOT / "README.md").read_text().splitlines() if "teachers.image.weights=" in line)
    recipe, *given = re.sub(r".* distill ", "", command).split()
    keys = [text.partition("=")[0] for text in given]
    assert recipe == "mvd_large_from_large" and keys == ["data.manifest", "teachers.image.weights", "teachers.video.weights"]
    torch.save({"model": published.mae()}, tmp_path / "image")
    torch.save({"model": published.videomae()}, tmp_path / "video")
    shapes = [
        f"teachers.{name}.{key}={value}"
        for name, shape in SHAPES.items()
        for key, value in zip(("embed_dim", "depth", "num_heads"), shape[:3], strict=True)
    ]
    shapes += [f"teachers.{name}.mlp_ratio=2.5" for name in SHAPES]
    clip = [f"data.clip.frames={published.FRAMES}", f"data.clip.size_px={published.SIDE}", "masking.ratio=0.6"]
    length = ["schedule.steps=2", "schedule.warmup_steps=1", f"run.output={tmp_path / 'run'}"]
    said = alone("distill", recipe, *shrink(videos, tmp_path), *shapes, *clip, *length).stdout
    assert "mae" in said and "videomae" in said
    assert metrics(tmp_path / "run")[-1]["step"] == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
