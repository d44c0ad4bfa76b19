"""Fetches ahead of their use beside the training's, and what the node itself gets wrong: its disk, its names."""

from __future__ import annotations

import errno
import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError, DataSettings
from mvd_ds.data.cached.views import FixedClips
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.manifest import open_manifest
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.remote import fetching
from mvd_ds.data.source import VideoSource
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.stream import filled_batches
from object_servers import ObjectServer, until_all_are_asked_for
from video_files import recipe


def test_cached_targets_fetch_ahead(server: ObjectServer, served: Path) -> None:
    """Each of three videos is given when all three were asked for: one after another would wait in vain."""
    clips = [fixed_clips(f"{server.address}/train.txt"), fixed_clips(str(served / "train.txt"))]
    server.faults.status = until_all_are_asked_for(3)
    there, here = (next(filled_batches(job, [range(6)], 6, data, Quarantine(6))) for job, data in clips)
    assert there.faults == [] and there.arrays["ok"].all()
    assert torch.equal(there.arrays["view_32"], here.arrays["view_32"])


def fixed_clips(manifest: str) -> tuple[FixedClips, DataSettings]:
    """Two crops of every clip, for a teacher of a student of its own shape."""
    teacher = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_px": 8, "weights": "random"}
    of_teacher = {"objective": "distillation", "pixels": None, "teachers": {"video": teacher}, "targets": {"crops": 2}}
    settings = recipe(Path("x"), data__manifest=manifest, **of_teacher)
    return FixedClips(settings, read_mixture(settings.data)), settings.data


@pytest.mark.parametrize("cache_gib", [0, 1])
def test_a_full_disk_is_one_line(server: ObjectServer, monkeypatch: pytest.MonkeyPatch, cache_gib: float) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    remote = {"cache_gib": cache_gib}
    settings = recipe(
        Path("x"), batch={"micro": 4, "global": 4}, data__manifest=f"{server.address}/train.txt", data__remote=remote
    )
    monkeypatch.setattr(fetching.os, "pwrite", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*MVD_DS_CACHE") as caught:
        list(ClipLoader(settings, 3, 0, 1).batches(0, 1))
    assert "\n" not in str(caught.value)


def test_a_name_server_that_does_not_answer_ends_it_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = threading.Event()

    def resolve(*_: object, **__: object) -> list[object]:
        silent.wait(60)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    (tmp_path / "train.txt").write_text("".join(f"http://nowhere.test/{number}.mp4\n" for number in range(8)))
    source = VideoSource([open_manifest(tmp_path / "train.txt")], recipe(Path("x"), data__remote={"deadline_seconds": 1}).data)
    begun = time.monotonic()
    for number in range(2):
        with pytest.raises(DecodeError, match="no answer in time"):
            source.open(number)
    with pytest.raises(ConfigError, match=r"no answer in time, for 1 s .*its server is at fault"):
        source.open(2)
    silent.set()
    assert time.monotonic() - begun < 30
