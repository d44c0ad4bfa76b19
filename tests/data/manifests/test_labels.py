"""Labels, classes and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.labels import Classes, labels_of, numbered_alike, relabelled, why_not_a_class
from mvd_ds.data.manifests.labels import classes_of as classes_of_all
from mvd_ds.data.manifests.manifest import Manifest, read_manifest
from video_files import write_video


def classes_of(manifest: Manifest, label: str | None, origin: str, allow_empty: bool = False) -> Classes:
    return classes_of_all([manifest], [origin], label, allow_empty)[0]


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Writes a manifest of one real video many times over, with these labels."""
    write_video(tmp_path / "a.mp4", frames=4, width=32, height=32)

    def written(name: str, labels: list[str], *headers: str) -> Manifest:
        lines = [*headers, *(f"a.mp4 {label}" for label in labels)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return read_manifest(tmp_path / name)

    return written


def test_classes_come_from_the_manifest(write) -> None:
    found = classes_of(write("a.txt", ["0", "2", "1", "2"]), None, "a.txt")
    assert found[:4] == ("label", ("0", "1", "2"), False, False)
    named = write("b.txt", ["0 1", "1 0"], "# labels: what how", '# classes: {"what": ["cat", "dog"], "how": ["up", "down"]}')
    assert classes_of(named, "how", "b.txt")[:4] == ("how", ("up", "down"), True, False)
    assert labels_of(named, classes_of(named, "how", "b.txt"), "b.txt").tolist() == [1, 0]
    assert labels_of(named, classes_of(named, "what", "b.txt"), "b.txt").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "headers", "label", "words"),
    [
        (["", ""], [], None, "has no labels; write 'path label' lines"),
        (["0 1", "1 0"], ["# labels: what how"], None, "has the labels what, how; choose one: label=what"),
        (["0 1", "1 0"], ["# labels: what how"], "whta", "has no label 'whta'; did you mean 'what'"),
        (["0", "-1"], [], None, r"a.txt:2: label -1 is outside 0 to 0"),
        (["0", "1", "7"], ['# classes: ["a", "b"]'], None, "names 2 classes of .* labelled 7"),
        (["0", "2"], [], None, "1 of 3 classes have no video: 1; number classes from 0"),
        (["0", "0"], ['# classes: ["a", "b"]'], None, r"1 of 2 classes have no video: 1 \(b\)"),
        (["0", "0"], [], None, "has a single class"),
        (["0", "1", "1763294400"], [], None, r"a.txt:3: label 1763294400 is outside 0 to 99999 \(100000 classes\)"),
    ],
)
def test_a_fault_is_one_line(write, labels, headers, label, words) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        classes_of(write("a.txt", labels, *headers), label, "a.txt")  # what the file alone contradicts is seen on reading
    assert "\n" not in str(caught.value)


def test_empty_classes_can_be_wanted(write) -> None:
    assert len(classes_of(write("a.txt", ["0", "2"]), None, "a.txt", allow_empty=True).names) == 3


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """train/{a,b,c} and val/{a,c}: the tree that lacks a class numbers the others differently."""
    for split, names in (("train", "abc"), ("val", "ac")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            write_video(tmp_path / split / name / "x.mp4", frames=4, width=32, height=32)
    return tmp_path


def test_names_decide_where_both_manifests_have_them(trees: Path) -> None:
    train, val = read_manifest(trees / "train"), read_manifest(trees / "val")
    classes = classes_of(train, None, "train")
    assert classes.names == ("a", "b", "c") and val.labels.tolist() == [[0], [1]]
    assert labels_of(val, classes, "val").tolist() == [0, 2]
    assert numbered_alike(val, train, "val").labels.tolist() == [[0], [2]] and val.labels.tolist() == [[0], [1]]
    with pytest.raises(ConfigError, match="train: 1 of its 3 classes are not among the 2 to match them with: b"):
        numbered_alike(train, val, "train")


def test_labels_that_a_probe_can_tell_apart(write) -> None:
    """Lists as VideoMAE's pretraining has them, 'path 0 -1', show no classes."""
    found = write("a.txt", ["0 -1 0", "0 -1 2"], "# labels: start frames what")
    faults = [why_not_a_class(found, label, "a.txt") for label in found.label_names]
    assert [bool(fault) for fault in faults] == [True, True, False]
    assert "label start shows a single class" in faults[0] and "a.txt:2: label -1 is outside" in faults[1]
    kept = relabelled(found, {"what": found.labels[:, 2]})
    assert (kept.label_names, kept.labels.tolist()) == (("what",), [[0], [2]]) and kept.refs.path(0) == found.refs.path(0)
    assert relabelled(found, {}).labels.shape == (2, 0)
    assert numbered_alike(write("b.txt", ["7 1"], "# labels: what other"), kept, "b").labels.tolist() == [[7]]
    with pytest.raises(ConfigError, match=r"c: c.txt:2: label -1 is outside"):
        numbered_alike(write("c.txt", ["-1"], "# labels: what"), kept, "c")
    with pytest.raises(ConfigError, match="d: has no label 'what'"):
        numbered_alike(write("d.txt", ["1"], "# labels: how"), kept, "d")


@pytest.mark.parametrize(
    ("labels", "headers", "words"),
    [
        (["0", "3"], [], "v.txt:2: label 3 is outside 0 to 1"),
        (["0", "1"], ['# classes: ["a", "z"]'], "1 of its 2 classes are not among the 2 to match them with: z"),
        (["0 0", "1 1"], ["# labels: who where"], "has no label 'what'"),
        (["0", "1"], ["# labels: how"], "has no label 'what'"),
    ],
)
def test_mixed_manifests_are_one_line(write, labels, headers, words) -> None:
    train = write("t.txt", ["0", "1"], "# labels: what", '# classes: ["a", "b"]')
    classes = classes_of(train, None, "t.txt")
    with pytest.raises(ConfigError, match=words) as caught:
        labels_of(write("v.txt", labels, *headers), classes, "v.txt")
    assert "\n" not in str(caught.value)
    accepted = classes._replace(by_position=True)
    assert labels_of(write("w.txt", ["1", "0"]), accepted, "w.txt").tolist() == [1, 0], "an unnamed only label is it"


def test_several_manifests_are_one_set_of_classes(write) -> None:
    one = write("one.txt", ["0", "1"], '# classes: ["cat", "dog"]')
    other = write("other.txt", ["0", "1"], '# classes: ["dog", "cat"]')
    manifests = [one, other, write("bare.txt", ["1"])]
    with pytest.raises(ConfigError, match=r"bare: one side has plain numbers.*set data\.classes_by_position=true"):
        classes_of_all(manifests, ["one", "other", "bare"], None)
    classes, labels = classes_of_all(manifests, ["one", "other", "bare"], None, by_position=True)
    assert classes.counted == "2 classes" and classes._replace(label="what").counted == "2 classes of label what"
    assert classes.names == ("cat", "dog") and labels.tolist() == [0, 1, 1, 0, 1]
    stranger = write("stranger.txt", ["0", "1"], '# classes: ["cat", "cow"]')
    with pytest.raises(ConfigError, match="stranger: 1 of its 2 classes are not among the 2 to match them with: cow"):
        classes_of_all([one, stranger], ["one", "stranger"], None)
    with pytest.raises(ConfigError, match="bare, more: 1 of 4 classes have no video: 2"):
        classes_of_all([write("bare.txt", ["0", "1"]), write("more.txt", ["3"])], ["bare", "more"], None)
