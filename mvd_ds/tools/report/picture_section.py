"""The newest pictures of runs, in the page itself."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from mvd_ds.files import read_json
from mvd_ds.tools.report.charts import Line, line_chart
from mvd_ds.tools.report.markup import Html, element
from mvd_ds.tools.report.run_records import Curve, RunRecord

#: Bytes of all images of a page; base64 makes them a third larger, and the page is to stay below 10 MB.
MAX_BYTES = 5_000_000
SERIES = 8
#: Clips of a run that a reader sees without asking for more.
OPEN_CLIPS = 2


def newest_pictures(run: Path) -> Path | None:
    """The folder of the last step at which pictures were taken, None without any."""
    folders = sorted((run / "pictures").glob("step-*"))
    return folders[-1] if folders else None


def picture_numbers(run: Path) -> dict[str, Any]:
    """Step, similarity by network and layer, and files of the newest pictures; empty without any.

    Raises:
        ConfigError: if ``numbers.json`` cannot be read.
    """
    folder = newest_pictures(run)
    if folder is None:
        return {}
    numbers = read_json(folder / "numbers.json") if (folder / "numbers.json").exists() else {}
    return numbers | {"folder": str(folder), "files": sorted(path.name for path in folder.glob("*.png"))}


def picture_section(runs: list[RunRecord]) -> Html | None:
    """Pictures and likeness across frames of every run that took some; None without any."""
    left = MAX_BYTES
    parts = []
    for run in runs:
        numbers = picture_numbers(run.path)
        if not numbers:
            continue
        images, used = _images(Path(numbers["folder"]), numbers["files"], left)
        left -= used
        step = f", step {numbers['step']:,}" if "step" in numbers else ""
        parts.append(element("h3", run.name + step))
        charts = (_similarity_chart(numbers.get("similarity", {})), _gradient_chart(numbers.get("gradient_norm", {})))
        parts += _laid_out(images, [chart for chart in charts if chart])
    if not parts:
        return None
    note = (
        "Columns are moments of a clip. Grey: not predicted there. Features are shown by their first three principal components, "
        "a teacher's and what the student predicts of it in the same colours. Frames x frames: mean cosine similarity of tokens "
        "at the same place, from 0 (dark) to 1 (yellow), one square for each layer."
    )
    return element("section", element("h2", "Pictures"), element("p", note, class_="quiet"), *parts)


def _laid_out(images: dict[str, Html], charts: list[Html]) -> list[Html]:
    """The first clips and what sums them up, open; the others for whom wants to look on."""
    clips = [name for name in images if name.startswith("clip")]
    more = clips[OPEN_CLIPS:]
    shown = element("div", *(image for name, image in images.items() if name not in more), *charts, class_="pictures")
    if not more:
        return [shown]
    summary = element("summary", f"{len(more)} more clip{'s' * (len(more) > 1)}")
    return [shown, element("details", summary, element("div", *(images[name] for name in more), class_="pictures"))]


def _images(folder: Path, files: list[str], budget: int) -> tuple[dict[str, Html], int]:
    """Figures by name of as many files as the budget holds, of the others a word; and the bytes taken."""
    figures: dict[str, Html] = {}
    used = 0
    for file in files:
        content, name = (folder / file).read_bytes(), Path(file).stem.replace("-", " ")
        if used + len(content) > budget:
            figures[name] = element("p", f"{name}: left out of this page for its size; it is {folder / file}", class_="quiet")
            continue
        used += len(content)
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        # Of images alone, what stands in their name is text from a file; everything else here is ours.
        image = Html(f'<img alt="{html.escape(name)}" src="{source}">')
        figures[name] = element("figure", element("strong", name), image)
    return figures, used


def _similarity_chart(similarity: dict[str, list[float]]) -> Html | None:
    return _profiles(similarity, "Similarity across frames, by layer", "mean cosine (no unit)", "layer")


def _gradient_chart(norms: dict[str, float]) -> Html | None:
    """Norms by block, ``PART PLACE``, a line for each part."""
    parts: dict[str, list[float]] = {}
    for block, norm in norms.items():
        parts.setdefault(block.rpartition(" ")[0], []).append(norm)
    return _profiles(parts, "Gradient norm, by block", "L2 norm (no unit)", "block")


def _profiles(found: dict[str, list[float]], title: str, y_label: str, x_label: str) -> Html | None:
    """Values by layer, a line for each network; None without any."""
    curves = {name: values for name, values in found.items() if values}
    if not curves:
        return None
    lines = [
        Line(Curve(list(range(1, len(values) + 1)), values), f"series-{place % SERIES}")
        for place, values in enumerate(curves.values())
    ]
    entries = (
        element("span", element("i", style=f"border-color: var(--{line.colour})"), name)
        for name, line in zip(curves, lines, strict=True)
    )
    chart = line_chart(lines, y_label, x_label=x_label)
    return element("figure", element("strong", title), element("p", *entries, class_="key"), chart)
