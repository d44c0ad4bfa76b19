"""The metrics of a run, collected on the device and given by rank 0 to all writers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mvd_ds.config.devices import peak_bf16_flops
from mvd_ds.files import ConfigError, one_line
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ending import log_error
from mvd_ds.training.reporting.writers.table import ALWAYS, WRITERS
from mvd_ds.training.reporting.writers.writer import Writer, WrittenRun
from mvd_ds.training.run_folder import RunFolder

#: Letters of a service's message when it refuses: MLflow's longest has its remedy in the last line of 560.
MESSAGE_LETTERS = 700


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
    """The writers of a run's metrics as one; only rank 0 has any. After a resume no metric of a step appears twice.

    MLflow is the exception. A writer to a service that fails is dropped with one line; one to the run's folder ends the
    run, as a full disk does.
    """

    def __init__(
        self, folder: RunFolder, cluster: Cluster, first_step: int, recipe_text: str, names: Sequence[str] = ("tensorboard",)
    ) -> None:
        """Start the writers on rank 0.

        Args:
            folder: the run's folder.
            cluster: its processes.
            first_step: optimizer steps done before.
            recipe_text: the resolved recipe as YAML.
            names: of ``WRITERS``; ``jsonl`` is always among them.

        Raises:
            ConfigError: in one line, if a service refuses; on rank 0.
        """
        self.folder = folder
        self.writers: dict[str, Writer] = {}
        if not cluster.is_main:
            return
        run = WrittenRun(folder.path, folder.metrics, first_step, recipe_text)
        for name in dict.fromkeys([ALWAYS, *names]):
            try:
                self.writers[name] = WRITERS[name].start(run)
            except Exception as error:
                self.close()
                if WRITERS[name].package is None:
                    raise
                raise ConfigError(f"run.writers {name}: cannot begin: {one_line(error, MESSAGE_LETTERS)}") from None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write ``values`` of optimizer step ``step`` (the first is 1)."""
        self._each(lambda writer: writer.write(step, values))

    def describe(self, losses: tuple[str, ...], settings: dict[str, str | float | bool], relative: bool = True) -> None:
        """Write the names of the losses and the settings that runs are compared by, as ``Writer.describe``."""
        self._each(lambda writer: writer.describe(losses, settings, relative))

    def show(self, step: int, images: dict[str, bytes], values: dict[str, Any]) -> None:
        """Write images, as PNG files, and histograms of values, by name, under step ``step``."""
        self._each(lambda writer: writer.show(step, images, values))

    def profile(self, step: int, name: str, values: list[float]) -> None:
        """Write a bar for each of ``values`` (none negative) at its place, 0 first."""
        self._each(lambda writer: writer.profile(step, name, values))

    def close(self) -> None:
        """Write what is left. A disk that refuses it is reported, and takes no other reason's place."""
        for name, writer in self.writers.items():
            try:
                writer.close()
            except OSError as error:
                log_error(f"{self.folder.path}: {error.strerror or error}; the last points of its curves are lost")
            except Exception as error:
                log_error(f"run.writers {name}: {one_line(error, 200)}; its last points are lost")

    def _each(self, act: Callable[[Writer], None]) -> None:
        for name, writer in list(self.writers.items()):
            try:
                act(writer)
            except Exception as error:
                if WRITERS[name].package is None:
                    raise
                del self.writers[name]
                log_error(f"run.writers {name}: {one_line(error, 200)}; the run goes on without it")


def peak_flops(device: torch.device) -> float | None:
    """Return the bf16 FLOP/s of the device's datasheet, None if the table of devices does not know it."""
    return peak_bf16_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
