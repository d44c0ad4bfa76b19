"""Pictures and probes while training change nothing, are there, and show what their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launching import launch, losses, metrics
from mvd_ds.files import read_json
from shrinking import RECIPE, STEPS

pytestmark = pytest.mark.launch


def test_pictures_under_zero3_leave_the_losses_as_they_are(run: Path, shrunk: list[str], tmp_path: Path) -> None:
    settings = ["optimizer.ema_decay=0.9", "run.pictures_every_steps=8", "run.picture_clips=2", f"run.output={tmp_path}"]
    settings += ["run.probe_every_steps=8", "run.probe_clips=63"]
    launch(2, "distill", RECIPE, *shrunk, *settings)
    assert losses(tmp_path) == losses(run), "equal to the last bit"
    assert [line["step"] for line in metrics(tmp_path) if "perf/pictures_seconds" in line] == [8, 16, STEPS]
    taken = sorted((tmp_path / "pictures").iterdir())
    assert [folder.name for folder in taken] == [f"step-{step:08}" for step in (8, 16, STEPS)]
    names = ["clip-0.png", "clip-1.png", "numbers.json", "similarity-across-frames.png"]
    assert all(sorted(path.name for path in folder.iterdir()) == names for folder in taken)
    first, last = (np.asarray(Image.open(folder / "clip-0.png")) for folder in (taken[0], taken[-1]))
    assert first.shape == last.shape and (first != last).any(), "the network learned"
    numbers = [read_json(folder / "numbers.json")["similarity"] for folder in taken]
    assert {name: len(layers) for name, layers in numbers[0].items()} == {"image": 3, "video": 3, "student": 3}
    assert numbers[0]["image"] == numbers[-1]["image"], "teachers are frozen"
    assert numbers[0]["student"] != numbers[-1]["student"]
    probed = {line["step"]: line for line in metrics(tmp_path) if "probe/what_top1" in line}
    assert list(probed) == [8, 16]
    # Of 63 clips, on two ranks that pad their last batches: what is counted twice or not at all is no multiple of 1/63.
    for name in ("what", "how"):
        assert 63 * probed[8][f"probe/{name}_top1"] == pytest.approx(round(63 * probed[8][f"probe/{name}_top1"]), abs=1e-6)
    norms = read_json(taken[-1] / "numbers.json")["gradient_norm"]
    assert list(norms) == [f"encoder {i}" for i in range(3)] + [f"{name} {i}" for name in ("image", "video") for i in range(2)]
    assert all(norm > 0 for norm in norms.values())
    told = metrics(tmp_path)[-1]["optim/gradient_norm"]
    assert 0.3 * told < sum(norm**2 for norm in norms.values()) ** 0.5 < 3 * told
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {f"pictures/{name}" for name in ("clip 0", "clip 1", "similarity across frames")} == set(board.Tags()["images"])
    assert [event.step for event in board.Images("pictures/clip 0")] == [8, 16, STEPS]
    assert {f"more_features/{kind}_{name}" for kind in ("norm", "predicted_norm") for name in ("image", "video")} <= set(
        board.Tags()["distributions"]
    )
    text = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"losses of all targets" in text and b"optimizer.base_lr" in text
