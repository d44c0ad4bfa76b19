"""Two numberings are never equated without evidence: digits match by value, names by name, and the rest is told or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.data.manifests.labels import (
    Classes,
    classes_of,
    labels_of,
    numbered_alike,
    numbering_note,
)
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from mvd_ds.data.manifests.numbering import require_same_classes
from mvd_ds.files import ConfigError

TWELVE = [str(number) for number in range(12)]


def tree(folder: Path, names: list[str]) -> Manifest:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "x.mp4").touch()
    return read_manifest(folder)


def listed(path: Path, lines: list[str]) -> Manifest:
    path.write_text("".join(f"{line}\n" for line in lines))
    for line in lines:
        if not line.startswith("#"):
            (path.parent / line.split()[0]).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / line.split()[0]).touch()
    return read_manifest(path)


@pytest.mark.parametrize(
    "names", [TWELVE, [f"{number:02}" for number in range(12)], [str(3 * number + 1) for number in range(12)]]
)
def test_folders_of_digits_and_lists_of_numbers_match_by_value(tmp_path: Path, names: list[str]) -> None:
    folder = tree(tmp_path / "videos", names)
    plain = listed(tmp_path / "videos/list.txt", [f"{name}/x.mp4 {int(name)}" for name in names])
    classes, labels = classes_of([folder], ["folder"], None)
    names_by_path = dict(zip([ref.path for ref in folder.refs], [classes.names[label] for label in labels], strict=True))
    again = labels_of(plain, classes, "list")
    assert {ref.path: classes.names[label] for ref, label in zip(plain.refs, again, strict=True)} == names_by_path
    old = Classes("label", tuple(sorted(names)), named=True)  # a classifier that was trained when folders sorted as text
    assert [int(old.names[label]) for label in labels_of(plain, old, "list")] == [int(name) for name in names]
    assert [int(old.names[label]) for label in labels_of(folder, old, "folder")] == [int(name) for name in sorted(names)]


def test_folders_of_digits_are_numbered_by_value(tmp_path: Path) -> None:
    folder = tree(tmp_path / "videos", TWELVE)
    assert folder.class_names["label"] == tuple(TWELVE)
    assert {Path(ref.path).parent.name: ref.labels[0] for ref in folder.refs} == {name: int(name) for name in TWELVE}


def test_a_folder_that_lacks_a_class_matches_numbers_by_value(tmp_path: Path) -> None:
    few = tree(tmp_path / "val", ["0", "2", "10"])
    numbers = Classes("label", tuple(TWELVE), named=False)
    assert sorted(labels_of(few, numbers, "val").tolist()) == [0, 2, 10]
    assert "its 1 is 2 ('2'), its 2 is 10 ('10')" in numbering_note(few, numbers, "val")
    training = listed(tmp_path / "train.txt", [f"{name}.mp4 {name}" for name in TWELVE])
    assert sorted(numbered_alike(few, training, "val").labels[:, 0].tolist()) == [0, 2, 10]
    assert numbering_note(training, numbers, "train") == ""


def test_numbers_outside_the_classes_are_named(tmp_path: Path) -> None:
    plain = listed(tmp_path / "list.txt", ["a.mp4 1", "b.mp4 0"])
    with pytest.raises(ConfigError, match=r"list: list\.txt:2: class 0 is not among the 3 classes 1, 2, 3"):
        labels_of(plain, Classes("label", ("1", "2", "3"), named=True), "list")


def test_numbers_that_the_folders_contradict_are_refused(tmp_path: Path) -> None:
    classes = Classes("label", ("green", "red"), named=True)
    wrong = listed(tmp_path / "list.txt", ["red/x.mp4 0", "green/x.mp4 1"])
    with pytest.raises(ConfigError, match=r"would be class 'green', but lies in a folder 'red' .*'# classes:"):
        labels_of(wrong, classes, "list")
    right = listed(tmp_path / "list.txt", ["red/x.mp4 1", "green/x.mp4 0"])
    assert labels_of(right, classes, "list").tolist() == [1, 0]
    assert (
        numbering_note(right, classes, "list") == "list: its numbers are taken for classes by position: 0 is 'green', 1 is 'red'"
    )


def test_names_for_numbers_need_as_many(tmp_path: Path) -> None:
    folder = tree(tmp_path / "val", ["green", "red"])
    with pytest.raises(ConfigError, match=r"val: names 2 classes \(green, red\), but the 3 to match them with are plain numbers"):
        labels_of(folder, Classes("label", ("0", "1", "2"), named=False), "val")
    with pytest.raises(ConfigError, match="nothing shows which number is which name"):
        labels_of(folder, Classes("label", ("0", "1"), named=False), "val")
    numbers = Classes("label", ("0", "1"), named=False, by_position=True)
    assert labels_of(folder, numbers, "val").tolist() == [0, 1]
    assert "its class names are classes by position: 0 is 'green', 1 is 'red'" in numbering_note(folder, numbers, "val")
    training = listed(tmp_path / "train.txt", ["a.mp4 0", "b.mp4 1", "c.mp4 2"])
    with pytest.raises(ConfigError, match="plain numbers"):
        numbered_alike(folder, training, "val")


def test_videos_numbered_alike_have_the_training_names(tmp_path: Path) -> None:
    training, val = tree(tmp_path / "train", ["a", "b", "c"]), tree(tmp_path / "val", ["a", "c"])
    alike = numbered_alike(val, training, "val")
    assert [alike.class_names["label"][label] for label in alike.labels[:, 0]] == ["a", "c"]


@pytest.mark.parametrize(
    ("names", "classes", "named", "differing"),
    [
        (("a", "b"), ("a", "b"), True, None),
        (("b", "a"), ("a", "b"), True, "its class 0 is 'b', the manifest's is 'a'"),
        (tuple(sorted(TWELVE)), tuple(TWELVE), False, "its class 2 is '10', the manifest's is '2'"),
        (tuple(TWELVE), tuple(f"{int(name):02}" for name in TWELVE), True, None),
        (("0", "1"), ("a", "b"), True, None),
        (("a", "b"), ("0", "1"), False, None),
    ],
)
def test_a_teachers_outputs_are_the_classes_that_are_learnt(
    names: tuple[str, ...], classes: tuple[str, ...], named: bool, differing: str | None
) -> None:
    wanted = Classes("label", classes, named)
    if differing is None:
        require_same_classes(names, wanted.names, "teacher")
    else:
        with pytest.raises(ConfigError, match=differing):
            require_same_classes(names, wanted.names, "teacher")
