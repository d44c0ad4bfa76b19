"""Files that are no manifests are named by what they seem to be, and headers that contradict each other are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.files import ConfigError
from video_files import write_video


def _refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500
    return message


def test_a_video_is_not_a_manifest(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.avi", "a.ts"):
        path = write_video(tmp_path / name, frames=2, width=32, height=32)
        assert "is not a manifest, it seems to be a" in _refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "a git-LFS pointer"),
        (b"\n <html><body>404</body>", "a web page"),
        (b"PK\x03\x04" + bytes(20), "a zip archive"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "a gzip archive"),
        (b"a.mp4 3\n".ljust(257, b"\0") + b"ustar" + bytes(300), "a tar archive"),
        ("a.mp4 3\n".encode("utf-16"), "text in UTF-16, not UTF-8; convert it: iconv"),
        ("a.mp4 3\n".encode("utf-16-be"), "text in UTF-16, not UTF-8; convert it: iconv"),
        (bytes(5000), "binary data"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    assert words in _refusal(tmp_path / "list.txt")


def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a folder" in _refusal(tmp_path / "pipe")
    assert "is neither a file nor a folder" in _refusal(Path("/dev/zero"))


def test_what_is_shown_of_a_line_is_printable(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a\x1b[31m\x07\xff" * 200)
    assert r"\x1b" in _refusal(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# root: one\na.mp4 1\n# root: two\nb.mp4 1\n", "list.txt:3: '# root:' differs from the one in line 1"),
        ('# classes: ["x", "y"]\na.mp4 1\n# classes: ["y", "x"]\nb.mp4 1\n', "list.txt:3: '# classes:' differs"),
        ('# class: ["x", "y"]\na.mp4 1\n', "list.txt:1: unknown header 'class:'; did you mean 'classes'?"),
        ("# Label: what\na.mp4 1\n", "list.txt:1: unknown header 'Label:'; did you mean 'labels'?"),
        ('# classes: ["x", "x"]\na.mp4 1\n', "list.txt:1: '# classes:' names the class 'x' of 'label' twice"),
        ("# labels: x x\na.mp4 1 2\n", "names a label twice"),
        ("# classes: " + "[" * 100_000 + "\na.mp4 1\n", "needs JSON in one line"),
        (b'# classes: ["na\xefve", "y"]\na.mp4 1\n', "list.txt:1: is not UTF-8; .*iconv"),
    ],
)
def test_headers_are_understood_or_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_manifest(tmp_path / "list.txt")


def test_a_name_may_begin_with_a_hash_or_a_blank(tmp_path: Path) -> None:
    for name in ("#shorts dog.mp4", " lead.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("# columns: frames\n./#shorts dog.mp4\t1\t9\n./ lead.mp4\t1\t9\n")
    assert [ref.path for ref in read_manifest(tmp_path / "list.txt").refs] == [
        str(tmp_path / "#shorts dog.mp4"),
        str(tmp_path / " lead.mp4"),
    ]


@pytest.mark.parametrize("place", ["train/manifest.txt", "manifest.txt"])
def test_a_missing_manifest_is_answered_with_that_of_prepare(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    assert f"`prepare` wrote {tmp_path / place}: give that one" in _refusal(tmp_path / "train.txt")
