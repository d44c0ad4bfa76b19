"""Train, save and resume as a user does, through the command line and the launcher, in deterministic mode: equal to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from mvd_ds.tools.prove.record import Record
from mvd_ds.tools.prove.small_recipe import NETWORK

STEPS = 6
SETTINGS = [
    *(f"{part}.{item}" for part in ("model", "teachers.image", "teachers.video") for item in NETWORK),
    *("decoder.embed_dim=128", "decoder.num_heads=2", "teachers.image.weights=random", "teachers.video.weights=random"),
    *("schedule.warmup_steps=1", f"schedule.steps={STEPS}", "run.deterministic=true", "run.log_every_steps=1"),
    *("run.pictures_every_steps=0", "run.probe_every_steps=0", "data.workers=1", "batch.global=16"),
]


def run(record: Record, device: torch.device) -> None:
    """Check that a run in two halves has the losses and weights of a run in one."""
    try:
        import av  # noqa: F401 - writes and reads the videos
    except ImportError:
        record.skip("train, save and resume", "the package av, which reads videos, is not installed")
        return
    with tempfile.TemporaryDirectory(prefix="mvd_ds-prove-") as place:
        folder = Path(place)
        _call(record, device, folder, "synthesize", str(folder / "videos"), "--train", "32", "--val", "2", "--frames", "12")
        whole = _train(record, device, folder, "whole", "run.save_every_steps=100")
        _train(record, device, folder, "halves", f"run.save_every_steps={STEPS // 2}", "run.stop_after_steps=3")
        halves = _train(record, device, folder, "halves", f"run.save_every_steps={STEPS // 2}")
        record.require("losses of a resumed run are those of one that never stopped", _losses(whole) == _losses(halves))
        ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (whole, halves))
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        record.require("weights of a resumed run are those of one that never stopped, to the bit", same)


def _train(record: Record, device: torch.device, folder: Path, name: str, *more: str) -> Path:
    output = folder / name
    micro = f"batch.micro={16 // _processes(device)}"
    manifest = f"data.manifest={folder / 'videos' / 'train.txt'}"
    arguments = ["distill", "quickstart_distill", *SETTINGS, micro, manifest, f"run.output={output}", *more]
    _call(record, device, folder, *arguments, launched=True)
    return output


def _processes(device: torch.device) -> int:
    """Return how many processes train: as many as GPUs in powers of two up to eight, or one on a CPU."""
    return max(count for count in (1, 2, 4, 8) if count <= torch.cuda.device_count()) if device.type == "cuda" else 1


def _call(record: Record, device: torch.device, folder: Path, *arguments: str, launched: bool = False) -> None:
    """Run a command of the product; its log is kept in the answer where it fails."""
    environment = {**os.environ, "DS_ACCELERATOR": device.type, "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "mvd_ds"]
    if launched and device.type == "cuda":
        command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(_processes(device)), "--module", "mvd_ds"]
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=max(record.seconds_left(), 1)
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {last}")


def _losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss/total"] for row in rows if "loss/total" in row}
