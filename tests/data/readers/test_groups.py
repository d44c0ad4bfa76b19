"""Groups of pictures: a part of a file gives the frames of the whole, to the bit, or says that it cannot."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mvd_ds.data.prepare.encode import Encoding, encode
from mvd_ds.data.readers.decode import read_frames
from mvd_ds.data.readers.groups import Groups, groups_of
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.readers.partial_file import PartialFile, joined
from mvd_ds.data.readers.pyav_reader import PyavVideo
from mvd_ds.data.readers.video import DecodeError
from video_files import write_trimmed, write_video

CODECS = {
    "closed groups, header last": {"options": {"g": "20"}},
    "header first": {"options": {"g": "20"}, "container": {"movflags": "+faststart"}},
    "no B frames": {"options": {"g": "16", "bf": "0", "sc_threshold": "0"}},
    "hevc": {"codec": "libx265", "options": {"x265-params": "keyint=20:open-gop=0:log-level=none"}},
    "mpeg4": {"codec": "mpeg4", "options": {"g": "15"}},
}


def part_of(path: Path, spans: list[tuple[int, int]], folder: Path) -> PartialFile:
    """The file with these bytes alone: all others are wrong ones."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    held = content ^ 255
    for start, end in spans:
        held[start:end] = content[start:end]
    (folder / "part").write_bytes(held.tobytes())
    descriptor = os.open(folder / "part", os.O_RDONLY)
    return PartialFile(descriptor, len(content), spans)


@pytest.mark.parametrize("kind", CODECS)
def test_a_part_has_the_frames_of_the_whole_and_reads_nothing_else(tmp_path: Path, kind: str) -> None:
    path = write_video(tmp_path / "a.mp4", frames=90, **CODECS[kind])
    groups = groups_of(str(path))
    assert groups is not None and groups.frames == 90
    assert Groups.of(groups.text(), path.stat().st_size) == groups
    for wanted in ([0], [89], [3, 88], [19, 20, 21], list(range(40, 70, 4))):
        spans = groups.spans(np.array(wanted))
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        part = part_of(path, spans, tmp_path)
        with PyavVideo(part) as video:
            assert len(video) == 90 and video.fps == groups.fps
            frames = video.get(np.array(wanted))
        assert not part.missed and np.array_equal(frames, read_frames(str(path), np.array(wanted)))


def test_frames_that_are_not_there_are_missed_and_never_made_up(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=120, options={"g": "20", "crf": "0"})
    groups = groups_of(str(path))
    assert groups is not None
    part = part_of(path, groups.spans(np.array([0])), tmp_path)
    with PyavVideo(part) as video, pytest.raises(DecodeError):
        video.get(np.array([100]))
    assert part.missed
    part = part_of(path, groups.spans(np.array([0]))[1:], tmp_path)
    with pytest.raises(DecodeError):
        PyavVideo(part)
    assert part.missed


def test_few_groups_are_few_bytes_in_few_ranges(tmp_path: Path) -> None:
    encode(str(write_video(tmp_path / "a.mp4", frames=240)), tmp_path / "b.mp4", Encoding("h264", 2))
    groups = groups_of(str(tmp_path / "b.mp4"))
    assert groups is not None and len(groups.firsts) == 16
    size = (tmp_path / "b.mp4").stat().st_size
    spans = groups.spans(np.arange(160, 208, 4))
    ranges = joined(spans)
    assert len(ranges) == 2 and ranges[0][0] == 0 and sum(end - start for start, end in ranges) < 0.35 * size


def test_no_groups_are_told_where_only_the_whole_file_tells_its_frames(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "one.mp4", frames=12)
    assert groups_of(str(plain)) is None, "one group"
    many = write_video(tmp_path / "many.mp4", frames=60, options={"g": "20"})
    assert groups_of(str(write_trimmed(many, tmp_path / "trimmed.mp4", 0.5))) is None
    assert groups_of(str(write_video(tmp_path / "a.webm", frames=40, codec="libvpx-vp9", options={"g": "10"}))) is None
    opened = {"codec": "libx265", "options": {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:log-level=none"}}
    assert groups_of(str(write_video(tmp_path / "open.mp4", frames=60, **opened))) is None
    content = many.read_bytes()
    (tmp_path / "shard").write_bytes(b"x" * 700 + content + b"y" * 300)
    assert groups_of(ByteRange(str(tmp_path / "shard"), 700, len(content), "a.mp4")) == groups_of(str(many))
    (tmp_path / "text.mp4").write_bytes(b"hello " * 50)
    with pytest.raises(DecodeError):
        groups_of(str(tmp_path / "text.mp4"))


@pytest.mark.parametrize(
    "text",
    [
        None, 3, "", "25.0 00000000 0-9 0:10 60:90", "25.0 00000000 0-9 5:10 30:50 60:90", "25.0 00000000 0-9 0:10 30:50 20:90",
        "25.0 00000000 0-9 0:10 30:5 60:90", "25.0 00000000 0-900 0:10 30:50 60:90", "25.0 00000000 0-9 0:10 30:50 60:101",
        "1.2.3 00000000 0-9 0:10 30:50 60:90", "25.0 0000000z 0-9 0:10 30:50 60:90",
    ],
)  # fmt: skip
def test_what_cannot_be_groups_is_none(text: object) -> None:
    assert Groups.of("25.0 00000000 0-9 0:10 30:50 60:90", 100) is not None
    assert Groups.of(text, 100) is None
