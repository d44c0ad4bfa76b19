"""Broken videos are counted by file, and too many of them are one line with a remedy."""

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.faults import VideoFaults

CPU = Cluster(0, 1, torch.device("cpu"))


def test_a_broken_video_counts_once() -> None:
    """Two of ten videos are broken, and both are drawn again in place of others, with another reason."""
    faults = VideoFaults(CPU, 0.05, videos=10)
    faults.add(["a: b/x.mp4: frame 3 is broken", "a: b/x.mp4: frame 5: is broken", "a: b/y.mp4: is empty"], asked=4)
    faults.add(["a: b/y.mp4: is empty", "a: b/x.mp4: frame 3 is broken"], asked=4)
    with pytest.raises(
        ConfigError, match=r"^step 4: 2 of 8 videos could not .* 0\.05; `python -m mvd_ds prepare FOLDER OUT` drops"
    ):
        faults.require_few(4)
    for _ in range(4):
        faults.add(["a: b/y.mp4: is empty"], asked=4)
    with pytest.raises(ConfigError, match=r"^step 12: 2 of 10 videos could not be decoded"):
        faults.require_few(12)


def test_one_of_twenty_is_a_share_of_a_twentieth() -> None:
    faults = VideoFaults(CPU, 0.05, videos=20)
    faults.add(["x.mp4: is empty", "x.mp4: is empty"], asked=20)
    faults.require_few(5)
    faults.add(["y.mp4: is empty"], asked=20)
    with pytest.raises(ConfigError, match="2 of 20 videos"):
        faults.require_few(10)


def test_what_fails_now_and_then_is_not_added_up_over_the_passes() -> None:
    faults = VideoFaults(CPU, 0.05, videos=20)
    for number in range(10):
        faults.add([f"{number}.mp4: the disk is away"], asked=20)
        if number:
            faults.require_few(number)


def test_readings_count_where_sources_are_mixed_by_weight() -> None:
    """A small source of great weight has one video, and it is broken: half of all readings fail."""
    faults = VideoFaults(CPU, 0.05)
    faults.add(["x.mp4: is empty"] * 50, asked=100)
    with pytest.raises(ConfigError, match="50 of 100 readings could not be decoded"):
        faults.require_few(5)
