"""Twelve videos as files and as plain tar shards, and servers of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from object_servers import ObjectServer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is fetched."""
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def served(twelve: Path) -> Path:
    """The folder of the twelve, with the same videos in three tar shards as webdataset has them, without an index."""
    folder = twelve.parent
    labels = dict(line.split(" ", 1) for line in twelve.read_text().splitlines() if not line.startswith("#"))
    for shard in range(3):
        with tarfile.open(folder / f"plain-{shard:04d}.tar", "w") as tar:
            for number in range(4 * shard, 4 * shard + 4):
                _add(tar, f"{number:02d}.json", b'{"more": "facts"}')
                _add(tar, f"{number:02d}.cls", labels[f"{number:02d}.mp4"].split()[0].encode())
                _add(tar, f"{number:02d}.mp4", (folder / f"{number:02d}.mp4").read_bytes())
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[ObjectServer]:
    """An HTTP server of that folder."""
    server = ObjectServer(served)
    yield server
    server.kill()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))
