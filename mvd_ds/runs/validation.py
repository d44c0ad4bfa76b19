"""This module measures a network on held-out videos while it trains, and keeps the best model so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import DataSettings, FinetuneRecipe
from mvd_ds.config.tasks import CLASSES
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.views import lockstep_groups, view_batches
from mvd_ds.files import read_json, write_bytes, write_json
from mvd_ds.models.classifiers.classifier_folder import ClassifierCard
from mvd_ds.models.formats.containers import CONFIG_NAME
from mvd_ds.runs.tasks import TASKS
from mvd_ds.runs.tasks.task import Figures
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.ema import Ema
from mvd_ds.training.engine.deepspeed_engine import full_weights
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import normalise, to_unit

BEST, PREDICTIONS, HELD_OUT = "best", "validation.json", "held_out.txt"
Export = Callable[[str, dict[str, Tensor], dict[str, Any]], None]


class HeldOut(NamedTuple):
    """Videos that are never trained on."""

    data: DataSettings
    manifest: Manifest
    labels: np.ndarray
    """Labels (n, ...) of the task; classes are numbered as in the training manifest."""
    listing: bytes = b""
    """Text of a manifest of these videos, where they were chosen from those of the training manifest; else empty."""


class ClipValidation:
    """A hook that measures one view of every held-out video, once whatever the number of processes.

    Measured are the weights that are exported: their moving average where there is one. The best model so far is kept in
    ``best/``, what was predicted last in ``validation.json``.

    Args:
        held_out: videos to look at.
        card: task and classes of the network.
        export: function that writes (folder name, weights, what is said beside them); called on rank 0.
        last_step: last step of the whole run; it is always validated.
        every_steps: steps between two validations.
    """

    def __init__(
        self,
        recipe: FinetuneRecipe,
        held_out: HeldOut,
        card: ClassifierCard,
        engine: Engine,
        ema: Ema,
        cluster: Cluster,
        folder: RunFolder,
        export: Export,
        every_steps: int,
        last_step: int,
    ) -> None:
        self.held_out, self.engine, self.ema, self.cluster = held_out, engine, ema, cluster
        self.card, self.task = card, TASKS[card.task]
        self.folder, self.export = folder, export
        self.every_steps, self.last_step = every_steps, last_step
        self.batch = recipe.validation.batch or recipe.batch.micro
        self.best = -math.inf
        self.alive: Callable[[], None] = lambda: None

    def resume(self, first_step: int) -> None:
        """Read the best score before ``first_step``; a best model of a later step will be made again. Collective."""
        best = -math.inf
        config = self.folder.path / BEST / CONFIG_NAME
        if self.cluster.is_main and first_step and config.exists():
            found = read_json(config)
            best = self.task.score(found) if found["step"] <= first_step else best
        self.best = self.cluster.broadcast(best)

    def due(self, done: int) -> bool:
        """Return whether validation runs after step ``done``."""
        return done % self.every_steps == 0 or done == self.last_step

    def __call__(self, done: int) -> dict[str, float]:
        """Return the task's figures after step ``done``, as ``val/top1`` and ``val/top5`` in [0, 1]. Collective."""
        with self.ema.in_place_of_weights():
            found = self._measure(done)
            score = self.task.score(found.values)
            if score >= self.best:  # of equals the later: it has learnt longer
                self.best = score
                self._keep(done, found)
        if self.cluster.is_main:
            say(f"step {done}: {found.words}")
        return {f"val/{name}": value for name, value in found.values.items()}

    def _measure(self, done: int) -> Figures:
        measure, faults = self.task.measure(self.card, self.held_out.labels), list[str]()
        dtype = next(self.engine.module.parameters()).dtype
        groups = lockstep_groups(len(self.held_out.labels), self.batch, self.cluster.rank, self.cluster.world)
        self.engine.eval()
        with torch.no_grad():
            batches = view_batches(self.held_out.data, self.held_out.manifest, [videos for videos, _ in groups])
            for batch, (videos, counted) in zip(batches, groups, strict=True):
                self.alive()
                clip = normalise(to_unit(batch.clips[:, 0].to(self.cluster.device)), dtype)
                outputs = self.engine(clip).float()
                measure.add(outputs[:counted], videos[:counted], batch.ok[:counted])
                faults += batch.faults
        self.engine.train()
        found = measure.merged(self.cluster.gather)
        self._record(done, found, faults)
        return found

    def _record(self, done: int, found: Figures, faults: list[str]) -> None:
        """Write what was predicted for each video, in the order of the manifest. Collective."""
        parts = self.cluster.gather(faults)
        with self.cluster.together():
            if not self.cluster.is_main:
                return
            values = {"step": done, **found.values, "samples": found.samples, "label": self.held_out.labels.tolist()}
            task = {} if self.card.task == CLASSES else {"task": self.card.task}
            write_json(self.folder.path / PREDICTIONS, {**task, **values, "predicted": found.predicted})
            if self.held_out.listing:
                write_bytes(self.folder.path / HELD_OUT, self.held_out.listing)
            for fault in sorted({fault for listed in parts for fault in listed}):
                say(f"{self.task.unreadable}: {fault}")

    def _keep(self, done: int, found: Figures) -> None:
        weights = full_weights(self.engine, self.cluster)
        with self.cluster.together():
            if self.cluster.is_main:
                self.export(BEST, weights, {"step": done, **found.values})
