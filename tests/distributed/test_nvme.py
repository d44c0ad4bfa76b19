"""An optimizer whose states are on a disk: losses, average and weights as in memory, saved, resumed, and taken elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from launching import launch, losses
from shrinking import RECIPE

LIBAIO = Path("/usr/include/libaio.h")
pytestmark = [
    pytest.mark.launch,
    pytest.mark.nightly,
    pytest.mark.skipif(not LIBAIO.exists(), reason=f"{LIBAIO}: DeepSpeed's reader is compiled against it; libaio-dev"),
]
#: Flat tensors below 1 MiB stay in memory: wide enough that most of the student's states go to disk, in several of them.
WIDE = ["model.embed_dim=256", "schedule.steps=8", "optimizer.ema_decay=0.8", "run.save_every_steps=4", "run.keep_last=3"]


def test_an_optimizer_on_nvme_trains_saves_and_resumes_as_one_in_memory(shrunk: list[str], tmp_path: Path) -> None:
    """Stopped in the middle, a run goes on on NVMe, and a copy of it in memory."""
    disk = tmp_path / "disk"
    common = [*shrunk, *WIDE, "engine.precision=bf16"]
    on_disk = [*common, "engine.config=zero3_nvme.json", f"engine.nvme_folder={disk}"]
    in_memory = [*common, "engine.config=zero3_offload.json"]
    launch(2, "distill", RECIPE, *in_memory, f"run.output={tmp_path / 'memory'}")
    launch(2, "distill", RECIPE, *on_disk, f"run.output={tmp_path / 'nvme'}", timeout=900)
    assert losses(tmp_path / "nvme") == losses(tmp_path / "memory")

    launch(2, "distill", RECIPE, *on_disk, f"run.output={tmp_path / 'cut'}", "run.stop_after_steps=4")
    assert not list(disk.glob("*")), "states on disk are removed at the end"
    files = [path.name for path in (tmp_path / "cut" / "checkpoints" / "step-00000004").iterdir()]
    assert "offloaded_tensors" not in files
    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    launch(2, "distill", RECIPE, *on_disk, f"run.output={tmp_path / 'cut'}")
    launch(2, "distill", RECIPE, *in_memory, f"run.output={tmp_path / 'moved'}")
    assert losses(tmp_path / "cut") == losses(tmp_path / "moved") == losses(tmp_path / "memory")
    runs = ("memory", "nvme", "cut", "moved")
    expected, *found = (load_file(tmp_path / run / "model" / "model.safetensors") for run in runs)
    for weights in found:
        assert weights.keys() == expected.keys()
        assert all(weights[name].equal(value) for name, value in expected.items())
