"""Dense read-outs: linear maps from every token of a frozen encoder to what stands at its place: depth, segments, position.

Tokens are those that ``features tokens=true`` wrote. Targets are arrays beside the videos, ``VIDEO.NAME.npy``, with an entry for
each frame: of every pixel, (frames, H, W) or (frames, H, W, C), in any resolution of the whole frame; or of the frame, (frames,)
or (frames, C), which every token of it predicts. Floats are regressed, NaN where nothing is known; integers are classes, -1 where
nothing is, and so are truth values. Without that file, the array NAME of ``VIDEO.npz`` is taken, as ``synthesize`` writes it.

A read-out is a ridge regression on standardised tokens, of classes on their indicators. It has a closed form in the sums of
products, so that one pass over the tokens is enough, however many there are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from mvd_ds.config import ClipSettings, ConfigError, Grid
from mvd_ds.data.views import crop_boxes, segment_indices
from mvd_ds.evaluation.csv_files import read_csv
from mvd_ds.evaluation.feature_files import INDEX, read_array
from mvd_ds.evaluation.probes import selection_split
from mvd_ds.files import read_json

#: Strengths of the L2 penalty on standardised tokens, for each token that is fitted on.
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Share of the training videos on which the penalty is chosen.
SELECTION_SHARE = 0.2
DRAWS = 2000


class DenseReadout(NamedTuple):
    """The result of a read-out on held-out videos."""

    score: float
    """Regression: R2, mean over channels; classes: share of tokens that are classified rightly."""
    low: float
    """Lower end of its 95 % bootstrap interval over videos."""
    high: float
    per_channel: tuple[float, ...]
    """Regression: R2 of each channel; classes: intersection over union of each class that is there."""
    penalty: float
    """Strength that was chosen on a share of the training videos."""
    videos: int
    tokens: int
    """Held-out places that were compared."""


class _Sums(NamedTuple):
    """Sums over tokens: their number, and of 1, x and y with one another."""

    gram: np.ndarray
    """float64 (1 + D, 1 + D), of (1, x)."""
    cross: np.ndarray
    """float64 (1 + D, K), of (1, x) and y."""
    square: np.ndarray
    """float64 (K,), of y * y."""

    def plus(self, other: _Sums) -> _Sums:
        """Return the sums over both."""
        return _Sums(*(a + b for a, b in zip(self, other, strict=True)))


class _TokenFolder(NamedTuple):
    """A finished folder of token features, and how its clips were cut."""

    path: Path
    lines: list[dict[str, str]]
    clip: ClipSettings
    grid: Grid
    every_frames: int
    made_by: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    """Network and clips that the tokens are of."""

    def videos(self) -> Iterator[tuple[dict[str, str], np.ndarray]]:
        """Yield the index line and the tokens float32 (N, D) of each video, file by file."""
        name, array = "", np.empty(0)
        for line in self.lines:
            if line["file"] != name:
                name, array = line["file"], read_array(self.path / line["file"])
            yield line, np.asarray(array[int(line["row"])], np.float32)


def dense_readout(
    known: str | Path,
    unseen: str | Path,
    target: str,
    known_targets: str | Path | None = None,
    unseen_targets: str | Path | None = None,
) -> DenseReadout:
    """Fit a read-out on the tokens of one folder of features and measure it on those of another.

    Args:
        known: folder that ``features tokens=true`` wrote of training videos.
        unseen: the same of held-out videos.
        target: NAME of the arrays ``VIDEO.NAME.npy``.
        known_targets: folder of those of the training videos (None: beside the videos).
        unseen_targets: the same of the held-out ones.

    Raises:
        ConfigError: if a folder holds no tokens, or an array is missing or does not fit.
    """
    fitted_on, measured_on = _open(Path(known), known_targets), _open(Path(unseen), unseen_targets)
    if wrong := [key for key, value in fitted_on.made_by.items() if measured_on.made_by.get(key) != value]:
        raise ConfigError(f"{unseen}: was written with other {', '.join(wrong)} than {known}; both are of one network")
    classes = _classes(fitted_on, target, known_targets)
    is_chosen_on = selection_split(len(fitted_on.lines), SELECTION_SHARE, 0)[0]
    parts: list[_Sums | None] = [None, None]
    for number, (_, tokens, wanted, ok) in enumerate(_examples(fitted_on, target, known_targets, classes)):
        sums, part = _sums_of(tokens[ok], wanted[ok]), int(is_chosen_on[number])
        before = parts[part]
        parts[part] = sums if before is None else before.plus(sums)
    rest, selection = parts
    if rest is None or selection is None:
        raise ConfigError(f"{known}: a read-out is fitted on a part of its videos and chosen on another: give two at least")
    penalty = min(PENALTIES, key=lambda strength: float(_errors(selection, _ridge(rest, strength)).mean()))
    return _measure(_ridge(rest.plus(selection), penalty), measured_on, target, unseen_targets, classes)._replace(penalty=penalty)


def token_targets(values: np.ndarray, folder: _TokenFolder, classes: int | None, origin: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what the tokens of a clip are to predict, float64 (N, K), and where it is known, bool (N,).

    Args:
        values: array of a video, an entry for each frame.
        folder: how its clip was cut.
        classes: number of classes; None: it is regressed.
        origin: file of the array, for messages.

    Raises:
        ConfigError: if it has another number of axes.
    """
    clip, (slots, rows, columns) = folder.clip, folder.grid
    frames = segment_indices(len(values), clip, 1)[0][:: folder.every_frames]
    if values.ndim not in (1, 2, 3, 4):
        raise ConfigError(f"{origin}: has {values.ndim} axes; it takes (frames,), (frames, C), (frames, H, W), (frames, H, W, C)")
    values = values[frames]
    if classes is not None:
        known = values >= 0
        values = np.eye(classes)[np.where(known, values, 0)] * known[..., None]
    elif values.ndim in (1, 3):
        values = values[..., None]
    shown = torch.from_numpy(np.ascontiguousarray(values, np.float64))
    if shown.ndim == 2:
        cells = shown[:, :, None, None].expand(-1, -1, rows, columns)
    else:
        box = crop_boxes(shown.shape[1], shown.shape[2], 1)[0]
        square = shown[:, box.top : box.top + box.height, box.left : box.left + box.width].permute(0, 3, 1, 2)
        cells = adaptive_avg_pool2d(square, (rows, columns))
    # Frames of one slot side by side: (t, frames of a slot, K, h, w) -> (t, h, w, K).
    wanted = cells.unflatten(0, (slots, -1)).mean(1).permute(0, 2, 3, 1).reshape(-1, cells.shape[1]).numpy()
    if classes is None:
        return wanted, np.isfinite(wanted).all(1)
    return np.eye(classes)[wanted.argmax(1)], wanted.sum(1) > 0.5


