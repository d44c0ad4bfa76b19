"""Reading less: of videos in remote shards, what a clip needs is fetched, and clips are those of the files here."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mvd_ds.config import DataSettings
from mvd_ds.data.evaluation import evaluation_batches
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.prepare.shards import Member, Shard, sidecar_of, write_shard
from mvd_ds.data.remote import fetched_video
from mvd_ds.data.remote.group_index import sidecar_address
from mvd_ds.data.source import VideoSource
from object_servers import ObjectServer
from video_files import recipe, write_video

VIDEOS = 4


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 9 to 12 groups of pictures in two shards as `prepare` writes them, and their manifest."""
    folder = tmp_path_factory.mktemp("groups")
    lines = ["# columns: shard offset bytes"]
    members = []
    for number in range(VIDEOS):
        made = write_video(folder / "made.mp4", frames=140 + 16 * number, seed=number)
        encode(str(made), folder / f"{number}.mp4", Encoding("h264", 2))
        members.append(Member(f"{number:08d}", ".mp4", str(folder / f"{number}.mp4"), {}, number))
    for shard in range(2):
        path = folder / f"{shard:06d}.tar"
        for key, (offset, size) in write_shard(Shard(path, members[2 * shard : 2 * shard + 2])).items():
            lines.append(f"{int(key)}.mp4\t{int(key)}\t{path.name}\t{offset}\t{size}")
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def near(prepared: Path) -> ObjectServer:
    """An HTTP server of that folder."""
    server = ObjectServer(prepared)
    yield server
    server.kill()


def loader(manifest: object, **changes: object) -> ClipLoader:
    settings = recipe(Path("x"), batch={"micro": 2, "global": 2}, data__manifest=str(manifest), **changes)
    return ClipLoader(settings, 3, 0, 1)


def clips(manifest: object, steps: int = 4, **changes: object) -> list[tuple[bytes, list[int], list[str]]]:
    batches = loader(manifest, **changes).batches(0, steps)
    return [(batch.views[32].numpy().tobytes(), batch.sample.tolist(), batch.faults) for batch in batches]


def sizes(server: ObjectServer) -> list[int]:
    """Bytes of every answer with a part of a shard."""
    return [size for method, path, size in server.faults.requests if method == "GET" and path.endswith(".tar")]


def test_the_groups_of_a_clip_are_all_that_is_fetched(near: ObjectServer, prepared: Path) -> None:
    manifest, uncached = f"{near.address}/train.txt", {"cache_gib": 0}
    assert clips(manifest, data__remote=uncached) == clips(prepared / "train.txt")
    asked = sizes(near)
    mean = sum((prepared / f"{number}.mp4").stat().st_size for number in range(VIDEOS)) / VIDEOS
    # Eight clips: the header and the groups of each, one request where they are near each other.
    assert 8 <= len(asked) <= 16 and sum(asked) < 0.6 * 8 * mean
    (line,) = loader(manifest).describe(4)
    assert line.startswith(f"{near.address}/00000") and "of 2 videos the groups of pictures that a clip needs" in line


def test_what_all_have_room_for_is_kept_by_groups(near: ObjectServer, prepared: Path) -> None:
    manifest, local = f"{near.address}/train.txt", clips(prepared / "train.txt", 10)
    assert clips(manifest, 10) == local
    fetched = sum(sizes(near))
    assert fetched <= sum((prepared / f"{number}.mp4").stat().st_size for number in range(VIDEOS))
    assert clips(manifest, 10) == local and sum(sizes(near)) == fetched, "all is in the node's cache"


@pytest.mark.parametrize("change", [{"clips_per_video": 2}, {"reader": "decord"}])
def test_other_settings_give_the_clips_of_local_files(near: ObjectServer, prepared: Path, change: dict[str, object]) -> None:
    if change.get("reader") == "decord":
        pytest.importorskip("decord")
    changes = {f"data__{name}": value for name, value in change.items()}
    assert clips(f"{near.address}/train.txt", **changes) == clips(prepared / "train.txt", **changes)
    if "reader" in change:
        assert "as data.reader decord needs them" in loader(f"{near.address}/train.txt", **changes).describe(4)[0]


