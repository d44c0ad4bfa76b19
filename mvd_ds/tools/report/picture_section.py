"""The newest pictures of runs, inside the page itself."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.files import read_json
from mvd_ds.tools.report.charts import SERIES, Line, line_chart
from mvd_ds.tools.report.run_records import Curve, RunRecord
from mvd_ds.tools.report.templating import ColourKey, Figure, Image, figure

MAX_BYTES = 5_000_000
"""Bytes of all images of a page; base64 makes them a third larger, and the page is to stay below 10 MB."""
OPEN_CLIPS = 2
"""Number of clips of a run that a reader sees without asking for more."""


class RunPictures(NamedTuple):
    """Pictures of one run."""

    title: str
    shown: list[Figure]
    more: list[Figure]
    """Clips that are folded away."""
    left_out: list[str]
    """Sentences about images that are too large for the page."""


def newest_pictures(run: Path) -> Path | None:
    """Return the folder of the last step at which pictures were taken; None without any."""
    folders = sorted((run / "pictures").glob("step-*"))
    return folders[-1] if folders else None


def picture_numbers(run: Path) -> dict[str, Any]:
    """Return step, similarity by network and layer, and files of the newest pictures; empty without any.

    Raises:
        ConfigError: if ``numbers.json`` cannot be read.
    """
    folder = newest_pictures(run)
    if folder is None:
        return {}
    numbers = read_json(folder / "numbers.json") if (folder / "numbers.json").exists() else {}
    return numbers | {"folder": str(folder), "files": sorted(path.name for path in folder.glob("*.png"))}


def pictures_of(runs: list[RunRecord]) -> list[RunPictures]:
    """Return pictures and similarity across frames of every run that took some."""
    left = MAX_BYTES
    found = []
    for run in runs:
        numbers = picture_numbers(run.path)
        if not numbers:
            continue
        images, left_out, used = _images(Path(numbers["folder"]), numbers["files"], numbers.get("clips", []), left)
        left -= used
        more = [name for name in images if name.startswith("clip")][OPEN_CLIPS:]
        charts = (_similarity_chart(numbers.get("similarity", {})), _gradient_chart(numbers.get("gradient_norm", {})))
        shown = [picture for name, picture in images.items() if name not in more]
        step = f", step {numbers['step']:,}" if "step" in numbers else ""
        pictures = [*shown, *(chart for chart in charts if chart)]
        found.append(RunPictures(run.name + step, pictures, [images[name] for name in more], left_out))
    return found


def _images(folder: Path, files: list[str], clips: list[dict[str, Any]], budget: int) -> tuple[dict[str, Figure], list[str], int]:
    """Return figures by name of as many files as the budget holds, a sentence for each of the others, and the bytes taken."""
    figures: dict[str, Figure] = {}
    left_out = []
    used = 0
    for file in files:
        content, name = (folder / file).read_bytes(), Path(file).stem.replace("-", " ")
        if used + len(content) > budget:
            left_out.append(f"{name}: left out of this page for its size; it is {folder / file}")
            continue
        used += len(content)
        figures[name] = Figure(name, [], _caption(name, clips), image=png_image(content, name))
    return figures, left_out, used


def _caption(name: str, clips: list[dict[str, Any]]) -> str:
    """Return classes and files of the clips in a picture, as ``numbers.json`` has them; empty for pictures of none."""
    shown = clips if name == "images" else [clip for place, clip in enumerate(clips) if name == f"clip {place}"]
    found = []
    for clip in shown:
        classes = [f"{label} “{value}”" for label, value in clip["classes"].items()]
        found.append(", ".join([*classes, clip["file"]]))
    return ("Left to right: " if len(found) > 1 else "") + "; ".join(found)


def png_image(content: bytes, name: str) -> Image:
    """Return a PNG as an image inside the page."""
    return Image(f"data:image/png;base64,{base64.b64encode(content).decode()}", name)


def _similarity_chart(similarity: dict[str, list[float]]) -> Figure | None:
    return _profiles(similarity, "Similarity across frames, by layer", "mean cosine (no unit)", "layer")


def _gradient_chart(norms: dict[str, float]) -> Figure | None:
    """Return norms by block, whose names are ``PART PLACE``, with a line for each part."""
    parts: dict[str, list[float]] = {}
    for block, norm in norms.items():
        parts.setdefault(block.rpartition(" ")[0], []).append(norm)
    return _profiles(parts, "Gradient norm, by block", "L2 norm (no unit)", "block")


def _profiles(found: dict[str, list[float]], title: str, y_label: str, x_label: str) -> Figure | None:
    """Return values by layer, a line for each network; None without any."""
    curves = {name: values for name, values in found.items() if values}
    lines = [
        Line(Curve(list(range(1, len(values) + 1)), values), f"series-{place % SERIES}")
        for place, values in enumerate(curves.values())
    ]
    key = ColourKey([(name, line.colour) for name, line in zip(curves, lines, strict=True)])
    return figure(title, line_chart(lines, y_label, x_label=x_label), key=key)
