"""The sources of the tokens of a dense probe, networks and pixels, and the targets beside its videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, DataSettings, Grid, ProbeRecipe
from mvd_ds.data.dense_targets import CellTargets, TargetArray, cell_targets, read_target, require_frames
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.sampling import frame_indices
from mvd_ds.data.source import VideoSource
from mvd_ds.evaluation.dense_inputs import input_width, pixel_tokens
from mvd_ds.runs.probing.clips import Split
from mvd_ds.runs.probing.encoders import ProbedEncoder

PIXELS = "pixels"


class Source(NamedTuple):
    """A network, or the pixels, as read-outs see it."""

    name: str
    blocks: tuple[str, ...]
    """Names of the results of its blocks."""
    grid: Grid
    """(t, h, w) of the tokens of a clip."""
    stride: int
    """It sees every n-th frame of the clip."""
    width: int
    """Channels of a token."""
    device: torch.device
    tokens: Callable[[Tensor], Tensor]
    """uint8 (B, 1, 1, C, T, H, W) -> fp32 (blocks, B, t, h, w, D)."""


class Target(NamedTuple):
    """The facts of a target that hold for all videos."""

    name: str
    classes: int | None
    """None: values."""
    is_of_frames: bool
    width: int
    """Values at a place, or classes."""

    def require(self, array: TargetArray) -> None:
        """Check that an array is of this target.

        Raises:
            ConfigError: if it has another type, other axes or a class that no training video shows.
        """
        is_same = (array.is_classes, array.is_of_frames) == (self.classes is not None, self.is_of_frames)
        if not is_same or (self.classes is None and array.channels != self.width):
            raise ConfigError(f"{array.origin}: has another type or shape than the first training video's {self.name}")
        if self.classes is not None and array.values.max() >= self.classes:
            raise ConfigError(
                f"{array.origin}: shows class {array.values.max()}, training videos those from 0 to {self.classes - 1}"
            )


def sources_of(recipe: ProbeRecipe, encoders: Mapping[str, ProbedEncoder], device: torch.device) -> list[Source]:
    """Return the sources of a probe; pixels are cut as the tokens of the first network."""
    frames = recipe.data.clip.frames
    found = [
        Source(
            name,
            tuple(encoder.names(name, recipe)),
            encoder.grid(frames),
            encoder.stride,
            encoder.network.embed_dim,
            encoder.device,
            encoder.grid_tokens,
        )
        for name, encoder in encoders.items()
    ]
    if not recipe.pixels:
        return found
    grid, stride = found[0].grid, found[0].stride

    def pixels(clips: Tensor) -> Tensor:
        return pixel_tokens(clips[:, 0, 0, :, ::stride].to(device), grid)[None]

    clip = recipe.data.clip
    width = pixels(torch.zeros((1, 1, 1, 3, clip.frames, clip.size_px, clip.size_px), dtype=torch.uint8)).shape[-1]
    return [*found, Source(PIXELS, (PIXELS,), grid, stride, width, device, pixels)]


def key_widths(recipe: ProbeRecipe, sources: Iterable[Source], targets: Sequence[Target]) -> dict[tuple[str, str], int]:
    """Return the width of the inputs of every read-out, by (name of the result, target)."""
    return {
        (block, target.name): input_width(source.width, source.grid, target.is_of_frames, recipe.dense.parts)
        for source in sources
        for block in source.blocks
        for target in targets
    }


def find_targets(recipe: ProbeRecipe, split: Split, share: slice) -> list[Target]:
    """Return what the training videos of a share say of the targets; ``classes`` is the largest number there, plus one.

    Raises:
        ConfigError: if an array is missing or of another kind than the first video's.
    """
    manifest, videos = split
    found = []
    for name in recipe.dense.targets:
        first = read_target(manifest.refs.path(videos[0]), name)
        target = Target(name, 2**31 if first.is_classes else None, first.is_of_frames, first.channels)
        most = -1
        for video in videos[share]:
            array = read_target(manifest.refs.path(video), name)
            target.require(array)
            most = max(most, int(array.values.max())) if first.is_classes else most
        found.append(target._replace(classes=most + 1) if first.is_classes else target)
    return found


def joined_targets(parts: Sequence[list[Target]], origin: str) -> list[Target]:
    """Return the targets of all processes' shares.

    Raises:
        ConfigError: if a target shows a single class.
    """
    found = []
    for told in zip(*parts, strict=True):
        target = told[0]
        if target.classes is not None:
            classes = max(one.classes or 0 for one in told)
            if classes < 2:
                raise ConfigError(f"{origin}: target {target.name} shows {classes} class; a read-out tells two at least apart")
            target = target._replace(classes=classes, width=classes)
        found.append(target)
    return found


class TargetReader:
    """A reader of the targets of videos at the places of tokens.

    Args:
        data: reader and clip.
        manifest: the videos.
        targets: the targets.
    """

    def __init__(self, data: DataSettings, manifest: Manifest, targets: Sequence[Target]) -> None:
        self._videos, self._clip, self._targets = VideoSource([manifest], data), data.clip, targets

    def read(self, video: int) -> tuple[dict[str, TargetArray], np.ndarray]:
        """Return the arrays of a video by name, and the frames int64 (T,) of its clip.

        Raises:
            ConfigError: if an array is missing or does not fit.
        """
        path = self._videos.path(video)
        with self._videos.open(video) as opened:
            frames = frame_indices(len(opened), self._clip, fps=opened.fps)
            count = len(opened)
        found = {}
        for target in self._targets:
            array = found[target.name] = read_target(path, target.name)
            target.require(array)
            require_frames(array, count, path)
        return found, frames

    def cells(self, read: tuple[dict[str, TargetArray], np.ndarray], source: Source, target: Target) -> CellTargets:
        """Return a target at the places of a source, of what ``read`` returned."""
        arrays, frames = read
        return cell_targets(arrays[target.name], frames[:: source.stride], source.grid, target.classes)