def test_evaluation_reads_less_too(near: ObjectServer, prepared: Path) -> None:
    data = DataSettings(manifest=str(prepared / "train.txt"), workers=0, remote={"cache_gib": 0})
    found = [
        torch.cat([clip for clip, _, _ in evaluation_batches(data, read_manifest(place), 2, 4, 32)])
        for place in (str(prepared / "train.txt"), f"{near.address}/train.txt")
    ]
    assert torch.equal(*found)
    assert sum(sizes(near)) < 0.6 * sum((prepared / f"{number}.mp4").stat().st_size for number in range(VIDEOS))


@pytest.mark.parametrize("fault", ["missing", "no JSON", "of others", "of another content"])
def test_without_a_sound_index_videos_are_fetched_whole(prepared: Path, tmp_path: Path, fault: str) -> None:
    shutil.copytree(prepared, tmp_path / "copy")
    for shard in range(2):
        sidecar = tmp_path / "copy" / f"{shard:06d}.json"
        held = json.loads(sidecar.read_text())
        if fault == "missing":
            sidecar.unlink()
        elif fault == "no JSON":
            sidecar.write_text("hello")
        elif fault == "of others":
            sidecar.write_text(json.dumps({"videos": held["videos"]}))
        else:
            held["groups"] = {key: re.sub(r" [0-9a-f]{8} ", " 01234567 ", line) for key, line in held["groups"].items()}
            sidecar.write_text(json.dumps(held))
    server = ObjectServer(tmp_path / "copy")
    try:
        assert clips(f"{server.address}/train.txt", 2) == clips(prepared / "train.txt", 2)
        if fault != "of another content":
            assert "has no index of groups of pictures beside it" in loader(f"{server.address}/train.txt").describe(4)[0]
    finally:
        server.kill()


def test_what_reads_on_behind_its_part_is_fetched_whole_and_said_once(
    near: ObjectServer, prepared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As by an FFmpeg that probes more than that of `prepare` did, and by a reader that asks for other frames than it said."""
    monkeypatch.setattr(fetched_video, "_told", [])
    sidecar = prepared / "000000.json"
    kept = sidecar.read_bytes()
    held = json.loads(kept)
    for key, line in held["groups"].items():
        opening = line.split(" ")[2]
        content = (prepared / f"{int(key)}.mp4").read_bytes()
        held["groups"][key] = f"{line.split(' ')[0]} {zlib.crc32(content[:64]):08x} 0-64 {line.split(' ', 3)[3]}"
        assert opening.startswith("0-")
    try:
        sidecar.write_text(json.dumps(held))
        assert clips(f"{near.address}/train.txt") == clips(prepared / "train.txt")
    finally:
        sidecar.write_bytes(kept)
    assert [record.message for record in caplog.records if "fetched whole" in record.message] == [
        "a video is fetched whole: more of it is read than its shard's index says"
    ]


def test_no_descriptor_of_a_part_stays_open(near: ObjectServer, prepared: Path, cache: Path) -> None:
    clips(f"{near.address}/train.txt", data__remote={"cache_gib": 0})
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [link for link in links if link.startswith(str(cache))]


def test_the_whole_is_fetched_for_whoever_does_not_say_what_is_read(near: ObjectServer, prepared: Path) -> None:
    data = DataSettings(manifest="x", workers=0)
    source = VideoSource([read_manifest(f"{near.address}/train.txt")], data)
    with pickle.loads(pickle.dumps(source)).open(1) as video:  # as it travels to loader processes
        here = VideoSource([read_manifest(str(prepared / "train.txt"))], data).open(1)
        assert np.array_equal(video.get(np.arange(len(video))), here.get(np.arange(len(here))))
        here.close()


def test_an_index_written_by_an_earlier_version_is_written_anew(tmp_path: Path, prepared: Path) -> None:
    shard = Shard(tmp_path / "a.tar", [Member("0", ".mp4", str(prepared / "0.mp4"), {}, None)])
    write_shard(shard)
    sidecar = sidecar_of(shard.path)
    whole = sidecar.read_bytes()
    held = json.loads(whole)
    assert list(held["groups"]) == ["0"]
    del held["groups"]
    sidecar.write_text(json.dumps(held))
    write_shard(shard)
    assert sidecar.read_bytes() == whole


def test_nothing_is_beside_an_object_with_a_signature() -> None:
    assert sidecar_address("s3://b/train/000000.tar") == "s3://b/train/000000.json"
    assert sidecar_address("https://h/000000.tar?sig=c0ffee") is None and sidecar_address("s3://b/a.zip") is None
