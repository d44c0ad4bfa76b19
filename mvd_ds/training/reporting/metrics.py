"""Metrics of a run: collected on the device, written by rank 0 to metrics.jsonl and TensorBoard, and shown."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import torch

from mvd_ds.config.devices import peak_bf16_flops
from mvd_ds.files import write_text
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ending import log_error
from mvd_ds.training.run_folder import RunFolder


class Meter:
    """Sums of tensors between two log steps; nothing waits for the device until ``means``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: torch.Tensor) -> None:
        value = value.detach().float()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the mean of every name over the additions and the ranks, and start anew. Collective."""
        names = sorted(self.sums)
        if not names:
            return {}
        stacked = torch.stack([self.sums[name] / self.counts[name] for name in names])
        values = self.cluster.mean(stacked).tolist()
        self.sums, self.counts = {}, {}
        return dict(zip(names, values, strict=True))


class Stopwatch:
    """A clock of the wall time since the last reading, and of the share of it that waited for data."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.waited = 0.0

    def waiting(self, seconds: float) -> None:
        self.waited += seconds

    def leave_out(self, seconds: float) -> None:
        """Count ``seconds`` that just passed as if they had not."""
        self.started += seconds

    def read(self) -> tuple[float, float]:
        """Return (seconds, share waited) since the last reading."""
        now = time.monotonic()
        seconds = max(now - self.started, 1e-9)
        share = self.waited / seconds
        self.started, self.waited = now, 0.0
        return seconds, share


class MetricsWriter:
    """The one writer of metrics; only rank 0 has files. After a resume no metric of a step appears twice."""

    def __init__(self, folder: RunFolder, cluster: Cluster, first_step: int, recipe_text: str) -> None:
        self.folder = folder
        self.file: Any = None
        self.board: Any = None
        if not cluster.is_main:
            return
        from torch.utils.tensorboard import SummaryWriter

        _keep_until(folder.metrics, first_step)
        self.file = open(folder.metrics, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close()
        threading.excepthook = _told_by_the_writer
        # Events of steps that will be done again are purged by TensorBoard on reading.
        self.board = SummaryWriter(str(folder.tensorboard), purge_step=first_step + 1 if first_step else None)
        if not first_step:
            self.board.add_text("recipe", "```yaml\n" + recipe_text + "\n```")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write ``values`` of optimizer step ``step`` (the first is 1)."""
        if self.file is None:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def describe(self, losses: tuple[str, ...], settings: dict[str, str | float | bool], relative: bool = True) -> None:
        """Write charts that hold all ``losses``, by name, and the settings that runs are compared by.

        Args:
            relative: losses are also told as shares of what predicting the mean target costs.
        """
        if self.board is None:
            return
        from torch.utils.tensorboard.summary import hparams

        rooms = {"losses of all targets": "loss"} | ({"over the loss of the mean target": "loss_relative"} if relative else {})
        charts = {title: ["Multiline", [f"{room}/{name}" for name in losses]] for title, room in rooms.items()}
        self.board.add_custom_scalars({"losses": charts})
        for summary in hparams(settings, {"loss/total": 0.0}):
            self.board.file_writer.add_summary(summary)

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        """Write images, as PNG files, and histograms of values, by name, under step ``step``."""
        if self.board is None:
            return
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, content in images.items():
            width, height = Image.open(io.BytesIO(content)).size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
            self.board.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
        for name, part in values.items():
            self.board.add_histogram(name, part, step)
        self.board.flush()

    def profile(self, step: int, name: str, values: list[float]) -> None:
        """Draw a bar for each of ``values`` (none negative) at its place, 0 first, as a histogram whose counts they are."""
        if self.board is None or not values:
            return
        places = range(len(values))
        self.board.add_histogram_raw(
            name,
            min=0,
            max=len(values),
            num=sum(values),
            sum=sum(place * value for place, value in zip(places, values, strict=True)),
            sum_squares=sum(place * place * value for place, value in zip(places, values, strict=True)),
            bucket_limits=[place + 1 for place in places],
            bucket_counts=values,
            global_step=step,
        )

    def close(self) -> None:
        """Write what is left. A disk that refuses it is told, and takes no other reason's place."""
        if self.file is None:
            return
        for file in (self.file, self.board):
            try:
                file.close()
            except OSError as error:
                log_error(f"{self.folder.path}: {error.strerror or error}; the last points of its curves are lost")


def _told_by_the_writer(arguments: threading.ExceptHookArgs) -> None:
    """Ignore, as ``threading.excepthook``, errors of TensorBoard's thread, which are raised again where it is written to."""
    is_boards = type(arguments.thread).__module__.startswith("tensorboard.")
    if not (is_boards and issubclass(arguments.exc_type, OSError)):
        threading.__excepthook__(arguments)


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps after ``step``, and a last line that was cut."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    write_text(path, "".join(line + "\n" for line in kept))


def peak_flops(device: torch.device) -> float | None:
    """Return the bf16 FLOP/s of the device's datasheet, None if the table of devices does not know it."""
    return peak_bf16_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
