"""The page ``evaluation.html``: an evaluation in one file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from mvd_ds.data.readers.decode import DecodeError, open_video
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.evaluation.retrieval import RECALL
from mvd_ds.files import counted, one_line, read_json, write_text
from mvd_ds.tools.report.answers.answer_page import PAGES, write_answer_page
from mvd_ds.tools.report.evaluation_figures import NUMBERED_CLASSES, confusion_picture, reliability_chart, worst_classes
from mvd_ds.tools.report.formatting import FEW_CLIPS, MISSING, PERCENT, few_clips, percent, span, wilson_interval
from mvd_ds.tools.report.picture_section import png_image
from mvd_ds.tools.report.templating import Cell, Definition, Figure, Image, Row, Table, cells, figure, render
from mvd_ds.training.console import say
from mvd_ds.training.reporting.provenance import machine, versions

MAX_VIDEOS = 200
"""Number of unreadable videos that the page names; evaluation.json names all."""
SMALL_PRINT = f"Wilson's 95{PERCENT} interval of top-1: how far another set of so many videos could move it"
THUMBNAIL_PX = 96
"""Longer side of the pictures of confused videos."""


def write_evaluation_page(folder: Path) -> None:
    """Write ``evaluation.html``, and of a classifier ``confusion.png``, beside the ``evaluation.json`` of a folder.

    Raises:
        ConfigError: if there is no such file.
    """
    results = read_json(folder / "evaluation.json")
    if results.get("task") in PAGES:
        write_answer_page(folder, results, _origin(results))
        return
    samples, classes = results["samples"], results["classes"]
    picture = confusion_picture(results["confusion"], classes, folder / "confusion.png")
    numbers = "Numbers are videos." if len(classes) <= NUMBERED_CLASSES else "The numbers are in evaluation.json."
    unreadable, note = _unreadable(results)
    page = render(
        "evaluation",
        title=f"Evaluation of {results['weights']}",
        subtitle=_subtitle(results),
        lead=f"{percent(results['top1'])} of {counted(samples, 'video')} are classified right.",
        attention=[few_clips(samples, "video")] if samples < FEW_CLIPS else [],
        summary=_summary(results),
        retrieval=_retrieval(results),
        reliability=_reliability(results),
        confusion=Figure(
            "",
            [],
            f"Rows are true classes, columns are predicted ones; colours are shares of the true class. {numbers}",
            image=png_image(picture, "confusion matrix"),
        ),
        pairs=_pairs(results),
        worst=figure("Lowest top-1, with the number of videos", worst_classes(classes, results["per_class"])),
        classes=_classes(results),
        unreadable=unreadable,
        unreadable_note=note,
        places=[*_origin(results), Definition("small print", SMALL_PRINT)],
    )
    write_text(folder / "evaluation.html", page)
    say(f"{one_line(folder / 'evaluation.html')}, evaluation.json, predictions.csv and confusion.png")


def _subtitle(results: dict[str, Any]) -> str:
    views = results["views"]
    return (
        f"{results['manifest']}, label {results['label']}: {counted(results['samples'], 'video')}, "
        f"{views['segments']} x {views['crops']} views each. Written {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}"
    )


def _summary(results: dict[str, Any]) -> Table:
    samples = results["samples"]
    frequent = max(entry["samples"] for entry in results["per_class"]) / samples
    values: dict[str, str | Cell] = {
        "top-1": Cell(percent(results["top1"], 2), span(*wilson_interval(results["top1"], samples))),
        "top-5": percent(results["top5"], 2),
        "mean of the classes' top-1": percent(results["mean_per_class"], 2),
        "always the most frequent class": percent(frequent, 2),
        "expected calibration error": percent(results["calibration_error"], 2),
        "videos": f"{samples:,}",
        "unreadable videos, counted as wrong": f"{results['unreadable']:,}",
    }
    if len(results["classes"]) <= 5:
        del values["top-5"]  # it is always 100 %
    kinds = {"top-1": "first", "always the most frequent class": "aside"}
    return Table(["", ""], [Row(name, cells(value), kinds.get(name, "")) for name, value in values.items()], "pairs")


def _retrieval(results: dict[str, Any]) -> Table | None:
    """Return how far down a list the right answer stands; None without captions."""
    if "retrieval" not in results:
        return None
    found = results["retrieval"]
    names = {"text_to_video": f"{found['texts']:,} texts find videos", "video_to_text": f"{found['videos']:,} videos find texts"}
    if several := found.get("texts_of_several_videos"):
        names["text_to_video"] += f", {several:,} of them of several videos"
    rows = [
        Row(name, cells(*(percent(found[way][f"r{length}"], 1) for length in RECALL), f"{found[way]['median_rank']:g}"))
        for way, name in names.items()
    ]
    if "chance_r1" in found["text_to_video"]:
        for way, words in {"text_to_video": "of videos", "video_to_text": "of texts"}.items():
            guessed = (percent(found[way][f"chance_r{length}"], 1) for length in RECALL)
            rows.append(Row(f"a random order {words}", cells(*guessed, ""), "aside"))
    return Table(["retrieval", *(f"R@{length}" for length in RECALL), "median rank"], rows)


def _reliability(results: dict[str, Any]) -> Figure | None:
    note = "Each dot is a bin of confidence, as large as its share of the videos. On the dotted line confidence equals accuracy."
    return figure("Confidence and accuracy", reliability_chart(results["calibration"]), note)


def _pairs(results: dict[str, Any]) -> Table | None:
    classes = results["classes"]
    rows = []
    for pair in results["confused_pairs"]:
        thumbnails = [_thumbnail(example) for example in pair["examples"]]
        shown = tuple(picture for picture in thumbnails if picture)
        mistakes = Cell("" if shown else MISSING, images=shown)
        predicted = classes[pair["predicted"]]
        rows.append(Row(classes[pair["true"]], cells(predicted, f"{pair['videos']:,}", percent(pair["share"]), mistakes)))
    head = ["true class", "predicted class", "videos", "share of the true class", "most confident mistakes"]
    return Table(head, rows, "words") if rows else None


def _thumbnail(example: dict[str, Any]) -> Image | None:
    """Return the middle frame of a video; None if it cannot be read any more."""
    path = example["path"]
    inside = "shard" in example
    try:
        with open_video(ByteRange(example["shard"], example["offset"], example["size"], path) if inside else path) as video:
            frame = video.get(np.array([len(video) // 2]))[0]
    except DecodeError:
        return None
    picture = Picture.fromarray(frame)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=85)
    return Image("data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode(), path)


def _classes(results: dict[str, Any]) -> Table:
    rows = [
        Row(name, cells(percent(entry["top1"]), f"{entry['samples']:,}"))
        for name, entry in zip(results["classes"], results["per_class"], strict=True)
    ]
    return Table(["class", "top-1", "videos"], rows)


def _unreadable(results: dict[str, Any]) -> tuple[Table | None, str]:
    """Return the videos that could not be read, and a note on those that are not named."""
    faults = results["unreadable_videos"]
    rows = []
    for fault in faults[:MAX_VIDEOS]:
        path, _, reason = fault.partition(": ")
        rows.append(Row(path, cells(reason), is_code=True))
    more = f" {len(faults) - MAX_VIDEOS:,} more are named in evaluation.json." if len(faults) > MAX_VIDEOS else ""
    return Table(["video", "reason"], rows, "words") if rows else None, more


def _origin(results: dict[str, Any]) -> list[Definition]:
    host = machine()
    return [
        Definition("weights", results["weights"], is_code=True),
        *([Definition("words of the classes", results["words"], is_code=True)] if "words" in results else []),
        Definition("machine", f"{host['processor']}, {host['cores']} cores; {', '.join(host['gpus']) or 'no GPU'}"),
        Definition("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
    ]
