"""Lists as data sets come: the videos they name, their labels and classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.listings import read_listing


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


KINETICS = """label,youtube_id,time_start,time_end,split
ski jumping,ab.c-_1,3,13,train
abseiling,xy,10,20,train
abseiling,no,1,11,train
"""


def test_kinetics(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "ski jumping/ab.c-_1_000003_000013.mp4", "abseiling/xy_000010_000020.mkv", "other.mp4")
    (tmp_path / "train.csv").write_text(KINETICS)
    listing = read_listing(tmp_path / "train.csv", tmp_path / "videos")
    assert [(entry.name, entry.labels) for entry in listing.entries] == [
        ("ski jumping/ab.c-_1_000003_000013.mp4", (1,)),
        ("abseiling/xy_000010_000020.mkv", (0,)),
    ]
    assert listing.class_names == {"label": ("abseiling", "ski jumping")} and list(listing.missing) == ["no_000001_000011"]
    assert all(Path(str(entry.location)).exists() for entry in listing.entries)


def test_something_something(tmp_path: Path) -> None:
    touch(tmp_path / "webm", "78687.webm", "42.webm")
    rows = [
        {"id": "78687", "label": "holding a cup", "template": "Holding [something]"},
        {"id": "42", "label": "x", "template": "Dropping [something] on [something]"},
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    numbers = {"Holding something": "0", "Dropping something on something": "1", "Moving something up": "2"}
    (tmp_path / "labels.json").write_text(json.dumps(numbers))
    listing = read_listing(tmp_path / "train.json", tmp_path / "webm")
    assert [(entry.name, entry.labels) for entry in listing.entries] == [("78687.webm", (0,)), ("42.webm", (1,))]
    assert listing.class_names == {"label": tuple(numbers)}


def test_csv_of_paths(tmp_path: Path) -> None:
    touch(tmp_path, "a/one.mp4", "a/two.mp4")
    (tmp_path / "list.csv").write_text("path,label\na/one.mp4,dog\na/two.mp4,cat\n")
    listing = read_listing(tmp_path / "list.csv")
    assert [entry.labels for entry in listing.entries] == [(1,), (0,)] and listing.class_names["label"] == ("cat", "dog")
    (tmp_path / "list.csv").write_text("/gone/one.mp4,10\na/two.mp4,2\n")
    listing = read_listing(tmp_path / "list.csv")
    assert [(entry.name, entry.labels) for entry in listing.entries] == [("a/one.mp4", (10,)), ("a/two.mp4", (2,))]


def test_folders_and_manifests(tmp_path: Path) -> None:
    folder = touch(tmp_path / "tree", "dog/1.mp4", "cat/2.mp4")
    listing = read_listing(folder)
    assert [(entry.name, entry.labels) for entry in listing.entries] == [("cat/2.mp4", (0,)), ("dog/1.mp4", (1,))]
    (tmp_path / "list.txt").write_text("dog/1.mp4 7 1\n")
    assert read_listing(tmp_path / "list.txt", folder).entries[0][:3] == ("dog/1.mp4", str(folder / "dog/1.mp4"), (7, 1))


def test_classes_can_be_those_of_the_training_split(tmp_path: Path) -> None:
    touch(tmp_path, "xy_000010_000020.mp4")
    (tmp_path / "val.csv").write_text("label,youtube_id,time_start,time_end\nski jumping,xy,10,20\n")
    (tmp_path / "manifest.txt").write_text('# classes: ["abseiling", "ski jumping"]\nxy_000010_000020.mp4 1\n')
    assert read_listing(tmp_path / "val.csv", None, tmp_path / "manifest.txt").entries[0].labels == (1,)
    assert read_listing(tmp_path / "val.csv").entries[0].labels == (0,)
    (tmp_path / "few.json").write_text('["abseiling"]')
    with pytest.raises(ConfigError, match="class 'ski jumping' is not one of the 1 classes; check --classes"):
        read_listing(tmp_path / "val.csv", None, tmp_path / "few.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "the list is empty"),
        ("a.csv", "x.mp4\n", "none of the first 1 videos exists"),
        ("a.csv", "path,label\n\nx.mp4\n", "a.csv:3: 'x.mp4' is not 'path,label'"),
        ("a.csv", "label,youtube_id,time_start,time_end\nski,x,one,2\n", "a.csv:2: is not a line of label,youtube_id"),
        ("a.csv", "x.mp4,1\n", "none of its 1 videos is below .*say --videos FOLDER"),
        ("a.json", "[1]", "is not a list of"),
        ("a.json", "{", "cannot be read"),
        ("a.txt", "x.mp4 1\n", "none of the first 1 videos exists"),
    ],
)
def test_faults_name_the_list(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_listing(tmp_path / name)
    assert "\n" not in str(caught.value)
