"""What is asked of a server is what is meant: names as they are, bytes as they are stored, and of one object all the time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvd_ds.config.remote import RemoteSettings
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.remote.addresses import joined
from mvd_ds.data.remote.fetching import Fetcher
from mvd_ds.data.remote.store import FetchError, Store
from mvd_ds.files import ConfigError
from object_servers import ObjectServer

pytest.importorskip("aiohttp")
REPLACED = "another object is in its place"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[ObjectServer]:
    """A server of an empty folder, ``tmp_path / "files"``."""
    (tmp_path / "files").mkdir()
    server = ObjectServer(tmp_path / "files")
    yield server
    server.kill()


@pytest.mark.parametrize("name", ["a#b.mp4", "a?b.mp4", "a%20b.mp4", "a%2Fb.mp4", "50%.mp4", "a+b é.mp4", "#.mp4"])
def test_a_name_is_that_of_the_file_and_of_no_other(web: ObjectServer, tmp_path: Path, name: str) -> None:
    for other in ("a", "a b.mp4", "50.mp4"):
        (tmp_path / "files" / other).write_bytes(b"other")
    (tmp_path / "files" / name).write_bytes(b"meant")
    assert Store(1).content(joined(web.address, name)) == b"meant"
    assert b"".join(Store(1).pieces(joined(web.address, name), 1, 4)) == b"ean"


def test_what_stands_behind_a_hash_is_part_of_an_address(web: ObjectServer, tmp_path: Path) -> None:
    (tmp_path / "files/a").write_bytes(b"other")
    with pytest.raises(FetchError, match="no such object"):
        Store(1).content(f"{web.address}/a#b.mp4")
    (tmp_path / "files/a#b.mp4").write_bytes(b"meant")
    assert Store(1).content(f"{web.address}/a#b.mp4") == b"meant"


def test_a_server_that_compresses_gives_ranges_all_the_same(web: ObjectServer, tmp_path: Path) -> None:
    web.faults.compresses = True
    (tmp_path / "files/train.tar").write_bytes(bytes(range(256)))
    assert b"".join(Store(1).pieces(f"{web.address}/train.tar", 100, 110)) == bytes(range(100, 110))
    assert Store(1).content(f"{web.address}/train.tar") == bytes(range(256))


@pytest.mark.parametrize("kept", [0, 1])
def test_an_object_that_is_replaced_is_named_and_not_kept(web: ObjectServer, tmp_path: Path, kept: int) -> None:
    """Of the same size: its bytes would be taken for the first one's, in this run and in later ones, if nobody looked."""
    address, file = f"{web.address}/a.mp4", tmp_path / "files/a.mp4"
    file.write_bytes(b"first")
    os.utime(file, (1, 1))
    fetcher = Fetcher(RemoteSettings(cache_gib=kept, deadline_seconds=1), 100)
    assert fetcher.state(address).size == 5
    file.write_bytes(b"other")
    with pytest.raises(DecodeError, match=REPLACED):
        fetcher.fetch(address)
    file.write_bytes(b"first")
    os.utime(file, (1, 1))
    for each in (fetcher, Fetcher(RemoteSettings(cache_gib=kept), 100)):
        location, descriptor = each.fetch(address)
        assert os.pread(descriptor, 9, 0) == b"first", location
        os.close(descriptor)


def test_servers_whose_marks_differ_in_part_are_believed(web: ObjectServer, tmp_path: Path) -> None:
    """Some machines behind one name have each an ETag of its own, and some mark it weak where they compress."""
    (tmp_path / "files/a.mp4").write_bytes(b"first")
    address = f"{web.address}/a.mp4"
    state = Store(1).state(address)
    assert list(Store(1).pieces(address, 0, 5, state=state._replace(tag=f"{state.tag} and more"))) == [b"first"]
    assert list(Store(1).pieces(address, 0, 5, state=state._replace(tag=""))) == [b"first"]
    with pytest.raises(FetchError, match=REPLACED):
        list(Store(1).pieces(address, 0, 5, state=state._replace(tag='"another"')))


@pytest.mark.parametrize("address", ["s3://", "s3:///", "http://"])
def test_an_address_of_nothing_is_said_in_one_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^(s3|http):.*(names no bucket or server|cannot be listed)") as caught:
        read_manifest(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [("train.txt", "is not a manifest, it seems to be a web page"), ("videos", "a folder of a web server cannot be")],
)
def test_a_page_in_place_of_a_manifest_is_not_taken_for_a_folder(web: ObjectServer, tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "files" / name).write_bytes(b"<!DOCTYPE html><html><body>Please log in</body></html>")
    with pytest.raises(ConfigError, match=f"/{name}: {told}"):
        read_manifest(f"{web.address}/{name}")
