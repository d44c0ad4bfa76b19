"""`prepare` of originals in a bucket and on a web server makes what it makes of the same files here."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.data.manifests.listings import read_listing
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.prepare.originals import Originals
from mvd_ds.data.readers.location import read_bytes
from mvd_ds.data.remote import clients
from object_servers import ObjectServer, fill_bucket

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
SECRET = "c0ffee0ddba11"
ENCODED = ("--encode", "h264", "--short-side", "32", "--shards")


def prepare(*arguments: object) -> int:
    return main(["prepare", *map(str, arguments), "--workers", "1"])


def products(folder: Path) -> dict[str, bytes]:
    """All that is left but for the work folder and the settings, by path."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".prepare" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != "prepare.json"}


@pytest.fixture(scope="module")
def bucket(tree: Path) -> Iterator[int]:
    """The port of an S3 server with the tree in its bucket ``originals``."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    fill_bucket(port, "originals", tree.parent)
    yield port
    server.stop()


@pytest.fixture
def proxy(bucket: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A server in front of it, with faults; the environment leads to it, and has the credentials."""
    proxy = ObjectServer(Path("/nowhere"), behind=bucket)
    monkeypatch.setenv("MVD_DS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    clients._filesystem.cache_clear()
    yield proxy
    clients._filesystem.cache_clear()
    proxy.kill()


@pytest.fixture
def web(tree: Path, proxy: ObjectServer) -> Iterator[ObjectServer]:
    """A web server of the same tree."""
    server = ObjectServer(tree.parent)
    yield server
    server.kill()


def test_a_folder_in_a_bucket_in_parts(tree: Path, tmp_path: Path, proxy: ObjectServer) -> None:
    known: set[str] = set()
    proxy.faults.status = lambda path: 500 if ".mp4" in path and path not in known and not known.add(path) else 0
    address = "s3://originals/tree"
    for arguments in ("--part", "2/2"), ("--part", "1/2"), ("--join",):
        assert prepare(address + "/", tmp_path / "out", *ENCODED, *arguments) == 0
    assert len(known) == 5, "each video failed once"
    assert prepare(tree, tmp_path / "here", *ENCODED) == 0
    here = products(tmp_path / "here")
    for name in ("report.json", "report.txt"):  # the one place that says where the originals are
        here[f"train/{name}"] = here[f"train/{name}"].replace(bytes(tree), f"{address}/".encode())
    assert products(tmp_path / "out") == here and len(here) == 5
    sent = proxy.faults.sent
    assert prepare(address, tmp_path / "out", *ENCODED) == 0 and proxy.faults.sent - sent < 20_000, "nothing is left to do"
    assert all(SECRET.encode() not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_manifest_of_signed_addresses_on_a_web_server(
    tree: Path, tmp_path: Path, web: ObjectServer, capfd: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
    signed = [f"{web.address}/tree/{name}?sig={SECRET}" for name in [*names, "cat/gone.mp4"]]
    (tmp_path / "here.txt").write_text("".join(f"{tree}/{name}\t7\n" for name in names))
    (tmp_path / "train.txt").write_text("".join(f"{address}\t7\n" for address in signed))
    known: set[str] = set()
    web.faults.cut = lambda path: path not in known and not known.add(path)
    for shards in ([], ["--shards"]):
        here, there = (tmp_path / name / "".join(shards) for name in ("here", "there"))
        assert prepare(tmp_path / "here.txt", here, *shards) == 0
        assert prepare(tmp_path / "train.txt", there, *shards) == 0
        known_here, report = (json.loads((folder / "train/report.json").read_text()) for folder in (here, there))
        broken = {name.partition("?")[0].rpartition("/")[2]: reason for name, reason in report["broken"].items()}
        assert broken.pop("gone.mp4") == "DecodeError: no such object"
        assert broken == {name.rpartition("/")[2]: reason for name, reason in known_here["broken"].items()}
        differ = {"source": 0, "videos": 0, "broken": 0}
        assert report | differ == known_here | differ
        kept = {path.name for path in there.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()}
        assert kept == (set() if shards else {"train.txt"}), "which leads to the originals"
    refs, held = (read_manifest(tmp_path / name / "train.txt").refs for name in ("there", "here"))
    assert [refs.location(row) for row in range(4)] == [
        address for address in signed if any(f"/{Path(held.path(row)).name}?" in address for row in range(4))
    ]
    assert SECRET not in "".join(capfd.readouterr())


def test_lists_of_names_find_objects_where_a_server_lists_them(
    tree: Path, tmp_path: Path, web: ObjectServer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("path,label\nplain.webm,dog\ncat/plain.mp4,cat\nmissing,dog\n")
    listing = read_listing(tmp_path / "list.csv", "s3://originals/tree")
    assert [entry[:3] for entry in listing.entries] == [
        ("dog/plain.webm", "s3://originals/tree/dog/plain.webm", (1,)),
        ("cat/plain.mp4", "s3://originals/tree/cat/plain.mp4", (0,)),
    ]
    assert listing.missing == {"missing": "no such file"} and listing.root == "s3://originals/tree"
    assert read_manifest("s3://originals/tree").class_names == {"label": ("cat", "dog")}

    def refused(*arguments: object) -> str:
        assert prepare(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out").exists() and SECRET not in line
        return line

    out, page = tmp_path / "out", "cannot be listed; give a manifest"
    assert page in refused(tmp_path / "list.csv", out, "--videos", f"{web.address}/tree")
    assert page in refused(f"{web.address}/tree/", out)
    assert f"{page}, with a line for each video and '# root: {web.address}/tree'" in refused(f"{web.address}/tree", out)
    assert "no such object" in refused(f"{web.address}/nothing.txt", out)
    assert "no such object" in refused("s3://originals/nothing", out)
    assert "no user, password or query" in refused(f"{web.address}/tree/?sig={SECRET}", out)
    assert "ftp: is no protocol that is read" in refused("ftp://host/tree", out)
    assert "OUT is a folder of this machine" in refused(tree, "s3://originals/out")


def test_a_server_that_is_gone_ends_it_and_the_same_command_goes_on(
    tree: Path, tmp_path: Path, web: ObjectServer, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cat/plain.mp4", "dog/text.mp4", "dog/plain.webm"]
    (tmp_path / "train.txt").write_text("".join(f"{web.address}/tree/{name}\n" for name in names))
    arguments = (tmp_path / "train.txt", tmp_path / "out", "--part", "1/1", "--seconds-per-file", "12")
    gone: list[str] = []
    web.faults.status = lambda path: 503 if gone or ("webm" in path and not gone.append(path)) else 0
    assert prepare(*arguments) == 2
    told = capsys.readouterr().err
    assert "for 9 s (three quarters of --seconds-per-file)" in told and "its server is at fault" in told
    assert told.count("\n") == 1 and not list((tmp_path / "out").glob("*.txt"))
    web.faults.status = lambda path: 0
    assert prepare(*arguments) == 0 and prepare(*arguments[:2], "--join") == 0
    report = json.loads((tmp_path / "out/train/report.json").read_text())
    assert report["good"] == 2 and [name.rpartition("/")[2] for name in report["broken"]] == ["text.mp4"]


def test_what_has_room_in_the_cache_is_fetched_once(tree: Path, web: ObjectServer) -> None:
    address, originals = f"{web.address}/tree/cat/plain.mp4", pickle.loads(pickle.dumps(Originals(60.0)))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with originals.here(address) as location:
            assert read_bytes(location) == (tree / "cat/plain.mp4").read_bytes()
    assert web.faults.sent == originals.size(address) == (tree / "cat/plain.mp4").stat().st_size
    with originals.here(str(tree)) as location:
        assert location == str(tree) and originals.state(location) == ""
    assert originals.states([address, f"{web.address}/none", str(tree)])[1:] == ["missing", ""]
    del location
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 32, "connections alone"
