"""Text from outside leaves without a fault and comes back as it was; files get the mode that the umask says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.evaluation.csv_files import csv_text, read_csv
from mvd_ds.evaluation.feature_files import write_features
from mvd_ds.files import decoded, encoded, folder_written_aside, json_text, one_line, printable, write_text

NAMES = (
    "plain",
    "=1+1",
    "'=1+1",
    "''@x",
    "-1",
    "+",
    "@a",
    "\tx",
    "\rx",
    "a\rb",
    "a\nb",
    'q"q',
    "a,b",
    "",
    "caf\udce9",
    "日本",
    "'quoted'",
)


def test_csv_comes_back_and_computes_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "x.csv", csv_text([["name", "number"], *([name, -1] for name in NAMES)]))
    assert [row["name"] for row in read_csv(tmp_path / "x.csv")] == list(NAMES)
    assert {row["number"] for row in read_csv(tmp_path / "x.csv")} == {"-1"}, "numbers are no text"
    for line in csv_text([[name] for name in NAMES]).splitlines():
        assert not line.removeprefix('"').startswith(("=", "+", "-", "@", "\t", "\r"))


def test_json_comes_back_and_can_be_encoded() -> None:
    assert json.loads(json_text(list(NAMES)).encode()) == list(NAMES)
    assert "日本" in json_text(list(NAMES))


@pytest.mark.parametrize("name", [*NAMES, "\x1b[31m\x9b\u202e", "half \ud83d"])
def test_what_people_see_is_printable(name: str) -> None:
    printable(name).encode()
    assert one_line(name).isprintable()
    assert "\x1b" not in printable(name) and "\x9b" not in printable(name)
    assert encoded(name) or not name


def test_bytes_of_names_come_back() -> None:
    assert decoded(encoded("caf\udce9 日本")) == "caf\udce9 日本"
    assert printable("caf\udce9\u00a0%") == "caf\\xe9\u00a0%"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_the_umask(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        write_features(tmp_path, 0, "safetensors", np.zeros((1, 2), np.float32), [0], {})
        with folder_written_aside(tmp_path / "model") as aside:
            (aside / "weights").touch(0o600)
    finally:
        os.umask(old)
    for path in (*tmp_path.glob("features*"), tmp_path / "model" / "weights"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path
