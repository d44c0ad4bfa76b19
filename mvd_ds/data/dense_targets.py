"""Targets of dense read-outs: arrays beside the videos, and what they say at the place of every token.

An array has an entry for each frame of its video: of every pixel, (frames, H, W) or (frames, H, W, C), in any resolution of the
whole frame; or of the frame, (frames,) or (frames, C). Floats are values, NaN where nothing is known; integers are classes, -1
where nothing is, and so are truth values. It is ``VIDEO.NAME.npy``, or without that file the array NAME of ``VIDEO.npz``, as
``synthesize`` writes it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from mvd_ds.config import ConfigError, Grid
from mvd_ds.data.transforms import center_box


class TargetArray(NamedTuple):
    """The target of a video."""

    values: np.ndarray
    """An entry for each frame; truth values are integers."""
    origin: str
    """Its file, for messages."""

    @property
    def is_classes(self) -> bool:
        """True for integers."""
        return bool(np.issubdtype(self.values.dtype, np.integer))

    @property
    def is_of_frames(self) -> bool:
        """True if it says something of whole frames."""
        return self.values.ndim < 3

    @property
    def channels(self) -> int:
        """Number of values at a place; of classes 1."""
        return self.values.shape[-1] if self.values.ndim in (2, 4) else 1


class CellTargets(NamedTuple):
    """The target at the places of a clip: its tokens (t * h * w), or its moments (t) where it is of whole frames."""

    wanted: np.ndarray
    """float64 (n, K); of K classes, indicators."""
    is_known: np.ndarray
    """bool (n,)."""


def read_target(video: str | Path, name: str, folder: str | Path | None = None) -> TargetArray:
    """Return the array ``name`` of a video.

    Args:
        video: the video.
        name: name of the array.
        folder: folder of the arrays (None: beside the video).

    Raises:
        ConfigError: if it is not there, empty, or has axes that it cannot have.
    """
    video = Path(video)
    place = video.parent if folder is None else Path(folder)
    path, packed = place / f"{video.stem}.{name}.npy", place / f"{video.stem}.npz"
    try:
        if packed.exists() and not path.exists():
            path = packed
            with np.load(path, allow_pickle=False) as arrays:
                values = arrays[name]
        else:
            values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"holds no array {name}"
        raise ConfigError(f"{path}: the target of {video}: {reason}") from None
    values = values.astype(np.uint8) if values.dtype == bool else values
    if not values.ndim or not values.size:
        raise ConfigError(f"{path}: the target of {video}: is empty; it takes an entry for each frame")
    if values.dtype.kind not in "iuf":
        raise ConfigError(f"{path}: the target of {video}: is of {values.dtype}; it takes floats, integers or truth values")
    if values.ndim > 4:
        raise ConfigError(f"{path}: has {values.ndim} axes; it takes (frames,), (frames, C), (frames, H, W), (frames, H, W, C)")
    found = TargetArray(values, str(path))
    if found.is_classes and values.ndim not in (1, 3):
        raise ConfigError(f"{path}: classes are one integer a place, (frames,) or (frames, H, W)")
    return found


def require_frames(target: TargetArray, frames: int, video: str) -> None:
    """Check that a target has an entry for each of the ``frames`` of its video.

    Raises:
        ConfigError: if it has fewer or more, so that nobody could say which belongs to which.
    """
    if len(target.values) != frames:
        raise ConfigError(f"{target.origin}: has {len(target.values)} entries, {video} has {frames} frames")


def cell_targets(target: TargetArray, frames: np.ndarray, grid: Grid, classes: int | None) -> CellTargets:
    """Return what is to be predicted of a clip: means over the frames of a token's moment and the pixels of its place.

    A place has the class that most of it has, and is unknown where most of it is.

    Args:
        target: array of the video.
        frames: int (T,), the frames of the clip that the network sees; of each the middle square.
        grid: (t, h, w) of its tokens.
        classes: number of classes; None: values.
    """
    values, (slots, rows, columns) = target.values[frames], grid
    if classes is not None:
        known = values >= 0
        values = np.eye(classes)[np.where(known, values, 0)] * known[..., None]
    elif values.ndim in (1, 3):
        values = values[..., None]
    shown = torch.from_numpy(np.ascontiguousarray(values, np.float64))
    if target.is_of_frames:
        cells = shown[:, :, None, None]
    else:
        box = center_box(shown.shape[1], shown.shape[2])
        square = shown[:, box.top : box.top + box.height, box.left : box.left + box.width].permute(0, 3, 1, 2)
        cells = adaptive_avg_pool2d(square, (rows, columns))
    # Frames of one slot side by side: (t, frames of a slot, K, h, w) -> (t, h, w, K).
    wanted = cells.unflatten(0, (slots, -1)).mean(1).permute(0, 2, 3, 1).reshape(-1, cells.shape[1]).numpy()
    if classes is None:
        return CellTargets(wanted, np.isfinite(wanted).all(1))
    return CellTargets(np.eye(classes)[wanted.argmax(1)], wanted.sum(1) > 0.5)
