"""Three teachers at once, of other libraries and other grids: a run that was stopped goes on to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_networks import CASES, write
from launching import losses, ranks
from shrinking import RECIPE

pytestmark = pytest.mark.launch


def test_teachers_of_other_grids_resume_exactly(shrunk: list[str], tmp_path: Path) -> None:
    """V-JEPA 2 on 16 frames of its own that last twice as long, DINOv3 on frames of 40 px, and an encoder that was trained."""
    for name in ("vjepa2", "dinov3_vit"):
        write(CASES[name], tmp_path / name)
    teachers = {
        "video": {"input_frames": 16, "input_stride": 1, "time": "own_clip", "placement": "zero3"},
        "dinov3": {"network": f"hf:{tmp_path / 'dinov3_vit'}", "weights": "random", "input_px": 40},
    }
    teachers["video"] |= {"network": f"hf:{tmp_path / 'vjepa2'}", "weights": str(tmp_path / "vjepa2")}
    teachers["video"] |= {"embed_dim": 24, "position": "learned"}
    stated = [f"teachers.{name}.{key}={value}" for name, values in teachers.items() for key, value in values.items()]
    stated += [f"teachers.{name}.resize=bilinear" for name in teachers]
    common = ["distill", RECIPE, *shrunk, *stated, "schedule.steps=6", "run.save_every_steps=3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = ranks(1, *common, f"run.output={whole}")
    assert "teachers.video: sees 16 frames of its own from the moment of the student's 8, 1 of their time apart" in said
    assert "teachers.dinov3: features on its grid (4, 5, 5) are resized to the student's (4, 4, 4)" in said
    ranks(1, *common, f"run.output={cut}", "run.stop_after_steps=3")
    said = ranks(1, *common, f"run.output={cut}")
    assert "resuming from the checkpoint of step 3" in said
    for name in ("loss/total", "loss/image", "loss/video", "loss/dinov3"):
        assert losses(cut, name) == losses(whole, name) and len(losses(cut, name)) == 6, name
    expected = load_file(whole / "model" / "model.safetensors")
    found = load_file(cut / "model" / "model.safetensors")
    assert found.keys() == expected.keys() and all(found[name].equal(value) for name, value in expected.items())
