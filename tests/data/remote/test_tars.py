"""Plain tar shards: an index that is made once, class numbers beside videos, and what is no tar."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.remote.tars import are_shards, manifest_of_shards, shards_of
from mvd_ds.files import ConfigError
from object_servers import ObjectServer


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{x,y}/{0..1}.tar", ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]),
        ("a.tar", ["a.tar"]),
    ],
)
def test_braces_stand_for_numbers_and_words(pattern: str, names: list[str]) -> None:
    assert are_shards(pattern) and shards_of(pattern) == names


@pytest.mark.parametrize("pattern", ["{5..1}.tar", "{0..999}{0..9999}.tar"])
def test_no_tar_and_too_many_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="tar files; 1 to 1,000,000 can be read"):
        shards_of(pattern)


def test_members_are_found_where_they_are_and_the_index_is_made_once(server: ObjectServer, served: Path) -> None:
    pattern = f"{server.address}/plain-{{0000..0002}}.tar"
    manifest = read_manifest(pattern)
    assert manifest.labels.tolist() == [[number] for number in range(12)]
    asked = [(method, path) for method, path, _ in server.faults.requests]
    # A window or two for each video, not one for each of its three members.
    assert asked.count(("GET", "/plain-0001.tar")) <= 10
    for index in range(12):
        place = manifest.refs.location(index)
        assert isinstance(place, ByteRange) and place.path == f"{server.address}/plain-{index // 4:04d}.tar"
        shard = (served / f"plain-{index // 4:04d}.tar").read_bytes()
        assert shard[place.offset : place.offset + place.size] == (served / f"{index:02d}.mp4").read_bytes()
        assert manifest.refs.path(index) == f"{server.address}/plain-{index // 4:04d}.tar/{index:02d}.mp4"
    server.faults.requests.clear()
    read_manifest(pattern)
    assert {method for method, _, _ in server.faults.requests} == {"HEAD"}


def test_a_shard_that_was_replaced_is_indexed_anew(served: Path, tmp_path: Path) -> None:
    shutil.copy(served / "plain-0000.tar", tmp_path / "a.tar")
    first = manifest_of_shards(str(tmp_path / "a.tar"))
    shutil.copyfile(served / "plain-0001.tar", tmp_path / "a.tar")
    assert b"04.mp4" in manifest_of_shards(str(tmp_path / "a.tar")) and b"00.mp4" in first


def test_what_is_no_tar_holds_none_or_ends_too_early_is_said_by_name(served: Path, tmp_path: Path, server: ObjectServer) -> None:
    (tmp_path / "text.tar").write_text("not a tar\n" * 200)
    (tmp_path / "cut.tar").write_bytes((served / "plain-0000.tar").read_bytes()[:9000])
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    for name, reason in (
        ("text", "is no whole tar file"),
        ("cut", "is no whole tar file"),
        ("empty", "there are no videos"),
    ):
        with pytest.raises(ConfigError, match=f"{name}.tar: {reason}"):
            manifest_of_shards(str(tmp_path / f"{name}.tar"))
    with pytest.raises(ConfigError, match=r"none.tar: No such file"):
        manifest_of_shards(str(tmp_path / "none.tar"))
    with pytest.raises(ConfigError, match=r"none.tar: no such object"):
        manifest_of_shards(f"{server.address}/none.tar")
