"""Targets of dense read-outs: the right place of every value, one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.dense_targets import TargetArray, cell_targets, read_target, require_frames

MIDDLE = np.arange(2, 10)
"""The frames of a clip."""


def test_cells_are_means_over_their_frames_and_pixels() -> None:
    """The middle 8 of 12 frames, the middle 4 x 4 of 4 x 6 pixels, two frames and 2 x 2 pixels a token."""
    values = np.arange(12 * 4 * 6, dtype=np.float64).reshape(12, 4, 6)
    values[2, 0, 1] = np.nan
    wanted, ok = cell_targets(TargetArray(values, "a.npy"), MIDDLE, (4, 2, 2), None)
    cut = values[2:10, :, 1:5].reshape(4, 2, 2, 2, 2, 2).mean((1, 3, 5)).reshape(16, 1)
    assert not ok[0] and ok[1:].all()
    np.testing.assert_allclose(wanted[1:], cut[1:])
    single, _ = cell_targets(TargetArray(values, "a.npy"), MIDDLE[::2], (4, 2, 2), None)
    np.testing.assert_allclose(single[5:], values[2:10:2, :, 1:5].reshape(4, 2, 2, 2, 2).mean((2, 4)).reshape(16, 1)[5:])


def test_targets_of_frames_are_one_a_moment() -> None:
    places = np.stack((np.arange(8.0), -np.arange(8.0)), 1)
    wanted, ok = cell_targets(TargetArray(places, "a.npy"), np.arange(8), (4, 2, 2), None)
    np.testing.assert_allclose(wanted, places.reshape(4, 2, 2).mean(1))
    assert ok.all() and TargetArray(places, "a").is_of_frames and TargetArray(places, "a").channels == 2
    assert cell_targets(TargetArray(np.zeros(8), "a"), np.arange(8), (4, 2, 2), None).wanted.shape == (4, 1)


def test_cells_have_their_most_frequent_class_unless_most_is_unknown() -> None:
    values = np.zeros((8, 4, 4), np.int64)
    values[:2, :2, :2] = [[1, 1], [2, 1]]
    values[:2, 2:, 2:] = [[-1, -1], [-1, 2]]
    wanted, ok = cell_targets(TargetArray(values, "a.npy"), np.arange(8), (4, 2, 2), 3)
    assert wanted[0].tolist() == [0, 1, 0] and wanted[1].tolist() == [1, 0, 0]
    assert ok.tolist() == [True, True, True, False] + [True] * 12


def test_arrays_of_a_sample_set_are_read_and_truth_values_are_classes(tmp_path: Path) -> None:
    covered = np.arange(8 * 4 * 4).reshape(8, 4, 4) % 3 == 0
    np.savez(tmp_path / "000000.npz", depth=np.float16(covered), mask=covered)
    video = tmp_path / "000000.mp4"
    found = read_target(video, "mask")
    assert found.is_classes and (found.values == covered).all() and found.origin.endswith("000000.npz")
    assert read_target(video, "depth").values.dtype == np.float16
    np.save(tmp_path / "000000.depth.npy", np.zeros(8))
    assert read_target(video, "depth").origin.endswith("000000.depth.npy"), "a file of its own comes first"
    with pytest.raises(ConfigError, match=r"000000\.npz: the target of .*: holds no array flow"):
        read_target(video, "flow")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((2, 2, 2, 2, 2)), "has 5 axes; it takes"),
        (np.zeros((0, 4)), "is empty; it takes an entry for each frame"),
        (np.zeros((8, 2), np.int64), "classes are one integer a place"),
        (np.array(["a", "b"]), "it takes floats, integers or truth values"),
    ],
)
def test_arrays_that_cannot_be_targets_are_one_line(tmp_path: Path, values: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.kind.npy", values)
    with pytest.raises(ConfigError, match=words):
        read_target(tmp_path / "a.mp4", "kind")


def test_an_entry_for_each_frame() -> None:
    require_frames(TargetArray(np.zeros(8), "a.npy"), 8, "a.mp4")
    with pytest.raises(ConfigError, match=r"a\.npy: has 8 entries, a\.mp4 has 9 frames"):
        require_frames(TargetArray(np.zeros(8), "a.npy"), 9, "a.mp4")
