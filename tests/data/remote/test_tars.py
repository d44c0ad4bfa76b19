"""Plain tar shards: an index that is made once, class numbers beside videos, and what is no tar."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from mvd_ds.data.manifests.listings import read_listing
from mvd_ds.data.manifests.manifest import read_manifest, require_captions
from mvd_ds.data.prepare.shards import Member, Shard, write_shard
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


def test_an_index_that_cannot_be_kept_is_made_each_time(served: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "indexes").write_bytes(b"")
    assert manifest_of_shards(f"{served}/plain-0000.tar") == manifest_of_shards(f"{served}/plain-0000.tar")
    assert (cache / "indexes").read_bytes() == b""


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


def _tar(path: Path, **files: bytes) -> Path:
    """Write a tar of files, whose names have a dot for the last underscore."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            key, _, extension = name.rpartition("_")
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def test_captions_are_the_lines_of_txt_or_the_text_of_json(served: Path, tmp_path: Path) -> None:
    """The convention of webdataset; a sample without a caption has none, and its JSON may say something else."""
    video = (served / "00.mp4").read_bytes()
    path = _tar(
        tmp_path / "told.tar",
        a_mp4=video,
        a_txt="a three\tgoes\nein Öl\n".encode(),
        b_json=b'{"text": ["one\\nline", "two"], "fps": 30}',
        b_mp4=video,
        b_txt=b"one line",
        c_mp4=video,
        c_json=b"not JSON",
        d_mp4=video,
        d_json=b'{"duration": 3}',
        d_txt=b"\xef\xbb\xbf[last]\n\n",
    )
    for _ in range(2):  # from the tar, then from the index that was kept
        refs = read_manifest(path).refs
        assert [refs.captions(index) for index in range(4)] == [
            ("a three\tgoes", "ein Öl"),
            ("one\nline", "two"),
            (),
            ("[last]",),
        ]
    with pytest.raises(ConfigError, match=r"told.tar/c.mp4 has no caption, which language needs"):
        require_captions(read_manifest(path), "language")
    with pytest.raises(ConfigError, match=r"bare.tar: has no captions, which language needs; put KEY.txt beside every KEY.mp4"):
        require_captions(read_manifest(_tar(tmp_path / "bare.tar", a_mp4=video)), "language")


def test_prepare_reads_tars_with_their_captions_and_writes_such(served: Path, tmp_path: Path) -> None:
    """Captions pass through a shard of ours as they are, line breaks included, and are the same without its manifest."""
    video = (served / "00.mp4").read_bytes()
    _tar(tmp_path / "0.tar", a_mp4=video, a_json=b'{"text": "one\\nline"}', b_mp4=(served / "01.mp4").read_bytes(), b_txt=b"x\ny")
    listed = read_listing(tmp_path / "{0..0}.tar").entries
    told = [("one\nline",), ("x", "y")]
    assert [one.captions for one in listed] == told and [Path(one.name).name for one in listed] == ["a.mp4", "b.mp4"]
    members = [Member(str(number), ".mp4", one.location, {"text": list(one.captions)}, None) for number, one in enumerate(listed)]
    write_shard(Shard(tmp_path / "ours.tar", members))
    refs = read_manifest(tmp_path / "ours.tar").refs
    assert [refs.captions(index) for index in range(2)] == told


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"a\xff", "is not UTF-8 at its byte 2"),
        (b"a" * 70_000, "has 70,000 bytes, and at most 65,536 are taken"),
        (b"a" * 10_000_000, "its 10,000,000 bytes of captions are more than 1,048,576"),
    ],
)
def test_a_bad_caption_in_a_tar_is_one_line(served: Path, tmp_path: Path, text: bytes, fault: str) -> None:
    path = _tar(tmp_path / "bad.tar", a_mp4=(served / "00.mp4").read_bytes(), a_txt=text)
    with pytest.raises(ConfigError, match=fault) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value) and "bad.tar: a.txt: " in str(caught.value)
