"""This module draws what the class queries of a classifier look at while it is fine-tuned (``pooling.kind: attention``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import FinetuneRecipe
from mvd_ds.data.evaluation import evaluation_batches
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.evaluation.pictures import clip_film, heat_film
from mvd_ds.evaluation.sheets import BRIGHTEST, Sheet, still
from mvd_ds.files import one_line
from mvd_ds.models.classifiers.class_attention import PatchMaps
from mvd_ds.runs.pictures import CELL_PX, NAME_LETTERS, PictureHook, as_png, clip_name, describe_clip, write_pictures
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.protocols import Objective
from mvd_ds.training.reporting.metrics import MetricsWriter
from mvd_ds.training.run_folder import RunFolder
from mvd_ds.training.step import normalise, to_unit


class PoolingPictures(PictureHook):
    """A hook that draws the attention of the class queries to the patches of a few clips, for TensorBoard and ``pictures/``.

    Args:
        engine: around the Classifier that is trained, which pools by attention.
        classes: names of the classes.
        manifest, last_step: see ``PictureHook``.
    """

    recipe: FinetuneRecipe

    def __init__(
        self,
        recipe: FinetuneRecipe,
        folder: RunFolder,
        cluster: Cluster,
        engine: Engine,
        manifest: Manifest,
        classes: Sequence[str],
        last_step: int,
    ) -> None:
        super().__init__(recipe, folder, cluster, manifest, last_step)
        self.engine, self.classes = engine, classes
        self.clips: Tensor | None = None

    def __call__(self, done: int, objective: Objective, writer: MetricsWriter, gradients: dict[str, float]) -> None:
        """Take, draw and write the pictures of step ``done``."""
        self.clips = self._read() if self.clips is None else self.clips
        maps, likeliest = self._look(self.clips)
        with self.cluster.together():
            if not self.cluster.is_main:
                return
            clips = [describe_clip(self.manifest, video) for video in self.videos]
            sheets = {f"clip {place}": self._sheet(place, clips[place], maps, likeliest) for place in range(len(clips))}
            images = {name: as_png(still(sheet, CELL_PX)) for name, sheet in sheets.items()}
            writer.show(done, {f"pictures/{name}": image for name, image in images.items()}, {})
            write_pictures(self.folder.pictures / f"step-{done:08}", images, {"step": done, "clips": clips})

    def _read(self) -> Tensor:
        """Return the clips uint8 (B, C, T, H, W); a video that cannot be read is black, and named."""
        data, faults = self.recipe.data.model_copy(update={"workers": min(self.recipe.data.workers, 1)}), list[str]()
        clip = data.clip
        batches = evaluation_batches(data, self.manifest, len(self.videos), clip.frames, clip.size_px, self.videos, faults)
        clips = torch.cat([part.clone() for part, _, _ in batches])
        if self.cluster.is_main:
            for fault in faults:
                say(f"black in the pictures: {fault}")
        return clips

    @torch.no_grad()
    def _look(self, clips: Tensor) -> tuple[np.ndarray, list[int]]:
        """Return the attention to the patches, fp32 (B, queries, N), and the likeliest class of each clip."""
        network = self.engine.module
        pixels = normalise(to_unit(clips.to(self.cluster.device)), next(network.parameters()).dtype)
        self.engine.eval()
        with PatchMaps(network.pooling.attention) as maps:
            logits = self.engine(pixels)
        self.engine.train()
        assert maps.value is not None
        return maps.value.float().cpu().numpy(), logits.argmax(dim=1).tolist()

    def _sheet(self, place: int, clip: dict[str, Any], maps: np.ndarray, likeliest: list[int]) -> Sheet:
        """Return the clip, and below it the map of its query: that of the likeliest class where each class has one."""
        assert self.clips is not None
        grid, name = self.recipe.grid, one_line(self.classes[likeliest[place]], NAME_LETTERS // 2)
        per_class = self.recipe.pooling.queries == "class"
        values = maps[place, likeliest[place] if per_class else 0]
        high = float(np.percentile(values, BRIGHTEST))
        row = f"attention of class {name}, the likeliest" if per_class else f"attention of the class query; likeliest is {name}"
        if len(layers := self.recipe.pooling.layers) > 1:  # the map is that of the first
            row += f"; to block {layers[0]}"
        film = clip_film(self.clips[place], grid[0])
        return {f"clip: {clip_name(clip)}": film, row: heat_film(values, grid, film.shape[1], high)}


def plan_pooling_pictures(recipe: FinetuneRecipe, training: Manifest, held_out: Manifest | None) -> Manifest | None:
    """Return the manifest of the videos to draw, or None if there is no map or no picture is wanted.

    Args:
        training: first manifest that is trained on.
        held_out: that of the validation, which is drawn from where there is one and the recipe names no other.

    Raises:
        ConfigError: if ``run.picture_manifest`` is faulty.
    """
    if recipe.pooling.kind != "attention" or not recipe.run.pictures_every_steps:
        return None
    if recipe.run.picture_manifest is not None:
        return read_manifest(recipe.run.picture_manifest, setting="run.picture_manifest")
    return held_out or training
