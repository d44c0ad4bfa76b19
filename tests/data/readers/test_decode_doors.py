"""Files that name others, are no files, or have the names of protocols are refused at every door to the readers."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import mvd_ds
from classifiers import write_classifier
from mvd_ds.cli import main
from mvd_ds.config import ConfigError
from mvd_ds.data.manifests.manifest import open_manifest
from mvd_ds.data.readers.video import DecodeError
from mvd_ds.data.source import VideoSource
from object_servers import ObjectServer
from video_files import recipe

LISTS = {
    "m3u8": ("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nplain.mp4\n#EXT-X-ENDLIST\n", "not a video but an HLS playlist"),
    "ffconcat": ("ffconcat version 1.0\nfile 'plain.mp4'\n", "not a video but a list of files (ffconcat)"),
    "sdp": ("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n", "not a video but a session description (SDP)"),
    "empty": ("", "an empty file"),
}
SPECIAL = {"fifo": "a FIFO, not a file", "device": "a device, not a file"}
PROTOCOLS = {
    "concat": "concat:plain.mp4|plain.mp4",
    "subfile": "subfile,,start,0,end,100,,:plain.mp4",
    "data": "data:video/mp4;base64,AAAA.mp4",
}
Door = Callable[[str], str]


@pytest.fixture(scope="module")
def hostile(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound video and each of the hostile files, and a manifest that names protocols, too."""
    folder = tmp_path_factory.mktemp("doors")
    (folder / "plain.mp4").write_bytes(plain.read_bytes())
    for name, (text, _) in LISTS.items():
        (folder / f"{name}.mp4").write_text(text)
    os.mkfifo(folder / "fifo.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    names = ["plain.mp4", *(f"{name}.mp4" for name in (*LISTS, *SPECIAL)), *PROTOCOLS.values()]
    (folder / "train.txt").write_text("".join(f"{name}\t0\n" for name in names))
    return folder


def name_of(kind: str) -> str:
    return PROTOCOLS.get(kind, f"{kind}.mp4")


def read(manifest: str, kind: str) -> str:
    """Why the loader's source refuses the video of a manifest that is called so."""
    manifests = [open_manifest(manifest)]
    refs = manifests[0].refs
    (row,) = (row for row in range(len(refs)) if refs.path(row).endswith(name_of(kind)))
    with pytest.raises(DecodeError) as caught, VideoSource(manifests, recipe(Path("x")).data).open(row) as video:
        video.get(np.zeros(1, np.int64))
    return str(caught.value)


@pytest.fixture(scope="module")
def server(hostile: Path) -> Iterator[ObjectServer]:
    """A web server of the folder."""
    server = ObjectServer(hostile)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def broken(hostile: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `prepare` says of each video of the manifest that it leaves out."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    assert main(["prepare", str(hostile / "train.txt"), str(out), "--workers", "1"]) == 0
    report = json.loads((out / "train/report.json").read_text())
    assert report["good"] == 1
    return dict(report["broken"])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def doors(
    hostile: Path,
    server: ObjectServer,
    broken: dict[str, str],
    classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> dict[str, Door]:
    """Each door, as a function of the kind of file that returns why it is refused there."""
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "cache"))

    def of_tar(kind: str) -> str:
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            header = tarfile.TarInfo(f"{kind}.mp4")
            header.size = len(LISTS[kind][0])
            tar.addfile(header, io.BytesIO(LISTS[kind][0].encode()))
        return read(str(tmp_path / "x.tar"), kind)

    def classify(kind: str) -> str:
        assert main(["classify", str(classifier), str(hostile / name_of(kind))]) == 2
        return capsys.readouterr().err

    def api(kind: str) -> str:
        with pytest.raises(ConfigError) as caught:
            mvd_ds.read_clip(hostile / name_of(kind))
        return str(caught.value)

    return {
        "manifest": lambda kind: read(str(hostile / "train.txt"), kind),
        "tar": of_tar,
        "remote": lambda kind: read(f"{server.address}/train.txt", kind),
        "prepare": lambda kind: broken[name_of(kind)],
        "classify": classify,
        "api": api,
    }


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_other_files(doors: dict[str, Door], kind: str) -> None:
    for name, door in doors.items():
        assert LISTS[kind][1] in door(kind), name


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file(doors: dict[str, Door], kind: str, tmp_path: Path) -> None:
    for name in doors.keys() - {"tar", "remote"}:
        assert SPECIAL[kind] in doors[name](kind), name
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        header = tarfile.TarInfo(f"{kind}.mp4")
        header.type = tarfile.FIFOTYPE if kind == "fifo" else tarfile.CHRTYPE
        tar.addfile(header)
    with pytest.raises(ConfigError, match="there are no videos in 1 tar file"):
        open_manifest(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_names_of_protocols(doors: dict[str, Door], server: ObjectServer, kind: str) -> None:
    server.faults.requests.clear()
    assert doors["remote"](kind) == "no such object"
    asked = {path for _, path, _ in server.faults.requests} - {"/train.txt"}
    assert asked and all(path.startswith(f"/{kind}") for path in asked)
    for name in doors.keys() - {"tar", "remote"}:
        assert f"no such file, and {kind}: is no protocol that is read" in doors[name](kind), name
