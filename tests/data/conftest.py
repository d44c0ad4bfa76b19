"""Video files that several tests of this room read."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance_files import ENCODED
from video_files import write_trimmed, write_turned, write_video


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of H.264, 128 x 96, a key frame every 20."""
    return write_video(tmp_path_factory.mktemp("plain") / "plain.mp4", frames=60, options={"g": "20"})


@pytest.fixture(scope="session")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of twelve labelled videos of 6 to 17 frames, 56 x 40."""
    folder = tmp_path_factory.mktemp("twelve")
    lines = ["# labels: what how"]
    for number in range(12):
        write_video(folder / f"{number:02d}.mp4", frames=6 + number, width=56, height=40, seed=number)
        lines.append(f"{number:02d}.mp4 {number} {number % 3}")
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    return folder / "train.txt"


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: fit videos of several kinds, and broken ones."""
    tree = tmp_path_factory.mktemp("prepare") / "tree"
    (tree / "cat").mkdir(parents=True)
    (tree / "dog").mkdir()
    plain = write_video(tree / "cat" / "plain.mp4", frames=24, options={"g": "8"})
    write_trimmed(plain, tree / "cat" / "cut short.mp4", 0.4)
    write_turned(plain, tree / "dog" / "turned.1.mp4")
    write_video(tree / "dog" / "plain.webm", **{"frames": 12, **ENCODED["vp9.webm"]})
    (tree / "dog" / "text.mp4").write_bytes(b"hello " * 50)
    data = bytearray(write_video(tree / "dog" / "zeros.mp4", frames=24, options={"g": "6"}).read_bytes())
    place = data.index(b"moov") * 2 // 3
    data[place : place + 400] = bytes(400)
    (tree / "dog" / "zeros.mp4").write_bytes(data)
    return tree
