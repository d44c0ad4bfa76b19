"""This module writes one feature for every window of a video, a file for each video, for temporal localisation.

Files are what OpenTAD and others read as ``npy``: float arrays (T, C) named as the video. Feature i is of the window that starts
at frame ``i * windows.every_frames``, their ``feature_stride``; its middle lies half the length of a window later, their
``offset_frames``. Source: OpenTAD, ``LoadFeats``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipSettings, ConfigError, FeaturesRecipe
from mvd_ds.data.manifests.manifest import Manifest
from mvd_ds.data.readers.video import DecodeError, Video
from mvd_ds.data.sampling import multiples, stride_in_frames
from mvd_ds.data.source import VideoSource
from mvd_ds.data.transforms import center_box, cut
from mvd_ds.evaluation.csv_files import csv_text
from mvd_ds.files import counted, write_text, written_aside
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import StepProgress, say

INDEX = "index.csv"


class Windowed(NamedTuple):
    """The facts about one video in the index."""

    windows: int | str
    frames: int | str
    fps: float | str
    fault: str = ""


def fill_windows(
    recipe: FeaturesRecipe, folder: Path, manifest: Manifest, forward: Callable[[Tensor], Tensor], cluster: Cluster
) -> dict[int, Windowed]:
    """Write the files of this rank's videos, which are dealt out in turn, and return the facts about these.

    Files that are there stay; every file appears whole.

    Raises:
        ConfigError: if two videos have one name.
    """
    names = _names(manifest)
    source, found = VideoSource([manifest], recipe.data), dict[int, Windowed]()
    mine = range(cluster.rank, len(names), cluster.world)
    progress = StepProgress("features", 0, len(mine), enabled=cluster.is_main and len(mine) > 0)
    for done, video in enumerate(mine, 1):
        soon = mine[done - 1 : done + recipe.data.remote.in_flight]
        source.expect(soon, [None] * len(soon))
        found[video] = _write_one(recipe, source, video, folder / f"{names[video]}.npy", forward)
        progress.update(done, "videos of this process")
    progress.close()
    return found


def list_windows(folder: Path, manifest: Manifest, found: dict[int, Windowed]) -> None:
    """Write ``index.csv`` with the facts about all videos, and say what is not there."""
    rows: list[list[object]] = [["path", "file", "windows", "frames", "fps", "fault"]]
    for video, name in enumerate(_names(manifest)):
        facts, path = found[video], manifest.refs.path(video)
        rows.append([path, "" if facts.fault else f"{name}.npy", *facts])
        if facts.fault:
            say(f"no features: {path}: {facts.fault}")
    write_text(folder / INDEX, csv_text(rows))
    whole = sum(not facts.fault for facts in found.values())
    say(f"{whole} of {counted(len(found), 'video')} in {folder}, a file each, listed in {INDEX}")


def window_starts(length: int, span: int, every_frames: int) -> range:
    """Return the first frames of all windows that fit into a video of ``length`` frames; one where none does."""
    return range(0, max(length - span, 0) + 1, every_frames)


def _write_one(
    recipe: FeaturesRecipe, source: VideoSource, video: int, file: Path, forward: Callable[[Tensor], Tensor]
) -> Windowed:
    """Write the features of one video unless its file is there, and return the facts about it."""
    assert recipe.windows is not None
    clip = recipe.data.clip
    try:
        opened = source.open(video)
        try:
            offsets = multiples(stride_in_frames(len(opened), clip, opened.fps), clip.frames)
            starts = window_starts(len(opened), int(offsets[-1]) + 1, recipe.windows.every_frames)
            facts = Windowed(len(starts), len(opened), round(opened.fps, 3) or "")
            if not file.exists():
                with torch.inference_mode():
                    rows = [forward(clips) for clips in _clips(opened, clip, starts, offsets, recipe.batch)]
                features = torch.cat(rows).numpy().astype(recipe.dtype)
                with written_aside(file) as aside, aside.open("wb") as stream:
                    np.save(stream, features)
        finally:
            opened.close()
    except DecodeError as error:
        return Windowed("", "", "", str(error))
    return facts


def _clips(video: Video, clip: ClipSettings, starts: range, offsets: np.ndarray, batch: int) -> Iterator[Tensor]:
    """Yield uint8 (n, C, T, H, W) of the windows in turn; frames of several windows of a batch are decoded once."""
    for first in range(0, len(starts), batch):
        indices = np.minimum(np.array(starts[first : first + batch])[:, None] + offsets, len(video) - 1)
        needed, places = np.unique(indices, return_inverse=True)
        frames = video.get(needed)
        box = center_box(frames.shape[1], frames.shape[2])
        yield torch.stack([cut(frames[chosen], box, clip.size_px) for chosen in places.reshape(indices.shape)])


def _names(manifest: Manifest) -> list[str]:
    """Return the name of every video without its folder and ending.

    Raises:
        ConfigError: if two have the same.
    """
    seen: dict[str, str] = {}
    for video in range(len(manifest.refs)):
        path = manifest.refs.path(video)
        name = Path(path).stem
        if name in seen:
            raise ConfigError(f"windows: {seen[name]} and {path} would both be {name}.npy; write them into two folders")
        seen[name] = path
    return list(seen)
