"""Files that name other files or addresses, are no files, or have odd names: refused by name, or read."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvd_ds.config import ConfigError
from mvd_ds.data.dataset import ClipDataset
from mvd_ds.data.manifests.mixture import read_mixture
from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.prepare.inspection import inspect_file
from mvd_ds.data.readers.decode import open_video, read_frames
from mvd_ds.data.readers.location import ByteRange, Location
from mvd_ds.data.readers.scan import scan_file
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.stream import filled_batches
from video_files import all_frames, recipe, write_video

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
FOREIGN = {
    "an HLS playlist": PLAYLIST,
    "a list of files (ffconcat)": "ffconcat version 1.0\nfile '{}'\n",
    "a session description (SDP)": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "a git-LFS pointer in place of the file (git lfs pull)": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a web page or XML file": "<!DOCTYPE html><html></html>",
}
READERS = ("auto", "pyav", "decord")


def refuses(location: Location, reason: str) -> None:
    for reader in READERS:
        with pytest.raises(DecodeError) as caught:
            read_frames(location, np.zeros(1, np.int64), reader)
        assert reason in str(caught.value)
    for look in (scan_file, lambda place: inspect_file(place, verify=False), lambda place: inspect_file(place, verify=True)):
        with pytest.raises(DecodeError) as caught:
            look(location)
        assert reason in str(caught.value)


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4", "a.ts", "a.avi"])
def test_lists_and_descriptions_are_refused_by_name(tmp_path: Path, plain: Path, kind: str, name: str) -> None:
    shutil.copy(plain, tmp_path / "plain.mp4")
    path = tmp_path / name
    path.write_text(FOREIGN[kind].format("plain.mp4"))
    refuses(str(path), kind)
    refuses(path.read_bytes(), kind)
    refuses(ByteRange(str(path), 0, path.stat().st_size, name), kind)
    with pytest.raises(DecodeError) as caught:
        encode(str(path), tmp_path / "encoded.mp4", Encoding("h264", 20))
    assert kind in str(caught.value)


PROTOCOLS = {
    "concat": "concat:/etc/passwd|/etc/passwd",
    "subfile": "subfile,,start,0,end,100,,:/etc/passwd",
    "data": "data:video/mp4;base64,AAAA",
    "pipe": "pipe:0.mp4",
    "crypto": "crypto:/etc/passwd",
    "rtsp": "rtsp://127.0.0.1:9/a.mp4",
    "ftp": "ftp://127.0.0.1:9/a.mp4",
    "http": "http://127.0.0.1:9/a.mp4",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_are_refused_by_name_and_never_opened(protocol: str, tmp_path: Path) -> None:
    for path in (PROTOCOLS[protocol], f"{tmp_path}/{PROTOCOLS[protocol]}"):
        refuses(path, f"no such file, and {protocol}: {'addresses are read' if protocol == 'http' else 'is no protocol'}")
    refuses("-", "no such file")


def test_a_file_that_is_called_like_a_protocol_is_that_file(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torchcodec, too, which gives a path to FFmpeg as it is."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "other.mp4", frames=4, seed=9)
    for name in ("concat:other.mp4", "file:other.mp4", "subfile,,start,0,end,0,,:other.mp4"):
        shutil.copy(plain, name)
        for reader in (*READERS, *(["torchcodec"] if _torchcodec_reads(plain) else [])):
            assert np.array_equal(read_frames(name, np.arange(4), reader), all_frames(plain)[:4])


def _torchcodec_reads(path: Path) -> bool:
    try:
        return len(read_frames(str(path), np.arange(1), "torchcodec")) == 1
    except (ConfigError, DecodeError):
        return False


@pytest.mark.parametrize("suffix", ["mp4", "png"])
def test_fifos_sockets_devices_and_folders_are_refused_without_opening_them(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    os.mkfifo(tmp_path / f"fifo.{suffix}")
    (tmp_path / f"folder.{suffix}").mkdir()
    (tmp_path / f"device.{suffix}").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"socket.{suffix}")
        for kind, reason in (("fifo", "a FIFO"), ("folder", "a folder"), ("device", "a device"), ("socket", "a socket")):
            path = str(tmp_path / f"{kind}.{suffix}")
            for reader in READERS:
                with pytest.raises(DecodeError, match=f"{reason}, not a file"):
                    open_video(path, reader)
            with pytest.raises(DecodeError, match=f"{reason}, not a file"):
                inspect_file(path, verify=True)


def test_a_fifo_in_a_manifest_is_replaced_without_workers(tmp_path: Path, plain: Path) -> None:
    shutil.copy(plain, tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "b.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 0\n")
    settings = recipe(tmp_path / "list.txt", batch={"micro": 2, "global": 2})
    clips = ClipDataset(settings, read_mixture(settings.data), 3)
    (filled,) = filled_batches(clips, [[0, 1]], 2, settings.data, Quarantine(2))
    assert {fault.split(": ", 1)[1] for fault in filled.faults} == {"a FIFO, not a file"}


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", "日本 #1.mp4".encode(), b"new\nline.mp4", b"%03d.mp4"])
def test_odd_names_are_read_by_every_reader(tmp_path: Path, plain: Path, name: bytes) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    shutil.copy(plain, path)
    expected = all_frames(plain)[:4]
    for reader in READERS:
        assert np.array_equal(read_frames(path, np.arange(4), reader), expected)
        inside = ByteRange(path, 0, os.path.getsize(path), "a.mp4")
        assert np.array_equal(read_frames(inside, np.arange(4), reader), expected)
    assert inspect_file(path, verify=True)["frames"] == 60
    encode(path, Path(path + ".new.mp4"), Encoding("mjpeg", 5))


def test_an_image_is_opened_by_picture_formats_alone(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", "PPM")
    with pytest.raises(DecodeError, match="cannot identify"):
        read_frames(str(tmp_path / "a.png"), np.zeros(1, np.int64))
