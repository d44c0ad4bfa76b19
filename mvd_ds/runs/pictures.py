"""This module draws what a network makes of the same few clips while it trains."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mvd_ds.config import ClipView, ConfigError, LearningRecipe, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.evaluation import evaluation_batches
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.evaluation.pictures import across_frames
from mvd_ds.evaluation.sheets import Observed, Sheet, clip_sheets, joined, similarity_sheet, still
from mvd_ds.files import folder_written_aside, one_line, write_json
from mvd_ds.runs.visualization import observe, picture_batch
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.engine.protocol import Engine
from mvd_ds.training.protocols import Objective
from mvd_ds.training.reporting.metrics import MetricsWriter
from mvd_ds.training.run_folder import RunFolder

#: Side of an image in a sheet: 8 slots of 224 px are a page of 800 px and some 300 kB.
CELL_PX = 96
NUMBERS = "numbers.json"
#: Letters of a clip's name in its picture: a path of any length would make the picture as wide.
NAME_LETTERS = 70


class PictureHook:
    """A hook that draws a few clips of different classes every so many steps.

    Every rank reads the same clips and runs the same forwards, so that sharded weights can be gathered; rank 0 draws.

    Args:
        manifest: manifest whose videos are taken: ``chosen_videos`` of it, ``run.picture_clips`` of them.
        last_step: last step of the whole run; pictures are taken there, too.
    """

    def __init__(self, recipe: LearningRecipe, folder: RunFolder, cluster: Cluster, manifest: Manifest, last_step: int) -> None:
        self.recipe, self.folder, self.cluster = recipe, folder, cluster
        self.manifest, self.last_step = manifest, last_step
        self.videos = chosen_videos(manifest, recipe.run.picture_clips)

    def due(self, done: int) -> bool:
        """Return whether pictures are due after step ``done``: every so many steps, and at the end."""
        every = self.recipe.run.pictures_every_steps
        return every > 0 and (done % every == 0 or done == self.last_step)


class ClipPictures(PictureHook):
    """A hook that draws what a network makes of masked clips, which are read once; see ``PictureHook``."""

    recipe: TrainingRecipe

    @cached_property
    def batch(self) -> ClipBatch:
        """The batch of clips; a video that cannot be read is black, and named."""
        views, faults = read_clips(self.recipe, self.manifest, self.videos)
        if self.cluster.is_main:
            for fault in faults:
                say(f"black in the pictures: {fault}")
        return picture_batch(self.recipe, views)


class TrainingPictures(ClipPictures):
    """The hook that draws what a student sees and predicts, for TensorBoard and ``pictures/``.

    Args:
        engine: around the MaskedPredictor that is trained.
        manifest, last_step: see ``PictureHook``.
    """

    def __init__(
        self, recipe: TrainingRecipe, folder: RunFolder, cluster: Cluster, engine: Engine, manifest: Manifest, last_step: int
    ) -> None:
        super().__init__(recipe, folder, cluster, manifest, last_step)
        self.engine = engine

    def __call__(self, done: int, objective: Objective, writer: MetricsWriter, gradients: dict[str, float]) -> None:
        """Take, draw and write the pictures of step ``done``; ``gradients`` are norms by block."""
        targets = getattr(objective, "targets", None)
        self.engine.eval()
        seen = observe(self.recipe, self.engine, self.engine.module, targets, self.batch, self.cluster.device)
        self.engine.train()
        with self.cluster.together():
            if self.cluster.is_main:
                self._show(done, seen, writer, gradients)

    def _show(self, done: int, seen: Observed, writer: MetricsWriter, gradients: dict[str, float]) -> None:
        clips = [describe_clip(self.manifest, video) for video in self.videos]
        sheets = named_sheets(seen, clips)
        images = {name: as_png(still(sheet, CELL_PX)) for name, sheet in sheets.items()}
        writer.show(done, {f"pictures/{name}": image for name, image in images.items()}, _norms(seen))
        writer.profile(done, "gradients/norm_by_block", list(gradients.values()))
        numbers = {"step": done, "clips": clips, "similarity": similarity_numbers(seen), "gradient_norm": gradients}
        write_pictures(self.folder.pictures / f"step-{done:08}", images, numbers)


def chosen_videos(manifest: Manifest, count: int) -> list[int]:
    """Return the first video of each class of the first label, in their order, then each second one, ...: ``count`` of them.

    Without labels these are the first videos.
    """
    videos = np.arange(len(manifest.refs))
    if not manifest.labels.shape[1]:
        return videos[:count].tolist()
    _, classes, sizes = np.unique(manifest.labels[:, 0], return_inverse=True, return_counts=True)
    turn = np.empty_like(videos)
    turn[np.argsort(classes, kind="stable")] = videos - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.lexsort((videos, turn))[:count].tolist()


def describe_clip(manifest: Manifest, video: int) -> dict[str, Any]:
    """Return the file of a video as its manifest has it, and the name of its class by label, without those not known (-1)."""
    path, numbers, _ = manifest.refs[video]
    known = {label: number for label, number in zip(manifest.label_names, numbers, strict=True) if number >= 0}
    names = manifest.class_names
    classes = {label: names[label][number] if label in names else str(number) for label, number in known.items()}
    return {"file": os.path.relpath(path, manifest.refs.root), "classes": classes}


def clip_name(clip: dict[str, Any]) -> str:
    """Return classes and file of ``describe_clip`` on one line of at most ``NAME_LETTERS`` letters, the file cut at its left."""
    classes = one_line(", ".join(clip["classes"].values()), NAME_LETTERS // 2)
    file = one_line(clip["file"])
    room = NAME_LETTERS - len(classes) - 3
    shown = file if len(file) <= room else "…" + file[1 - room :]
    return f"{classes} ({shown})" if classes else shown


def read_clips(recipe: TrainingRecipe, manifest: Manifest, wanted: Sequence[int]) -> tuple[dict[ClipView, Tensor], list[str]]:
    """Read the videos ``wanted`` of ``manifest``; those that cannot be read are black.

    Returns:
        view -> uint8 (B, C, T, H, W), for every view that the recipe's networks want; and the faults.
    """
    data = recipe.data.model_copy(update={"workers": min(recipe.data.workers, 1)})
    views: dict[ClipView, Tensor] = {}
    faults: list[str] = []
    for view in recipe.clip_views:
        faults, clip = [], data.clip.seen_as(view)
        shown = data.model_copy(update={"clip": clip})
        batches = evaluation_batches(shown, manifest, len(wanted), clip.frames, clip.size_px, wanted, faults)
        views[view] = torch.cat([clips.clone() for clips, _, _ in batches])
    return views, faults


def plan_pictures(recipe: TrainingRecipe) -> Manifest | None:
    """Return the manifest of the videos to draw, or None if no pictures are wanted.

    Raises:
        ConfigError: if their manifest is faulty.
    """
    if not recipe.run.pictures_every_steps:
        return None
    if recipe.run.picture_manifest is not None:
        return read_manifest(recipe.run.picture_manifest, setting="run.picture_manifest")
    return read_mixture(recipe.data).manifests[0]


def named_sheets(seen: Observed, clips: list[dict[str, Any]]) -> dict[str, Sheet]:
    """Return the sheets by name; images, which have one slot each, share one sheet.

    Args:
        seen: the record of the clips.
        clips: ``describe_clip`` of each; its name stands above the row of the clip itself.
    """
    sheets = clip_sheets(seen)
    if seen.grid[0] == 1:
        classes = [", ".join(clip["classes"].values()) for clip in clips]
        named = {"images": _titled(joined(sheets), one_line("; ".join(filter(None, classes)), NAME_LETTERS))}
    else:
        titled = [_titled(sheet, clip_name(clip)) for sheet, clip in zip(sheets, clips, strict=True)]
        named = {f"clip {place}": sheet for place, sheet in enumerate(titled)}
    similarity = similarity_sheet(seen.similarity, CELL_PX)
    return named | ({"similarity across frames": similarity} if similarity else {})


def _titled(sheet: Sheet, name: str) -> Sheet:
    """Return the sheet with ``name`` above the row of the clip itself."""
    return {f"clip: {name}" if row == "clip" and name else row: film for row, film in sheet.items()}


def similarity_numbers(seen: Observed) -> dict[str, list[float]]:
    """Return the mean similarity across frames after every layer, by network; networks of one frame are left out."""
    found = {name: [across_frames(layer) for layer in layers if len(layer) > 1] for name, layers in seen.similarity.items()}
    return {name: means for name, means in found.items() if means}


def as_png(image: np.ndarray) -> bytes:
    """Return the bytes of a PNG file of ``image``, uint8 (H, W, 3)."""
    stream = io.BytesIO()
    # Five sheets of four clips of 224 px: 65 ms and 743 kB at level 1, 96 ms and 658 kB at 6.
    Image.fromarray(image).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def write_pictures(folder: Path, images: dict[str, bytes], numbers: dict[str, Any]) -> None:
    """Write the PNG files ``images`` and ``numbers.json`` as ``folder``, whole, in place of an older one.

    Raises:
        ConfigError: if they cannot be written.
    """
    try:
        with folder_written_aside(folder) as aside:
            for name, image in images.items():
                (aside / f"{name.replace(' ', '-')}.png").write_bytes(image)
            write_json(aside / NUMBERS, numbers)
    except OSError as error:
        raise ConfigError(f"{folder}: pictures cannot be written: {error.strerror or error}") from None


def _norms(seen: Observed) -> dict[str, Tensor]:
    """Return L2 norms of every teacher's raw features and of the predictions, by tag; a flat histogram has no content."""
    teachers = {f"features/norm_{name}": norms for name, norms in seen.norms.items()}
    students = {f"features/predicted_norm_{name}": found.float().norm(dim=-1) for name, found in seen.predictions.items()}
    return {name: norms.flatten().cpu() for name, norms in (teachers | students).items()}
