"""Numbers of a list beside names of classes and folders that hold other numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.labels import Classes, labels_of, numbering_note
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.manifests.numbering import require_one_order, shift_note

TWELVE = [str(number) for number in range(12)]
SORTED = tuple(f"class_{number}" for number in sorted(TWELVE))


def test_numbers_in_names_speak_against_a_match_by_position(tmp_path: Path) -> None:
    for name in SORTED:
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "x.mp4").touch()
    tree = read_manifest(tmp_path / "tree")
    with pytest.raises(ConfigError, match=r"cannot be matched .*: 2 would be class 'class_10' by position; name the list's"):
        labels_of(tree, Classes("label", tuple(TWELVE), named=False), "tree")
    (tmp_path / "flat.txt").write_text("".join(f"{number}.mp4 {number}\n" for number in TWELVE))
    for number in TWELVE:
        (tmp_path / f"{number}.mp4").touch()
    with pytest.raises(ConfigError, match="2 would be class 'class_10'"):
        labels_of(read_manifest(tmp_path / "flat.txt"), Classes("label", SORTED, named=True), "flat.txt")
    (tmp_path / "tree.txt").write_text("".join(f"tree/{name}/x.mp4 {place}\n" for place, name in enumerate(SORTED)))
    told_by_folders = labels_of(read_manifest(tmp_path / "tree.txt"), Classes("label", SORTED, named=True), "tree.txt")
    assert told_by_folders.tolist() == list(range(12))


@pytest.mark.parametrize(
    "names", [("cat", "dog"), ("class_0", "class_1"), ("00 a", "01 b"), ("2d", "3d", "flat"), ("7 up", "7 down")]
)
def test_other_names_say_nothing_against_positions(names: tuple[str, ...]) -> None:
    require_one_order(names, "list")


def test_labels_that_are_the_folders_numbers_plus_one_are_told(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x.mp4").touch()
    (tmp_path / "list.txt").write_text("0/x.mp4 1\n1/x.mp4 2\n2/x.mp4 3\n")
    note = numbering_note(read_manifest(tmp_path / "list.txt"), Classes("label", ("0", "1", "2", "3"), named=True), "list")
    assert note == "list: labels differ from the numbers of the folders: the video in folder '0' is labelled 1"
    for paths in (["0/x", "1/x"], ["a/x", "1/x"], ["0/x", "0/y"], ["0/x", "2/x"]):
        assert shift_note(paths, np.array([0, 1] if paths[1] != "2/x" else [5, 6]), "list") == ""
