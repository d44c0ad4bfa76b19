"""This module measures a classifier on held-out videos while it trains, and keeps the best model so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import DataSettings, FinetuneRecipe
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.views import lockstep_groups, view_batches
from mvd_ds.evaluation.metrics import TOP, Accuracy, AccuracyCounter
from mvd_ds.files import counted, read_json, write_bytes, write_json
from mvd_ds.models.formats.containers import CONFIG_NAME
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
    """int64 (n,), classes as the training manifest numbers them."""
    listing: bytes = b""
    """Text of a manifest of these videos, where they were chosen from those of the training manifest; else empty."""


class ClipValidation:
    """A hook that classifies one view of every held-out video, once whatever the number of processes.

    Measured are the weights that are exported: their moving average where there is one. The model of the highest top-1 is
    kept in ``best/``, what was predicted last in ``validation.json``.

    Args:
        held_out: videos to classify.
        export: function that writes (folder name, weights, what is said beside them); called on rank 0.
        last_step: last step of the whole run; it is always validated.
        every_steps: steps between two validations.
    """

    def __init__(
        self,
        recipe: FinetuneRecipe,
        held_out: HeldOut,
        engine: Engine,
        ema: Ema,
        cluster: Cluster,
        folder: RunFolder,
        export: Export,
        every_steps: int,
        last_step: int,
    ) -> None:
        self.held_out, self.engine, self.ema, self.cluster = held_out, engine, ema, cluster
        self.folder, self.export = folder, export
        self.every_steps, self.last_step = every_steps, last_step
        self.batch = recipe.validation.batch or recipe.batch.micro
        self.best = -1.0
        self.classes = 0
        self.alive: Callable[[], None] = lambda: None

    def resume(self, first_step: int) -> None:
        """Read the best accuracy before ``first_step``; a best model of a later step will be made again. Collective."""
        best = -1.0
        config = self.folder.path / BEST / CONFIG_NAME
        if self.cluster.is_main and first_step and config.exists():
            found = read_json(config)
            best = float(found["top1"]) if found["step"] <= first_step else best
        self.best = self.cluster.broadcast(best)

    def due(self, done: int) -> bool:
        """Return whether validation runs after step ``done``."""
        return done % self.every_steps == 0 or done == self.last_step

    def __call__(self, done: int) -> dict[str, float]:
        """Return ``val/top1`` and ``val/top5`` in [0, 1] after step ``done``. Collective."""
        with self.ema.in_place_of_weights():
            accuracy = self._measure(done)
            if accuracy.top1 >= self.best:  # of equals the later: it has learnt longer
                self.best = accuracy.top1
                self._keep(done, accuracy)
        if self.cluster.is_main:
            top5 = f", top-5 {accuracy.top5:.4f}" if self.classes > TOP[-1] else ""  # of five classes it is always 1
            say(f"step {done}: top-1 {accuracy.top1:.4f}{top5} of {counted(accuracy.samples, 'held-out video')}")
        return {"val/top1": accuracy.top1, "val/top5": accuracy.top5}

    def _measure(self, done: int) -> Accuracy:
        counter, faults = AccuracyCounter(), []
        predicted: dict[int, int] = {}
        dtype = next(self.engine.module.parameters()).dtype
        groups = lockstep_groups(len(self.held_out.labels), self.batch, self.cluster.rank, self.cluster.world)
        self.engine.eval()
        with torch.no_grad():
            batches = view_batches(self.held_out.data, self.held_out.manifest, [videos for videos, _ in groups])
            for batch, (videos, counted) in zip(batches, groups, strict=True):
                self.alive()
                clip = normalise(to_unit(batch.clips[:, 0].to(self.cluster.device)), dtype)
                logits = self.engine(clip).float()
                self.classes = logits.shape[1]
                labels = torch.from_numpy(self.held_out.labels[videos]).to(logits.device)
                counter.add(logits, labels, batch.ok, torch.arange(len(videos)) < counted)
                chosen = torch.where(batch.ok, logits.argmax(1).cpu(), -1).tolist()
                predicted |= dict(zip(videos[:counted], chosen[:counted], strict=True))
                faults += batch.faults
        self.engine.train()
        accuracy = counter.merged(self.cluster.gather)
        self._record(done, accuracy, predicted, faults)
        return accuracy

    def _record(self, done: int, accuracy: Accuracy, predicted: dict[int, int], faults: list[str]) -> None:
        """Write what was predicted for each video, in the order of the manifest (-1: it could not be read). Collective."""
        parts = self.cluster.gather((predicted, faults))
        with self.cluster.together():
            if not self.cluster.is_main:
                return
            merged: dict[int, int] = {}
            for part, _ in parts:
                merged |= part
            values = {"step": done, **accuracy._asdict(), "label": self.held_out.labels.tolist()}
            values["predicted"] = [merged[video] for video in range(len(self.held_out.labels))]
            write_json(self.folder.path / PREDICTIONS, values)
            if self.held_out.listing:
                write_bytes(self.folder.path / HELD_OUT, self.held_out.listing)
            for fault in sorted({fault for _, found in parts for fault in found}):
                say(f"counted as wrong: {fault}")

    def _keep(self, done: int, accuracy: Accuracy) -> None:
        weights = full_weights(self.engine, self.cluster)
        with self.cluster.together():
            if self.cluster.is_main:
                self.export(BEST, weights, {"step": done, "top1": accuracy.top1, "top5": accuracy.top5})
