"""Classes of mixtures of labelled and unlabelled manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.manifest import Manifest, open_manifest
from mvd_ds.data.manifests.partly_labelled import partly_labelled

NAMED = '# classes: ["cat", "dog"]'


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Writes manifests, one from the lines of each argument, and gives them with their names."""

    def written(*manifests: str) -> tuple[list[Manifest], list[str]]:
        names = [f"{chr(ord('a') + number)}.txt" for number in range(len(manifests))]
        for name, text in zip(names, manifests, strict=True):
            (tmp_path / name).write_text(text)
        return [open_manifest(tmp_path / name) for name in names], names

    return written


def test_videos_without_a_label_have_minus_one(write) -> None:
    """A manifest without labels between two that number the same classes otherwise."""
    manifests, names = write(f"{NAMED}\nx.mp4 1\nz.mp4 0\n", "x.mp4\ny.mp4\n", '# classes: ["dog", "cat"]\nx.mp4 0\ny.mp4 1\n')
    classes, labels = partly_labelled(manifests, names, None)
    assert classes.names == ("cat", "dog")
    assert labels.tolist() == [1, 0, -1, -1, 1, 0]


def test_a_list_of_numbers_may_have_minus_one(write) -> None:
    classes, labels = partly_labelled(*write("x.mp4 2\ny.mp4 -1\nz.mp4 0\n"), None)
    assert (classes.names, labels.tolist()) == (("0", "1", "2"), [2, -1, 0])


def test_a_manifest_without_the_chosen_label_is_unlabelled(write) -> None:
    manifests, names = write("# labels: what how\nx.mp4 0 5\ny.mp4 1 6\n", "# labels: where\nx.mp4 0\n")
    classes, labels = partly_labelled(manifests, names, "what")
    assert (classes.label, labels.tolist()) == ("what", [0, 1, -1])


@pytest.mark.parametrize(
    ("texts", "label", "words"),
    [
        (["x.mp4\n", "y.mp4\n"], None, "a.txt, b.txt: none of 2 videos has a class; write 'path label' lines, or leave"),
        (["# labels: what\nx.mp4 0\n"], "whta", "no manifest has a label 'whta'; did you mean 'what'"),
        (["# labels: what how\nx.mp4 0 1\n", "x.mp4\n"], None, "a.txt: has the labels what, how; choose one: label=what"),
        (["x.mp4 0\ny.mp4 0\n"], None, "has a single class"),
        ([f"{NAMED}\nx.mp4 0\ny.mp4 1\n", '# classes: ["cat", "cow"]\nx.mp4 0\n'], None, "not among the 2 to match .* cow"),
    ],
)
def test_a_fault_is_one_line(write, texts, label, words) -> None:
    manifests, names = write(*texts)
    with pytest.raises(ConfigError, match=words) as caught:
        partly_labelled(manifests, names, label)
    assert "\n" not in str(caught.value)
