"""Pictures of dense read-outs: what each network says of a held-out clip beside the truth, place by place or over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mvd_ds.config import Grid
from mvd_ds.evaluation.pictures import UNKNOWN, clip_film, spread
from mvd_ds.evaluation.sheets import Sheet, still
from mvd_ds.files import write_json
from mvd_ds.runs.dense.measuring import Drawn
from mvd_ds.runs.dense.sources import Source, Target

CELL_PX = 96
#: Colours of classes, repeated if there are more.
CLASS_COLOURS = "tab20"
TRUTH = "#1d2127"


def write_pictures(folder: Path, drawn: Sequence[Drawn], sources: Sequence[Source], targets: Sequence[Target]) -> None:
    """Write a picture for every clip and kind of target into ``folder``, and ``numbers.json``, which names their clips."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, one in enumerate(drawn):
        of_places = [target for target in targets if not target.is_of_frames]
        if of_places:
            Image.fromarray(still(_sheet(one, sources, of_places), CELL_PX)).save(folder / f"clip-{place}.png")
        for target in targets:
            if target.is_of_frames:
                _write_curves(folder / f"clip-{place}-{target.name}.png", one, sources, target)
    clips = [{"file": Path(one.path).name, "classes": {}} for one in drawn]
    write_json(folder / "numbers.json", {"step": 1, "clips": clips})


def _sheet(one: Drawn, sources: Sequence[Source], targets: Iterable[Target]) -> Sheet:
    """Return rows over time: the clip, and for each target the truth and what every source says, in one scale of colours."""
    side = one.clip.shape[-1]
    finest = max(sources, key=lambda source: np.prod(source.grid))
    sheet: Sheet = {"clip": clip_film(one.clip, finest.grid[0])}
    for target in targets:
        truth = one.truths[finest.name, target.name]
        shown = truth[np.isfinite(truth).all(1)]
        low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
        scale = "" if target.classes else f", {low:.3g} to {high:.3g}"
        sheet[f"{target.name}: the truth{scale}"] = _film(truth, finest.grid, side, target, (low, high))
        for source in sources:
            answers = one.answers[source.name, target.name]
            sheet[f"{target.name}: {source.name}"] = _film(answers, source.grid, side, target, (low, high))
    return sheet


def _film(values: np.ndarray, grid: Grid, side: int, target: Target, scale: tuple[float, float]) -> np.ndarray:
    """Return values (N, K) of tokens as images: one channel dark to yellow, two or three as colours, classes by colour."""
    known = np.isfinite(values).all(1)
    low, high = scale
    if target.classes is not None:
        table = matplotlib.colormaps[CLASS_COLOURS]
        colours = table(np.nan_to_num(values).argmax(1) % table.N, bytes=True)[:, :3].copy()
    else:
        shares = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0, 1)
        if values.shape[1] in (2, 3):
            padded = np.pad(shares, ((0, 0), (0, 3 - shares.shape[1])))
            colours = (255 * padded).round().astype(np.uint8)
        else:
            colours = matplotlib.colormaps["inferno"](shares[:, 0], bytes=True)[:, :3].copy()
    colours[~known] = UNKNOWN
    return spread(colours, grid, side)


def _write_curves(path: Path, one: Drawn, sources: Sequence[Source], target: Target) -> None:
    """Draw a target of whole frames over the moments of a clip: a panel for each channel, or one with the likeliest class."""
    found = {source.name: _series(one.answers[source.name, target.name], target) for source in sources}
    truths = {source.name: _series(one.truths[source.name, target.name], target) for source in sources}
    finest = max(truths, key=lambda name: len(truths[name]))
    channels = truths[finest].shape[1]
    figure = Figure(figsize=(3.4 * min(channels, 4), 2.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, min(channels, 4), squeeze=False)[0]
    for channel, axes in enumerate(panels):
        axes.plot(*_over_time(truths[finest][:, channel]), color=TRUTH, linewidth=2.2, label="the truth")
        for name, values in found.items():
            axes.plot(*_over_time(values[:, channel]), linewidth=1.1, marker="o", markersize=2.5, label=name)
        axes.set_title(target.name if channels == 1 else f"{target.name}, channel {channel}", fontsize=8)
        axes.set_xlabel("share of the clip", fontsize=7)
        axes.tick_params(labelsize=7)
    panels[-1].legend(fontsize=6)
    figure.savefig(path)


def _series(values: np.ndarray, target: Target) -> np.ndarray:
    """Return values (t, K); of classes the likeliest one, NaN where it is not known."""
    if target.classes is None:
        return values
    return np.where(np.isfinite(values).all(1), np.nan_to_num(values).argmax(1), np.nan)[:, None]


def _over_time(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (np.arange(len(values)) + 0.5) / len(values), values
