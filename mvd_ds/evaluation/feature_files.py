"""Readers and writers of feature files: one array each, its description beside it, and one index over all of them.

``features-00000.safetensors`` (or ``.npy``) holds the features of some videos, ``features-00000.json`` says of which and names
those that could not be read; it is written last, so a file with one is whole. ``index.csv`` has a line for every video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from mvd_ds.config import ConfigError
from mvd_ds.evaluation.csv_files import csv_text, read_csv
from mvd_ds.files import read_json, write_json, write_text, written_aside

INDEX = "index.csv"


class FeatureFile(NamedTuple):
    """The description of one file of features."""

    name: str
    """Name of the file that holds the array."""
    videos: list[int]
    """Index in the manifest of each row."""
    faults: dict[int, str]
    """Reason for which a video has no row, by its index."""


def write_features(folder: Path, number: int, kind: str, features: np.ndarray, videos: list[int], faults: dict[int, str]) -> None:
    """Write file ``number`` of ``folder``, whole or not at all.

    Args:
        folder: folder of the run.
        number: number of the file.
        kind: ``safetensors`` or ``npy``.
        features: (rows, ...).
        videos: index in the manifest of each row.
        faults: reason for which a video has no row, by its index.
    """
    stem = folder / f"features-{number:05}"
    with written_aside(stem.with_suffix(f".{kind}"), sync=False) as aside:
        if kind == "npy":
            with aside.open("wb") as file:
                np.save(file, features)
        else:
            safetensors.numpy.save_file({"features": np.ascontiguousarray(features)}, aside)
    described = {"file": f"{stem.name}.{kind}", "shape": list(features.shape), "videos": videos, "faults": faults}
    write_json(stem.with_suffix(".json"), described, sync=False)


def read_description(folder: Path, number: int) -> FeatureFile | None:
    """Return the description of file ``number``, or None while the file is not whole."""
    path = folder / f"features-{number:05}.json"
    if not path.exists():
        return None
    values: dict[str, Any] = read_json(path)
    if not (folder / values["file"]).exists():
        return None
    return FeatureFile(values["file"], values["videos"], {int(video): text for video, text in values["faults"].items()})


def write_index(
    folder: Path,
    files: list[FeatureFile],
    paths: list[str],
    labels: np.ndarray,
    label_names: tuple[str, ...],
    class_names: Mapping[str, Sequence[str]],
) -> None:
    """Write ``index.csv``: path, labels, their classes, file and row of every video, in the order of the manifest.

    Args:
        folder: folder of the run.
        files: descriptions of all files.
        paths: paths of all videos.
        labels: int64 (n, L).
        label_names: L names.
        class_names: names of the classes of those labels that have them; each gets a column ``LABEL_class``.
    """
    places = {video: (file.name, row) for file in files for row, video in enumerate(file.videos)}
    faults = {video: text for file in files for video, text in file.faults.items()}
    named = [(column, class_names[name]) for column, name in enumerate(label_names) if name in class_names]
    rows: list[list[object]] = [["path", *label_names, *(f"{label_names[column]}_class" for column, _ in named)]]
    rows[0] += ["file", "row", "fault"]
    for video, path in enumerate(paths):
        classes = [names[labels[video, column]] if labels[video, column] >= 0 else "" for column, names in named]
        rows.append([path, *labels[video].tolist(), *classes, *places.get(video, ("", "")), faults.get(video, "")])
    write_text(folder / INDEX, csv_text(rows))


def read_features(folder: str | Path) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Return all features of a finished folder, and the lines of its index that have one, in the order of the manifest.

    Raises:
        ConfigError: if there is no index: it is written when all files are whole.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise ConfigError(f"{folder}: has no {INDEX}; start `features` again, it goes on where it was")
    lines = [line for line in read_csv(folder / INDEX) if line["file"]]
    arrays = {name: read_array(folder / name) for name in dict.fromkeys(line["file"] for line in lines)}
    if not lines:
        raise ConfigError(f"{folder / INDEX}: no video of it could be read")
    return np.stack([arrays[line["file"]][int(line["row"])] for line in lines]), lines


def read_array(path: Path) -> np.ndarray:
    """Return the array of one file."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    return safetensors.numpy.load_file(path)["features"]
