"""Numbers of a list beside names of classes and folders that hold other numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.labels import Classes, classes_of, labels_of, numbered_alike, numbering_note
from mvd_ds.data.manifests.listings import read_listing
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


def shifted(folder: Path, shift: int) -> Path:
    """Write a list whose labels are the numbers of the folders, 1 to 3, plus ``shift``."""
    for number in range(1, 4):
        (folder / str(number)).mkdir(exist_ok=True)
        (folder / str(number) / "x.mp4").touch()
    list_ = folder / f"list{shift}.txt"
    list_.write_text("".join(f"{number}/x.mp4 {number + shift}\n" for number in range(1, 4)))
    return list_


def test_labels_that_are_off_by_one_from_the_folders_are_refused(tmp_path: Path) -> None:
    manifest, classes = read_manifest(shifted(tmp_path, 1)), Classes("label", tuple("01234"), named=True)
    message = "the video in folder '1' is labelled 2, and class 2 is that of folder '2': all its labels are off by 1; correct"
    with pytest.raises(ConfigError, match=message):
        labels_of(manifest, classes, "list")
    accepted = classes._replace(by_position=True)
    assert labels_of(manifest, accepted, "list").tolist() == [2, 3, 4]
    note = "list: labels differ from the numbers of the folders: the video in folder '1' is labelled 2"
    assert numbering_note(manifest, accepted, "list") == note
    for paths in (["0/x", "1/x"], ["a/x", "1/x"], ["0/x", "0/y"], ["0/x", "2/x"]):
        assert shift_note(paths, np.array([0, 1] if paths[1] != "2/x" else [5, 6]), "list") == ""


def test_a_held_out_list_stands_to_the_folders_as_the_training_list_does(tmp_path: Path) -> None:
    training, alike, other = (read_manifest(shifted(tmp_path, shift)) for shift in (-1, -1, 0))
    classes, _ = classes_of([training], ["train"], None)
    assert labels_of(alike, classes, "val").tolist() == [0, 1, 2]
    assert numbered_alike(alike, training, "val").labels[:, 0].tolist() == [0, 1, 2]
    for refused in (lambda: numbered_alike(other, training, "val"), lambda: labels_of(other, classes, "val")):
        with pytest.raises(ConfigError, match="val: the video in folder '1' is labelled 1, and class 1 is that of folder '2'"):
            refused()


def test_accents_in_two_encodings_are_one_class_or_none(tmp_path: Path) -> None:
    composed, decomposed = "caf\xe9", "cafe\u0301"
    for name in (composed, decomposed, "dog"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "x.mp4").touch()
    (tmp_path / "tree" / "list.csv").write_text("".join(f"{name}/x.mp4,{name}\n" for name in (composed, decomposed)))
    for read, source in ((read_manifest, "tree"), (read_listing, "tree/list.csv")):
        with pytest.raises(ConfigError, match=r"the classes '.*' and '.*' read alike .* NFC and NFD; write both alike"):
            read(tmp_path / source)
    (tmp_path / "tree" / composed / "x.mp4").unlink()
    with pytest.raises(ConfigError, match=r"reads like .*, but one is NFC and the other NFD: write both alike"):
        labels_of(read_manifest(tmp_path / "tree"), Classes("label", (composed, "dog"), named=True), "val")
