"""Labels that are several classes or real numbers: how lines are read, and how two manifests are matched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.answers import reals_of, set_classes, set_members
from mvd_ds.data.manifests.labels import classes_of
from mvd_ds.data.manifests.manifest import Manifest, manifest_of


def manifest(text: str) -> Manifest:
    return manifest_of(text.encode(), Path("list.txt"), None, "list.txt", "list.txt")


def test_columns_of_single_classes_stay_what_they_are_beside_others() -> None:
    found = manifest("# labels: what how far\nmy clip 3.mp4 4 1,2 0.5\n./b.v2.mp4 3 - 1.5e3\n")
    assert found.label_names == ("what",) and found.every_label == ("what", "how", "far")
    assert found.labels.tolist() == [[4], [3]]
    assert [Path(found.refs.path(row)).name for row in range(2)] == ["my clip 3.mp4", "b.v2.mp4"]
    assert reals_of(found, "far", "list.txt").tolist() == [0.5, 1500.0]
    part = found.part(np.array([1]))
    assert reals_of(part, "far", "list.txt").tolist() == [1500.0] and part.labels.tolist() == [[3]]
    with pytest.raises(ConfigError, match="has the labels what, how, far; choose one: label=what"):
        classes_of([found], ["list.txt"], None)


@pytest.mark.parametrize("gap", [" ", "\t"])
def test_sets_are_read_between_blanks_and_between_tabs(gap: str) -> None:
    found = manifest(f"a.mp4{gap}0,2\nb.mp4{gap}1\nc.mp4{gap}-\n")
    classes, rows = set_classes([found], ["list.txt"], None, False, False)
    assert classes.names == ("0", "1", "2") and rows.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_lists_of_json_lines_say_the_same() -> None:
    found = manifest('{"path": "a.mp4", "label": [[0, 2], 0.25]}\n{"path": "b.mp4", "label": [[], 1]}\n')
    assert reals_of(found, "label_2", "x").tolist() == [0.25, 1.0]
    assert set_members(found, set_classes([found], ["x"], "label_1", True, False)[0], "x").tolist() == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(ConfigError, match=r"list.txt:1: label is 'dog', not a number"):
        manifest('{"path": "a.mp4", "label": [["dog"]]}\n')
    with pytest.raises(ConfigError, match=r"list.txt:1: label is nan, not a number"):
        manifest('{"path": "a.mp4", "label": NaN}\n')


def test_named_classes_are_matched_by_name_and_others_only_where_somebody_says_so() -> None:
    first = manifest('# classes: ["cat", "dog"]\na.mp4 0,1\nb.mp4 0\n')
    classes, _ = set_classes([first], ["x"], None, False, False)
    turned = manifest('# classes: ["dog", "cat"]\na.mp4 0\nb.mp4 0,1\n')
    assert set_members(turned, classes, "y").tolist() == [[0, 1], [1, 1]]
    with pytest.raises(ConfigError, match="1 of its 2 classes are not among the 2 to match them with: eel"):
        set_members(manifest('# classes: ["eel", "cat"]\na.mp4 0\n'), classes, "y")
    bare = manifest("a.mp4 0,1\n")
    with pytest.raises(ConfigError, match=r"does not name its classes, .*classes_by_position=true"):
        set_members(bare, classes, "y")
    assert set_members(bare, classes._replace(by_position=True), "y").tolist() == [[1, 1]]


@pytest.mark.parametrize("field", ["3,", ",3", "3,,4", "0.5.1", "+-1", "inf", "1e", "--"])
def test_a_label_of_no_form_is_named_with_its_line(field: str) -> None:
    for gap in (" ", "\t"):
        with pytest.raises(ConfigError, match=r"list.txt:2: label '.*' is none: a label is a class"):
            manifest(f"a.mp4 1\nb.mp4{gap}{field}\n")
