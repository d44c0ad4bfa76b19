"""Recipes of students of captions as they are, made small: resumed to the bit, and the same on two ranks as on one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launching import losses, script_ranks
from mvd_ds.runs.any_training import train_by_name

SMALL = [
    *("data.clip.frames=4", "data.clip.size_px=32", "data.clip.stride_frames=1", "data.workers=0", "model.size=null"),
    *("model.embed_dim=32", "model.depth=2", "model.num_heads=2", "model.patch_px=8", "language.embed_dim=16"),
    *("batch.micro=2", "batch.global=8", "optimizer.base_lr=0.03", "engine.precision=fp32", "schedule.epochs=null"),
    *("schedule.warmup_epochs=null", "schedule.steps=4", "schedule.warmup_steps=1", "run.log_every_steps=1"),
]
OWN = "language.text={embed_dim: 32, depth: 1, num_heads: 2, context: 96}"
RECIPES = {
    "clip_base": [OWN],
    "msclip_base": ["language.text={kind: shared, context: 96}"],
    "aclip_base": [OWN, "decoder.hidden=32", "optimizer.ema_decay=0.7"],
}

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of undisturbed runs of one process."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: train_by_name(name, [*command(name, videos), f"run.output={folder / name}"]) for name in RECIPES}


def command(name: str, videos: Path) -> list[str]:
    return [f"data.manifest={videos / 'train.jsonl'}", *SMALL, *RECIPES[name]]


@pytest.mark.parametrize("name", RECIPES)
def test_a_student_of_captions_goes_on_to_the_bit(name: str, whole: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    given = [*command(name, videos), f"run.output={tmp_path}"]
    train_by_name(name, [*given, "run.stop_after_steps=2"])
    train_by_name(name, given)
    assert losses(tmp_path) == losses(whole[name])
    assert losses(whole[name], "loss/language")[-1] != losses(whole[name], "loss/language")[0]
    for file in (whole[name] / "model").glob("*.safetensors"):
        found, wanted = load_file(tmp_path / "model" / file.name), load_file(file)
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted), file


def test_two_ranks_are_one_and_go_on(whole: dict[str, Path], videos: Path, tmp_path: Path) -> None:
    """A-CLIP, with masks of two views by the attention of its average; the two ranks stop on the way."""
    given = ["aclip_base", *command("aclip_base", videos), f"run.output={tmp_path}"]
    script_ranks(
        2,
        Path(__file__).with_name("several_runs.py"),
        json.dumps({"half": [*given, "run.stop_after_steps=2"], "on": given}),
        "{}",
    )
    for name in ("total", "average", "language"):
        assert losses(tmp_path, f"loss/{name}") == pytest.approx(losses(whole["aclip_base"], f"loss/{name}"), rel=1e-5), name
