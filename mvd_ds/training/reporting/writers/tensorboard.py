"""Metrics for TensorBoard, in ``tensorboard/`` of the run."""

from __future__ import annotations

import io
import threading
from typing import Any

from mvd_ds.training.reporting.writers.writer import WrittenRun

#: The group that TensorBoard is to show first.
FIRST_GROUP = "loss"


class TensorBoard:
    """A writer of TensorBoard's event files."""

    def __init__(self, run: WrittenRun) -> None:
        """Begin a file; TensorBoard purges events of steps that will be done again when it reads them, or of a run begun anew."""
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _told_by_the_writer
        self.board: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.first_step + bool(run.first_step))
        if not run.first_step:
            self.board.add_text("recipe", "```yaml\n" + run.recipe + "\n```")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write scalars."""
        for name, value in values.items():
            self.board.add_scalar(_tag(name), value, step)

    def describe(self, losses: tuple[str, ...], settings: dict[str, str | float | bool], relative: bool) -> None:
        """Write charts that hold all losses, and the table of hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        rooms = {"losses of all targets": "loss"} | ({"over the loss of the mean target": "loss_relative"} if relative else {})
        charts = {title: ["Multiline", [f"{room}/{name}" for name in losses]] for title, room in rooms.items()}
        self.board.add_custom_scalars({"losses": charts})
        for summary in hparams(settings, {"loss/total": 0.0}):
            self.board.file_writer.add_summary(summary)

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        """Write images as they are, and histograms."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, content in images.items():
            width, height = Image.open(io.BytesIO(content)).size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
            self.board.file_writer.add_summary(Summary(value=[Summary.Value(tag=_tag(name), image=image)]), step)
        for name, part in values.items():
            self.board.add_histogram(_tag(name), part, step)
        self.board.flush()

    def profile(self, step: int, name: str, values: list[float]) -> None:
        """Draw the bars as a histogram whose counts they are."""
        if not values:
            return
        places = range(len(values))
        self.board.add_histogram_raw(
            _tag(name),
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
        """Write what is left."""
        self.board.close()


def _tag(name: str) -> str:
    """Return the tag of a metric. TensorBoard sorts groups by name and opens the first two: these are to be the losses."""
    return name if name >= FIRST_GROUP else f"more_{name}"


def _told_by_the_writer(arguments: threading.ExceptHookArgs) -> None:
    """Ignore, as ``threading.excepthook``, errors of TensorBoard's thread, which are raised again where it is written to."""
    is_boards = type(arguments.thread).__module__.startswith("tensorboard.")
    if not (is_boards and issubclass(arguments.exc_type, OSError)):
        threading.__excepthook__(arguments)
