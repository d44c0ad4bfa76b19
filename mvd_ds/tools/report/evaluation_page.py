"""``evaluation.html``: a test on one page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mvd_ds.data.readers.decode import DecodeError, open_video
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.files import read_json, write_text
from mvd_ds.tools.report.document import document
from mvd_ds.tools.report.evaluation_figures import confusion_picture, reliability_chart, worst_classes
from mvd_ds.tools.report.formatting import MISSING, PERCENT, count, percent
from mvd_ds.tools.report.markup import Html, element, row, table
from mvd_ds.tools.report.page import definitions
from mvd_ds.training.console import say
from mvd_ds.training.reporting.provenance import machine, versions

#: Videos that could not be read and are named on the page; evaluation.json names all.
MAX_VIDEOS = 200
THUMBNAIL_PX = 96


def write_evaluation_page(folder: Path) -> None:
    """Write ``evaluation.html`` and ``confusion.png`` beside the ``evaluation.json`` of a folder.

    Raises:
        ConfigError: if there is no such file.
    """
    results = read_json(folder / "evaluation.json")
    picture = confusion_picture(results["confusion"], results["classes"], folder / "confusion.png")
    title = f"Test of {results['weights']}"
    page = document(
        title,
        _subtitle(results),
        _summary(results),
        _confusion(picture),
        _pairs(results),
        _classes(results),
        _unreadable(results),
        _provenance(results),
    )
    write_text(folder / "evaluation.html", page)
    say(f"{folder / 'evaluation.html'}, evaluation.json, predictions.csv and confusion.png")


def _subtitle(results: dict[str, Any]) -> str:
    views = results["views"]
    return (
        f"{results['manifest']}, label {results['label']}: {count(results['samples'], 'video')}, "
        f"{views['segments']} x {views['crops']} views each. Written {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}"
    )


def _summary(results: dict[str, Any]) -> Html:
    chance = max(row["samples"] for row in results["per_class"]) / results["samples"]
    rows = [
        row("top-1", percent(results["top1"], 2), class_="first"),
        row("top-5", percent(results["top5"], 2)),
        row("mean of the classes' top-1", percent(results["mean_per_class"], 2)),
        row("always the most frequent class", percent(chance, 2), class_="aside"),
        row("expected calibration error", percent(results["calibration_error"], 2)),
        row("videos", f"{results['samples']:,}"),
        row("of them unreadable, counted as wrong", f"{results['unreadable']:,}"),
    ]
    reliability = reliability_chart(results["calibration"])
    figure = element(
        "figure",
        element("strong", "Is it as good as it thinks?"),
        reliability,
        element("figcaption", "Each dot is a bin of confidence, as large as its share of the videos."),
    )
    lead = f"{percent(results['top1'])} of {count(results['samples'], 'video')} are classified rightly."
    box = element("div", table(["", ""], rows))
    return element(
        "section", element("p", lead, class_="lead"), element("div", box, figure if reliability else None, class_="beside")
    )


def _confusion(picture: bytes) -> Html:
    source = "data:image/png;base64," + base64.b64encode(picture).decode()
    image = element("img", src=source, alt="confusion matrix", style="max-width: 100%; height: auto; background: #fff")
    return element("section", element("h2", "Who is taken for whom"), element("figure", image))


def _pairs(results: dict[str, Any]) -> Html | None:
    if not results["confused_pairs"]:
        return None
    classes = results["classes"]
    rows = []
    for pair in results["confused_pairs"]:
        pictures = [_thumbnail(example) for example in pair["examples"]]
        cells = (
            element("td", classes[pair["predicted"]]),
            element("td", f"{pair['videos']:,}", class_="number"),
            element("td", percent(pair["share"]), class_="number"),
            element("td", *pictures),
        )
        rows.append(element("tr", element("th", classes[pair["true"]], scope="row"), *cells))
    note = "Pictures are the middle frames of the videos of which the classifier is surest."
    return element(
        "section",
        element("h2", "Most confused"),
        table(["true", "predicted", "videos", "of the true class", "surest mistakes"], rows, class_="words"),
        element("p", note, class_="quiet"),
    )


def _thumbnail(example: dict[str, Any]) -> Html:
    """The middle frame of a video; a dash where it cannot be read any more."""
    path = example["path"]
    inside = "shard" in example
    try:
        with open_video(ByteRange(example["shard"], example["offset"], example["size"], path) if inside else path) as video:
            frame = video.get(np.array([len(video) // 2]))[0]
    except DecodeError:
        return element("span", MISSING, title=path)
    image = Image.fromarray(frame)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=85)
    source = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return element("img", src=source, alt=path, title=path, style="margin-right: 0.4rem", height=str(image.height))


def _classes(results: dict[str, Any]) -> Html:
    bars = worst_classes(results["classes"], results["per_class"])
    rows = [
        row(name, percent(entry["top1"]), f"{entry['samples']:,}")
        for name, entry in zip(results["classes"], results["per_class"], strict=True)
    ]
    chart = element("figure", element("strong", "Lowest top-1, with the number of videos"), bars) if bars else None
    listed = element("details", element("summary", f"all {len(rows)} classes"), table(["class", "top-1", "videos"], rows))
    return element("section", element("h2", "Classes"), chart, listed)


def _unreadable(results: dict[str, Any]) -> Html | None:
    faults = results["unreadable_videos"]
    if not faults:
        return None
    rows = []
    for fault in faults[:MAX_VIDEOS]:
        path, _, reason = fault.partition(": ")
        rows.append(element("tr", element("td", element("code", path)), element("td", reason)))
    more = f" {len(faults) - MAX_VIDEOS:,} more are named in evaluation.json." if len(faults) > MAX_VIDEOS else ""
    return element(
        "section",
        element("h2", "Videos that could not be read"),
        table(["video", "reason"], rows, class_="words"),
        element("p", f"Each counts as wrong.{more}", class_="quiet"),
    )


def _provenance(results: dict[str, Any]) -> Html:
    host = machine()
    pairs = [
        ("weights", results["weights"]),
        ("machine", f"{host['processor']}, {host['cores']} cores; {', '.join(host['gpus']) or 'no GPU'}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("intervals", f"a top-1 of p on n videos has a standard error of sqrt(p (1 - p) / n), here {_standard_error(results)}"),
    ]
    return element("section", element("h2", "Provenance"), definitions(pairs, str))


def _standard_error(results: dict[str, Any]) -> str:
    share, samples = results["top1"], results["samples"]
    return f"{100 * (share * (1 - share) / samples) ** 0.5:.2f}{PERCENT}"
