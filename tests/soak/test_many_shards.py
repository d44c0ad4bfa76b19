"""A thousand remote shards, two epochs in any order: memory, connections and descriptors of the reader stay as they were."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.prepare.shards import Member, Shard, sidecar_of, write_shard
from nightly_record import record
from object_servers import ObjectServer
from video_files import recipe, write_video

SHARDS, BATCH = 1000, 20


@pytest.mark.nightly
@pytest.mark.parametrize("indexed", [True, False])
def test_memory_and_sockets_are_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool) -> None:
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "cache"))
    video = write_video(tmp_path / "a.mp4", frames=24, width=64, height=48, options={"g": "8"})
    lines = ["# columns: shard offset bytes"]
    for number in range(SHARDS):
        shard = Shard(tmp_path / f"{number:06d}.tar", [Member("00000000", ".mp4", str(video), {}, 0)])
        ((offset, size),) = write_shard(shard).values()
        lines.append(f"{number}.mp4\t0\t{shard.path.name}\t{offset}\t{size}")
        if not indexed:
            sidecar_of(shard.path).unlink()
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    server = ObjectServer(tmp_path)
    settings = recipe(
        Path("x"),
        batch={"micro": BATCH, "global": BATCH},
        data__manifest=f"{server.address}/train.txt",
        data__remote={"cache_gib": 0},
    )
    process, seen = psutil.Process(), []
    try:
        for step, batch in enumerate(ClipLoader(settings, 3, 0, 1).batches(0, 2 * SHARDS // BATCH), 1):
            assert batch.faults == []
            server.faults.requests.clear()
            if step % 10 == 0:
                seen.append((round(process.memory_info().rss / 2**20), server.sockets(), len(os.listdir("/proc/self/fd"))))
    finally:
        server.kill()
    values = {name: [row[column] for row in seen] for column, name in enumerate(("mib", "connections", "descriptors"))}
    record("remote shards", "indexed" if indexed else "whole", values)
    settled, last = seen[4], seen[-1]
    assert last[0] - settled[0] < 12, seen
    assert max(row[1] for row in seen) <= 2 * settings.data.remote.in_flight + 2, seen
    assert max(row[2] for row in seen[1:]) <= seen[0][2] + 8, seen