def _open(path: Path, targets: str | Path | None = None) -> _TokenFolder:
    if not (path / INDEX).is_file():
        raise ConfigError(f"{path}: has no {INDEX}; start `features` again, it goes on where it was")
    stated: dict[str, Any] = read_json(path / "features.json")
    recipe, grid = stated["recipe"], stated.get("grid")
    if grid is None or any(recipe["views"][key] > 1 for key in ("segments", "crops")):
        raise ConfigError(
            f"{path}: a read-out takes the tokens of one clip of a video; write them by `features` with tokens=true"
        )
    clip = ClipSettings.model_validate(recipe["data"]["clip"])
    if clip.stride_seconds is not None:
        raise ConfigError(f"{path}: data.clip.stride_seconds: frames of targets are counted; write features by stride_frames")
    lines = [line for line in read_csv(path / INDEX) if line["file"]]
    if targets is not None and len({Path(line["path"]).stem for line in lines}) < len(lines):
        raise ConfigError(f"{targets}: two videos of {path} have one name; put the targets beside the videos")
    slots, rows, columns = grid
    made_by = {key: recipe[key] for key in ("weights", "layer", "adaptor")} | {"grid": grid}
    made_by |= {f"data.clip.{key}": getattr(clip, key) for key in ("frames", "stride_frames", "sampling", "size_px")}
    made_by["weights"] = stated.get("contents", {}).get("weights", made_by["weights"])
    return _TokenFolder(path, lines, clip, (slots, rows, columns), stated["token_frames"], made_by)


def _target_of(line: dict[str, str], target: str, folder: str | Path | None) -> tuple[np.ndarray, str]:
    video = Path(line["path"])
    place = video.parent if folder is None else Path(folder)
    path, packed = place / f"{video.stem}.{target}.npy", place / f"{video.stem}.npz"
    try:
        if packed.exists() and not path.exists():
            path = packed
            with np.load(path, allow_pickle=False) as arrays:
                values = arrays[target]
        else:
            values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"holds no array {target}"
        raise ConfigError(f"{path}: the target of {video}: {reason}") from None
    values = values.astype(np.uint8) if values.dtype == bool else values
    if not values.ndim or not len(values):
        raise ConfigError(f"{path}: the target of {video}: is empty; it takes an entry for each frame")
    return values, str(path)


def _classes(folder: _TokenFolder, target: str, targets: str | Path | None) -> int | None:
    """Return the number of classes of integer targets, None of floats."""
    most = -1
    for line in folder.lines:
        values, origin = _target_of(line, target, targets)
        if not np.issubdtype(values.dtype, np.integer):
            return None
        if values.ndim not in (1, 3):
            raise ConfigError(f"{origin}: classes are one integer a place, (frames,) or (frames, H, W)")
        most = max(most, int(values.max()))
    if most < 1:
        raise ConfigError(f"{folder.path}: target {target} shows {most + 1} classes; a read-out tells two at least apart")
    return most + 1


