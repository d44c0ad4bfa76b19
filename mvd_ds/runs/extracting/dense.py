"""Dense read-outs from folders of token features: what ``features tokens=true`` wrote of training and of held-out videos.

``probe`` with ``task: dense`` does the same from the videos, for several networks and blocks at once. Targets are arrays
beside the videos (``data/dense_targets.py``); a read-out is a ridge regression on standardised tokens, of classes on their
indicators (``evaluation/ridge.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ClipSettings, ConfigError, DenseSettings, Grid
from mvd_ds.data.dense_targets import CellTargets, TargetArray, cell_targets, read_target
from mvd_ds.data.views import segment_indices
from mvd_ds.evaluation.csv_files import read_csv
from mvd_ds.evaluation.dense_inputs import readout_inputs
from mvd_ds.evaluation.dense_scores import measure, video_sums
from mvd_ds.evaluation.feature_files import INDEX, read_array
from mvd_ds.evaluation.probes import selection_split
from mvd_ds.evaluation.ridge import Sums, predict, relative_errors, ridge
from mvd_ds.files import read_json

#: Share of the training videos on which the penalty is chosen.
SELECTION_SHARE = 0.2
DRAWS = 2000


class DenseReadout(NamedTuple):
    """The result of a read-out on held-out videos."""

    score: float
    """Regression: R2, mean over channels; classes: share of places that are classified rightly."""
    low: float
    """Lower end of its 95 % bootstrap interval over videos."""
    high: float
    per_channel: tuple[float, ...]
    """Regression: R2 of each channel; classes: intersection over union of each class, NaN of one that is not there."""
    penalty: float
    """Strength that was chosen on a share of the training videos."""
    videos: int
    tokens: int
    """Held-out places that were compared."""
    second: float = 0.0
    """Regression: mean absolute error; classes: mean intersection over union."""


class _TokenFolder(NamedTuple):
    """A finished folder of token features, and how its clips were cut."""

    path: Path
    lines: list[dict[str, str]]
    clip: ClipSettings
    grid: Grid
    every_frames: int
    targets: str | Path | None = None
    """Folder of the targets; None: they are beside the videos."""
    made_by: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    """Network and clips that the tokens are of."""

    def videos(self, target: str, classes: int | None) -> Iterator[tuple[TargetArray, Tensor, CellTargets]]:
        """Yield the target, the tokens fp32 (t, h, w, D) and what they are to predict, of each video, file by file."""
        name, array = "", np.empty(0)
        for line in self.lines:
            if line["file"] != name:
                name, array = line["file"], read_array(self.path / line["file"])
            found = read_target(line["path"], target, self.targets)
            if found.is_classes != (classes is not None) or (classes is not None and found.values.max() >= classes):
                raise ConfigError(f"{found.origin}: has another type or other classes than those that the read-out is fitted on")
            frames = segment_indices(len(found.values), self.clip, 1)[0][:: self.every_frames]
            tokens = torch.from_numpy(np.array(array[int(line["row"])], np.float32)).unflatten(0, self.grid)
            yield found, tokens, cell_targets(found, frames, self.grid, classes)


def dense_readout(
    known: str | Path,
    unseen: str | Path,
    target: str,
    known_targets: str | Path | None = None,
    unseen_targets: str | Path | None = None,
    parts: int = 2,
) -> DenseReadout:
    """Fit a read-out on the tokens of one folder of features and measure it on those of another.

    Args:
        known: folder that ``features tokens=true`` wrote of training videos.
        unseen: the same of held-out videos.
        target: NAME of the arrays ``VIDEO.NAME.npy``.
        known_targets: folder of those of the training videos (None: beside the videos).
        unseen_targets: the same of the held-out ones.
        parts: as ``dense.parts`` of a probe: rows and columns of parts of a frame that predict what belongs to all of it.

    Raises:
        ConfigError: if a folder holds no tokens, or an array is missing or does not fit.
    """
    fitted_on, measured_on = _open(Path(known), known_targets), _open(Path(unseen), unseen_targets)
    if wrong := [key for key, value in fitted_on.made_by.items() if measured_on.made_by.get(key) != value]:
        raise ConfigError(f"{unseen}: was written with other {', '.join(wrong)} than {known}; both are of one network")
    classes = _classes(fitted_on, target)
    is_chosen_on = selection_split(len(fitted_on.lines), SELECTION_SHARE, 0)[0]
    halves: list[Sums | None] = [None, None]
    for number, (found, tokens, cells) in enumerate(fitted_on.videos(target, classes)):
        inputs = readout_inputs(tokens[None], found.is_of_frames, parts)[0]
        sums = Sums.of(inputs[torch.from_numpy(cells.is_known)], torch.from_numpy(cells.wanted[cells.is_known]))
        before = halves[int(is_chosen_on[number])]
        halves[int(is_chosen_on[number])] = sums if before is None else before.plus(sums)
    rest, selection = halves
    if rest is None or selection is None or not (rest.rows and selection.rows):
        raise ConfigError(f"{known}: a read-out is fitted on a part of its videos and chosen on another: give two at least")
    strengths = DenseSettings().penalties
    errors = [float(relative_errors(selection, weights).mean()) for weights in ridge(rest, strengths)]
    penalty = strengths[int(np.argmin(errors))]
    weights = ridge(rest.plus(selection), [penalty])[0]
    rows = []
    for found, tokens, cells in measured_on.videos(target, classes):
        answers = predict(weights, readout_inputs(tokens[None], found.is_of_frames, parts)[0])
        is_known = torch.from_numpy(cells.is_known)
        rows.append(video_sums(answers[is_known], torch.from_numpy(cells.wanted)[is_known], classes))
    measured = np.stack(rows)[None]
    if not measured.any():
        raise ConfigError(f"{measured_on.path}: target {target} is known nowhere")
    score = measure(measured, classes is not None, DRAWS)
    ends = score.score, score.low, score.high
    return DenseReadout(*ends, score.per_channel, penalty, len(rows), score.places, score.second)


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
    return _TokenFolder(path, lines, clip, (slots, rows, columns), stated["token_frames"], targets, made_by)


def _classes(folder: _TokenFolder, target: str) -> int | None:
    """Return the number of classes of integer targets, None of floats."""
    most = -1
    for line in folder.lines:
        found = read_target(line["path"], target, folder.targets)
        if not found.is_classes:
            return None
        most = max(most, int(found.values.max()))
    if most < 1:
        raise ConfigError(f"{folder.path}: target {target} shows {most + 1} classes; a read-out tells two at least apart")
    return most + 1
