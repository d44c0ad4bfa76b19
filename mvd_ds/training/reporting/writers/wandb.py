"""Metrics for Weights & Biases. Project, entity and mode are those of its own environment variables."""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any

from mvd_ds.training.reporting.writers.writer import WrittenRun


class WeightsAndBiases:
    """A writer of one run of Weights & Biases, which a resume continues."""

    def __init__(self, run: WrittenRun) -> None:
        """Begin the run, or continue the one of the same folder."""
        import wandb

        self.wandb = wandb
        name = hashlib.sha256(str(run.folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        project = os.environ.get("WANDB_PROJECT", "mvd_ds")
        self.run = wandb.init(
            project=project,
            name=run.folder.name,
            id=name,
            resume="allow",
            dir=str(run.folder),
            settings=wandb.Settings(quiet=True),  # at its end it prints every metric again: 40 lines of the log
        )
        # Steps that are done again after a resume would be refused as its own step; as an axis they overwrite.
        self.run.define_metric("*", step_metric="step")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the values."""
        self.run.log({"step": step, **values})

    def describe(self, losses: tuple[str, ...], settings: dict[str, str | float | bool], relative: bool) -> None:
        """Log the settings as the run's config."""
        self.run.config.update(settings, allow_val_change=True)

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        """Log images and histograms."""
        from PIL import Image

        pictures = {name: self.wandb.Image(Image.open(io.BytesIO(content))) for name, content in images.items()}
        histograms = {name: self.wandb.Histogram(part.float().cpu().numpy()) for name, part in values.items()}
        self.run.log({"step": step, **pictures, **histograms})

    def profile(self, step: int, name: str, values: list[float]) -> None:
        """Log the bars as a histogram whose counts they are."""
        if values:
            bars = self.wandb.Histogram(np_histogram=(values, list(range(len(values) + 1))))
            self.run.log({"step": step, name: bars})

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()
