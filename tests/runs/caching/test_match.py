"""The videos of a cache are known by their names below the folder that they share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.manifests.mixture import Mixture
from mvd_ds.runs.caching.match import _videos


class Paths(list[str]):
    """The paths of a manifest."""

    def path(self, index: int) -> str:
        return self[index]


def names(*paths: str) -> str:
    manifest: Any = SimpleNamespace(refs=Paths(paths))
    return str(_videos({"data.manifest.videos": "sizes"}, Mixture((manifest,), (1.0,)))["names"])


def test_videos_are_known_by_their_names_below_their_folder() -> None:
    assert names("/a/x/1.mp4", "/a/y/2.mp4") == names("/elsewhere/x/1.mp4", "/elsewhere/y/2.mp4")
    assert names("/a/x/1.mp4", "/a/y/2.mp4") != names("/a/y/2.mp4", "/a/x/1.mp4")


def test_absolute_and_relative_paths_of_one_manifest_share_no_folder() -> None:
    assert names("/a/1.mp4", "a/2.mp4") == names("/a/1.mp4", "a/2.mp4") != names("/b/1.mp4", "b/2.mp4")


def test_a_video_of_a_folder_that_is_replaced_is_another(tmp_path: Path) -> None:
    def facts() -> dict[str, Any]:
        return _videos({"data.manifest": "digest of the folder"}, Mixture((read_manifest(tmp_path),), (1.0,)))

    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"video")
    before = facts()
    assert facts() == before
    (tmp_path / "b.mp4").write_bytes(b"another video")
    assert facts()["sizes"] != before["sizes"] and facts()["names"] == before["names"]