def _examples(
    folder: _TokenFolder, target: str, targets: str | Path | None, classes: int | None
) -> Iterator[tuple[bool, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield whether the target is of frames, tokens (N, D), wanted (N, K) and known bool (N,) of every video.

    Raises:
        ConfigError: if a target has another type or class than the first.
    """
    for line, tokens in folder.videos():
        values, origin = _target_of(line, target, targets)
        if np.issubdtype(values.dtype, np.integer) != (classes is not None) or (classes is not None and values.max() >= classes):
            raise ConfigError(f"{origin}: has another type or other classes than those that the read-out is fitted on")
        wanted, ok = token_targets(values, folder, classes, origin)
        if len(wanted) != len(tokens):
            raise ConfigError(f"{origin}: gives {len(wanted)} targets, {folder.path} has {len(tokens)} tokens a clip")
        yield values.ndim < 3, tokens, wanted, ok


def _sums_of(tokens: np.ndarray, wanted: np.ndarray) -> _Sums:
    inputs = np.concatenate((np.ones((len(tokens), 1)), tokens.astype(np.float64)), axis=1)
    return _Sums(inputs.T @ inputs, inputs.T @ wanted, (wanted * wanted).sum(0))


def _ridge(sums: _Sums, penalty: float) -> np.ndarray:
    """Return the weights (1 + D, K) of (1, x): least squares with ``penalty`` a token on x / its deviation, none on 1."""
    count = sums.gram[0, 0]
    means = sums.gram[0] / count
    variances = np.maximum(np.diag(sums.gram) / count - means**2, 1e-12)
    strength = penalty * count * variances
    strength[0] = 0.0
    return np.linalg.solve(sums.gram + np.diag(strength), sums.cross)


def _errors(sums: _Sums, weights: np.ndarray) -> np.ndarray:
    """Return the squared errors (K,) of ``weights`` on the tokens of ``sums``, relative to the variance."""
    errors = sums.square - 2 * (weights * sums.cross).sum(0) + (weights * (sums.gram @ weights)).sum(0)
    return errors / np.maximum(sums.square - sums.cross[0] ** 2 / sums.gram[0, 0], 1e-12)


def _measure(
    weights: np.ndarray, folder: _TokenFolder, target: str, targets: str | Path | None, classes: int | None
) -> DenseReadout:
    """Return the score of ``weights`` on held-out videos; tokens of one slot are averaged where the target is of frames."""
    rows = []
    for of_frames, tokens, wanted, ok in _examples(folder, target, targets, classes):
        found = tokens.astype(np.float64) @ weights[1:] + weights[0]
        if of_frames:
            found, wanted, ok = (part.reshape(folder.grid[0], -1, *part.shape[1:]) for part in (found, wanted, ok))
            found, wanted, ok = found.mean(1), wanted[:, 0], ok[:, 0]
        found, wanted = found[ok], wanted[ok]
        if classes is None:
            count = np.full(wanted.shape[1], len(wanted))
            rows.append(np.stack((count, wanted.sum(0), (wanted**2).sum(0), ((found - wanted) ** 2).sum(0))))
        else:
            pairs = np.zeros((classes, classes))
            np.add.at(pairs, (wanted.argmax(1), found.argmax(1)), 1)
            rows.append(pairs)
    per_video = np.stack(rows)
    total = per_video.sum(0)
    places = int(total[0, 0] if classes is None else total.sum())
    if not places:
        raise ConfigError(f"{folder.path}: target {target} is known nowhere")
    generator = np.random.default_rng(0)
    draws = [_score(per_video[generator.integers(len(rows), size=len(rows))].sum(0), classes) for _ in range(DRAWS)]
    low, high = np.quantile(draws, (0.025, 0.975))
    each = _r2(total) if classes is None else _ious(total)
    return DenseReadout(_score(total, classes), float(low), float(high), each, 0.0, len(rows), places)


def _score(total: np.ndarray, classes: int | None) -> float:
    return float(np.mean(_r2(total))) if classes is None else float(np.trace(total) / total.sum())


def _r2(total: np.ndarray) -> tuple[float, ...]:
    """Return R2 by channel of (number, sum, sum of squares, squared errors), each (K,)."""
    count, sums, squares, errors = total
    return tuple((1 - errors / np.maximum(squares - sums**2 / count, 1e-12)).tolist())


def _ious(pairs: np.ndarray) -> tuple[float, ...]:
    """Return intersection over union of every class that is there, of counts (true, predicted)."""
    union = pairs.sum(0) + pairs.sum(1) - np.diag(pairs)
    return tuple((np.diag(pairs)[pairs.sum(1) > 0] / union[pairs.sum(1) > 0]).tolist())
