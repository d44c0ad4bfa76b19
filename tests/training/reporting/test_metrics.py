"""Images, histograms and tables written to TensorBoard are read back as they were given; a full disk is reported."""

from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mvd_ds.runs.pictures import as_png
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.reporting.metrics import MetricsWriter
from mvd_ds.training.run_folder import RunFolder


def test_images_histograms_charts_and_settings(tmp_path: Path) -> None:
    writer = MetricsWriter(RunFolder(tmp_path), Cluster(0, 1, torch.device("cpu")), 0, "objective: x")
    writer.describe(("image", "video"), {"optimizer.base_lr": 0.5, "model.size": "tiny", "run.deterministic": False})
    picture = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    writer.show(7, {"pictures/clip 0": as_png(picture)}, {"features/norm_image": torch.arange(5.0)})
    writer.profile(7, "gradients/norm_by_block", [0.5, 0.25, 2.0])
    writer.write(7, {"loss/total": 1.0, "loss_relative/video": 0.5, "health/slow_ranks": 0.0, "optim/lr": 0.1})
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = board.Images("pictures/clip 0")
    assert (event.step, event.height, event.width) == (7, 6, 9)
    assert (np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) == picture).all()
    assert [part.step for part in board.Histograms("more_features/norm_image")] == [7]
    (bars,) = (event.histogram_value for event in board.Histograms("more_gradients/norm_by_block"))
    assert (list(bars.bucket_limit), list(bars.bucket)) == ([1, 2, 3], [0.5, 0.25, 2.0])
    tags = board.Tags()
    shown = sorted(tags["scalars"] + tags["images"] + tags["histograms"])
    assert [tag.partition("/")[0] for tag in shown[:2]] == ["loss", "loss_relative"], "groups are sorted; the first two are open"
    assert [event.step for event in board.Scalars("loss/total")] == [7]
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    said = (b"losses of all targets", b"over the loss of the mean", b"loss/video", b"optimizer.base_lr", b"tiny")
    assert all(word in written for word in said)


def test_a_chart_that_would_stay_empty_is_not_there(tmp_path: Path) -> None:
    writer = MetricsWriter(RunFolder(tmp_path), Cluster(0, 1, torch.device("cpu")), 0, "objective: x")
    writer.describe(("class",), {}, relative=False)
    writer.close()
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"losses of all targets" in written and b"over the loss of the mean" not in written


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    writer = MetricsWriter(RunFolder(tmp_path), Cluster(1, 2, torch.device("cpu")), 0, "objective: x")
    writer.describe(("image",), {})
    writer.show(1, {"a": b"no picture"}, {})
    writer.profile(1, "b", [1.0])
    writer.close()
    assert not list(tmp_path.iterdir())


def test_curves_that_find_no_folder_any_more_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where TensorBoard's own thread is the first to notice."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    writer = MetricsWriter(RunFolder(tmp_path), Cluster(0, 1, torch.device("cpu")), 0, "recipe")
    writer.write(1, {"loss/total": 1.0})
    writer.writers["tensorboard"].board.flush()
    shutil.rmtree(tmp_path / "tensorboard")
    with pytest.raises(OSError, match="No such file"):
        writer.write(2, {"loss/total": 1.0})
        writer.writers["tensorboard"].board.flush()
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("tensorboard."):
            thread.join(0.5)
    writer.close()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "No such file or directory; the last points of its curves are lost" in lines[0], lines
