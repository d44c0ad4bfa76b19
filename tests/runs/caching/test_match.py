"""The videos of a cache are known by their names below the folder that they share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mvd_ds.data.manifests.mixture import Mixture
from mvd_ds.runs.caching.match import _videos


class Paths(list[str]):
    """The paths of a manifest."""

    def path(self, index: int) -> str:
        return self[index]


def names(*paths: str) -> str:
    manifest: Any = SimpleNamespace(refs=Paths(paths))
    return str(_videos({}, Mixture((manifest,), (1.0,)))["names"])


def test_videos_are_known_by_their_names_below_their_folder() -> None:
    assert names("/a/x/1.mp4", "/a/y/2.mp4") == names("/elsewhere/x/1.mp4", "/elsewhere/y/2.mp4")
    assert names("/a/x/1.mp4", "/a/y/2.mp4") != names("/a/y/2.mp4", "/a/x/1.mp4")


def test_absolute_and_relative_paths_of_one_manifest_share_no_folder() -> None:
    assert names("/a/1.mp4", "a/2.mp4") == names("/a/1.mp4", "a/2.mp4") != names("/b/1.mp4", "b/2.mp4")
