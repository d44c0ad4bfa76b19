"""Clips from a server are those of the same files here, and whatever the server does ends well or in one line, in time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.config.remote import RemoteSettings
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.remote import fetching
from object_servers import ObjectServer
from video_files import recipe

STEPS = 6
"""Two epochs of three steps."""


def stream(manifest: object, first: int = 0, last: int = STEPS, workers: int = 0, **remote: object) -> list[ClipBatch]:
    """The batches of four clips of ``last - first`` steps."""
    settings = recipe(Path("x"), batch={"micro": 4, "global": 4}, data__manifest=str(manifest), data__workers=workers)
    if remote:
        settings = recipe(
            Path("x"), batch={"micro": 4, "global": 4}, data__manifest=str(manifest), data__workers=workers, data__remote=remote
        )
    return list(ClipLoader(settings, 3, 0, 1).batches(first, last))


def same(one: list[ClipBatch], other: list[ClipBatch], labels: bool = True) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.views[32], b.views[32])
        and torch.equal(a.sample, b.sample)
        and torch.equal(a.visible, b.visible)
        and torch.equal(a.flip, b.flip)
        and (not labels or torch.equal(a.labels, b.labels))
        and a.faults == b.faults == []
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture(scope="session")
def expected(served: Path) -> list[ClipBatch]:
    return stream(served / "train.txt")


@pytest.mark.parametrize("workers", [0, 2])
def test_files_by_http_give_the_clips_of_the_files_here(server: ObjectServer, expected: list[ClipBatch], workers: int) -> None:
    assert same(stream(f"{server.address}/train.txt", workers=workers), expected)
    if workers:
        return
    again = len(server.faults.requests)
    assert same(stream(f"{server.address}/train.txt", 2, 5), expected[2:5])
    # Of the second run only the manifest: all else was in the node's cache.
    assert [path for method, path, _ in server.faults.requests[again:] if method == "GET"] == ["/train.txt"]


def test_a_list_here_may_name_videos_there_and_a_root_elsewhere(
    server: ObjectServer, expected: list[ClipBatch], served: Path, tmp_path: Path
) -> None:
    lines = (served / "train.txt").read_text().splitlines()
    (tmp_path / "names.txt").write_text("\n".join(lines))
    (tmp_path / "rooted.txt").write_text("\n".join([f"# root: {server.address}", *lines]))
    mixed = [line if number % 2 else f"{served}/{line}" for number, line in enumerate(lines[1:])]
    (tmp_path / "mixed.txt").write_text("\n".join([lines[0], f"# root: {server.address}", *mixed]))
    for name in ("rooted.txt", "mixed.txt"):
        assert same(stream(tmp_path / name), expected)
    settings = recipe(tmp_path / "names.txt", batch={"micro": 4, "global": 4}, data__root=server.address)
    assert same(list(ClipLoader(settings, 3, 0, 1).batches(0, STEPS)), expected)


@pytest.mark.parametrize("place", ["here", "there"])
def test_plain_tar_shards_give_the_same_clips(server: ObjectServer, expected: list[ClipBatch], served: Path, place: str) -> None:
    folder = server.address if place == "there" else served
    assert same(stream(f"{folder}/plain-{{0000..0002}}.tar"), expected, labels=False)


def test_without_a_cache_nothing_is_kept(server: ObjectServer, expected: list[ClipBatch], cache: Path) -> None:
    assert same(stream(f"{server.address}/train.txt", cache_gib=0), expected)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_server_that_restarts_in_the_middle_changes_nothing(server: ObjectServer, expected: list[ClipBatch]) -> None:
    settings = recipe(Path("x"), batch={"micro": 4, "global": 4}, data__manifest=f"{server.address}/train.txt")
    batches: Iterator[ClipBatch] = ClipLoader(settings, 3, 0, 1).batches(0, STEPS)
    found = [next(batches)]
    server.kill()
    threading.Timer(1.0, server.start).start()
    assert same([*found, *batches], expected)


def test_a_server_that_is_gone_ends_the_run_in_one_line_in_time(server: ObjectServer) -> None:
    settings = recipe(
        Path("x"),
        batch={"micro": 4, "global": 4},
        data__manifest=f"{server.address}/train.txt",
        data__remote={"deadline_seconds": 3.0, "in_flight": 1},
    )
    batches = ClipLoader(settings, 3, 0, 1).batches(0, STEPS)
    next(batches)
    server.kill()
    began = time.monotonic()
    with pytest.raises(
        ConfigError, match=r"for 3 s \(data.remote.deadline_seconds\); nor does .*its server is at fault"
    ) as caught:
        list(batches)
    # One object, in 3 s, and the look at another one, in 5.
    assert time.monotonic() - began < 12 and "\n" not in str(caught.value)
    server.start()


@pytest.mark.parametrize(
    ("status", "reason"),
    [(500, "the server answers 500, for 3 s"), (403, "the server refuses access"), (404, "no such object"), (416, "answers 416")],
)
def test_an_object_that_the_server_refuses_is_a_broken_video(
    server: ObjectServer, expected: list[ClipBatch], status: int, reason: str
) -> None:
    server.faults.status = lambda path: status if path == "/05.mp4" else 0
    found = stream(f"{server.address}/train.txt", deadline_seconds=3.0)
    faults = [fault for batch in found for fault in batch.faults]
    # Once an epoch, named like a video that cannot be decoded.
    assert len(faults) == 2 and all(fault.startswith(f"{server.address}/05.mp4: ") and reason in fault for fault in faults)
    for batch, sound in zip(found, expected, strict=True):
        for row in range(4):
            if sound.sample[row] != 5:
                assert torch.equal(batch.views[32][row], sound.views[32][row])


@pytest.mark.parametrize(
    ("status", "told"), [(500, "500, for 3 s .*its server is at fault"), (403, "20 videos in a row.*refuses")]
)
def test_a_server_that_refuses_all_ends_the_run_in_one_line_in_time(server: ObjectServer, status: int, told: str) -> None:
    settings = recipe(
        Path("x"),
        batch={"micro": 4, "global": 4},
        data__manifest=f"{server.address}/train.txt",
        data__remote={"deadline_seconds": 3.0},
    )
    loader = ClipLoader(settings, 3, 0, 1)
    server.faults.status = lambda path: status if path.endswith(".mp4") else 0
    began = time.monotonic()
    with pytest.raises(ConfigError, match=told) as caught:
        list(loader.batches(0, STEPS))
    # Three objects of 3 s, some of them at the same time.
    assert time.monotonic() - began < 14 and "\n" not in str(caught.value)


def test_a_manifest_that_is_refused_or_missing_is_said_in_one_line(server: ObjectServer) -> None:
    with pytest.raises(ConfigError, match=r"/none.txt: no such object$"):
        stream(f"{server.address}/none.txt")
    server.faults.status = lambda path: 403
    with pytest.raises(ConfigError, match=r"/train.txt: the server refuses access"):
        stream(f"{server.address}/train.txt")


def test_bodies_cut_short_are_asked_for_again(server: ObjectServer, expected: list[ClipBatch]) -> None:
    cut: set[str] = set()

    def once(path: str) -> bool:
        return path.endswith(".mp4") and not (path in cut or cut.add(path))

    server.faults.cut = once
    assert same(stream(f"{server.address}/train.txt"), expected)
    assert len(cut) == 12


def test_an_object_that_is_always_cut_short_is_a_broken_video(server: ObjectServer) -> None:
    server.faults.cut = lambda path: path == "/03.mp4"
    found = stream(f"{server.address}/train.txt", 0, 3, deadline_seconds=3.0)
    (fault,) = [fault for batch in found for fault in batch.faults]
    cut = "the connection ended before all bytes came, for 3 s (data.remote.deadline_seconds)"
    assert fault == f"{server.address}/03.mp4: {cut}"


def test_a_server_that_cuts_all_short_from_some_moment_on_ends_it(server: ObjectServer) -> None:
    """It still tells sizes; the others are not each waited for."""
    asked: set[str] = set()
    server.faults.cut = lambda path: path.endswith(".mp4") and not asked.add(path) and len(asked) > 6
    with pytest.raises(ConfigError, match=r"before all bytes came.*; nor does .*mp4 any more: .*; its server is at fault"):
        stream(f"{server.address}/train.txt", 0, 3, deadline_seconds=3.0)


def test_a_slow_server_is_waited_for(server: ObjectServer, expected: list[ClipBatch], served: Path) -> None:
    """At 1 MB/s for each body, as long as that takes; what is not there in time is a broken video."""
    server.faults.bytes_per_second = lambda path: 1_000_000
    assert same(stream(f"{server.address}/train.txt"), expected)


def test_an_object_that_is_too_slow_is_a_broken_video(server: ObjectServer) -> None:
    server.faults.bytes_per_second = lambda path: 200 if path == "/07.mp4" else 0
    found = stream(f"{server.address}/train.txt", 0, 3, deadline_seconds=3.0)
    (fault,) = [fault for batch in found for fault in batch.faults]
    assert fault == f"{server.address}/07.mp4: no answer in time, for 3 s (data.remote.deadline_seconds)"


def test_a_server_without_ranges_is_refused_by_name(server: ObjectServer) -> None:
    server.faults.ranges = False
    with pytest.raises(ConfigError, match="sends whole objects, not ranges of them"):
        stream(f"{server.address}/plain-0000.tar", 0, 1)


def test_secrets_of_addresses_are_in_no_message_and_no_record(
    server: ObjectServer, served: Path, tmp_path: Path, cache: Path
) -> None:
    lines = [f"{server.address}/{number:02d}.mp4?X-Amz-Signature=c0ffee\t{number}" for number in range(12)]
    lines[4] = lines[4].replace("http://", "http://me:pass@")
    (tmp_path / "signed.txt").write_text("\n".join(lines))
    server.faults.status = lambda path: 403 if path.startswith("/05") else 0
    settings = recipe(tmp_path / "signed.txt", batch={"micro": 4, "global": 4})
    loader = ClipLoader(settings, 3, 0, 1)
    found = list(loader.batches(0, 3))
    assert sum(len(batch.faults) for batch in found) == 1
    told = repr([batch.faults for batch in found]) + "".join(loader.path_of(index) for index in range(12))
    told += "".join(str(path) for path in cache.rglob("*"))
    assert "/05.mp4?...: the server refuses access" in told and "c0ffee" not in told and "pass" not in told


@pytest.mark.parametrize("address", ["https://me:pw@h/train.txt", "https://h/train.txt?sig=c0ffee", "s3://key:pw@b/t.txt"])
def test_a_recipe_with_a_secret_in_an_address_is_refused(address: str) -> None:
    from mvd_ds.config import load_recipe

    with pytest.raises(ConfigError, match=r"data.manifest.*holds no user, password or query") as caught:
        load_recipe("mvd_small_from_base", [f"data.manifest={address}"])
    assert "c0ffee" not in str(caught.value) and "pw" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1])
def test_no_descriptor_stays_open(server: ObjectServer, cache: Path, kept: int) -> None:
    stream(f"{server.address}/train.txt", 0, 3, cache_gib=kept)
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [link for link in links if link.startswith(str(cache))]


def test_what_has_no_mark_of_its_content_is_not_kept(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fetching.Store.state
    monkeypatch.setattr(fetching.Store, "state", lambda *asked: state(*asked)._replace(tag=""))
    address = f"{server.address}/00.mp4"
    for times in (1, 2):
        _, descriptor = fetching.Fetcher(RemoteSettings(), 60.0).fetch(address)
        os.close(descriptor)
        asked = [path for method, path, _ in server.faults.requests if method == "GET"]
        assert asked == ["/00.mp4"] * times, "another content of the same size is seen by the next process"
