"""Clips from an S3 server (moto, in this process) are those of the same files here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.remote.addresses import joined
from mvd_ds.data.remote.clients import _filesystem
from mvd_ds.data.remote.store import FetchError, Store
from object_servers import ObjectServer, fill_bucket
from video_files import recipe

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def bucket(served: Path) -> Iterator[int]:
    """The port of an S3 server with the folder of the twelve in its bucket ``videos``."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    fill_bucket(port, "videos", served)
    yield port
    server.stop()


@pytest.fixture
def proxy(bucket: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A server in front of it, with faults; the environment leads to it."""
    proxy = ObjectServer(Path("/nowhere"), behind=bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "c0ffee")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    _filesystem.cache_clear()
    yield proxy
    _filesystem.cache_clear()
    proxy.kill()


def stream(manifest: object, **remote: object) -> list[ClipBatch]:
    settings = recipe(Path("x"), batch={"micro": 4, "global": 4}, data__manifest=str(manifest), data__remote=remote)
    return list(ClipLoader(settings, 3, 0, 1).batches(0, 6))


def _clips(batches: list[ClipBatch]) -> list[bytes]:
    return [batch.views[32].numpy().tobytes() + batch.visible.numpy().tobytes() for batch in batches]


@pytest.mark.parametrize("name", ["train.txt", "plain-{0000..0002}.tar"])
def test_a_bucket_gives_the_clips_of_the_folder(proxy: ObjectServer, served: Path, name: str) -> None:
    assert _clips(stream(f"s3://videos/{name}")) == _clips(stream(served / name))


@pytest.mark.parametrize("fault", ["500 once", "cut once"])
def test_what_fails_once_changes_nothing(proxy: ObjectServer, served: Path, fault: str) -> None:
    failed: set[str] = set()

    def once(path: str) -> bool:
        return path.endswith(".mp4") and not (path in failed or failed.add(path))

    if fault == "500 once":
        proxy.faults.status = lambda path: 500 if once(path) else 0
    else:
        proxy.faults.cut = once
    batches = stream("s3://videos/train.txt")
    assert _clips(batches) == _clips(stream(served / "train.txt")) and len(failed) == 12
    assert [batch.faults for batch in batches] == [[]] * 6


@pytest.mark.parametrize(("status", "reason"), [(500, "for 3 s (data.remote."), (403, "the server refuses access")])
def test_an_object_that_is_refused_is_a_broken_video(proxy: ObjectServer, status: int, reason: str) -> None:
    proxy.faults.status = lambda path: status if path.endswith("/05.mp4") else 0
    faults = [fault for batch in stream("s3://videos/train.txt", deadline_seconds=3.0) for fault in batch.faults]
    assert len(faults) == 2 and all(fault.startswith("s3://videos/05.mp4: ") and reason in fault for fault in faults)


def test_a_bucket_that_is_not_there_is_said_in_one_line(proxy: ObjectServer) -> None:
    with pytest.raises(ConfigError, match=r"^s3://none/train.txt: no such object$"):
        stream("s3://none/train.txt")


def test_an_object_that_is_replaced_is_named(proxy: ObjectServer, bucket: int, tmp_path: Path) -> None:
    for content in (b"first", b"other"):
        (tmp_path / "a.mp4").write_bytes(content)
        fill_bucket(bucket, "changing", tmp_path)
        if content == b"first":
            state = Store(1).state("s3://changing/a.mp4")
            assert list(Store(1).pieces("s3://changing/a.mp4", 1, 5, state=state)) == [b"irst"]
    with pytest.raises(FetchError, match="another object is in its place"):
        list(Store(1).pieces("s3://changing/a.mp4", 1, 5, state=state))


def test_names_of_s3_have_no_query(proxy: ObjectServer, bucket: int, tmp_path: Path) -> None:
    names = ["what?/a#?%20.mp4", "what?/a"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    fill_bucket(bucket, "names", tmp_path)
    assert Store(1).content(joined("s3://names/what?", "a#?%20.mp4")) == names[0].encode()
