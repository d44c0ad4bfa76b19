"""Time stamps that cannot be trusted: files joined end to end, and files without an average frame rate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from conformance_files import some_indices
from mvd_ds.data.prepare.inspection import inspect_file
from mvd_ds.data.readers import pyav_reader
from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.pyav_container import frame_rate
from mvd_ds.data.readers.scan import not_for_decord, not_for_torchcodec, scan_file
from mvd_ds.data.readers.video import DecodeError
from video_files import all_frames, picture

KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "ts": ("libx264", {"g": "10", "bf": "2"}),
    "flv": ("libx264", {"g": "10", "bf": "2"}),
    "mpg": ("mpeg2video", {"g": "10", "bf": "2"}),
    "mkv": ("libx264", {"g": "10", "bf": "2"}),
}

_FLV_HEADER_BYTES = 13


def part(path: Path, seed: int, offset_seconds: float) -> np.ndarray:
    """Write 24 frames whose clock starts later by ``offset_seconds``; their decoded frames."""
    codec, options = KINDS[path.suffix[1:]]
    with av.open(str(path), "w", options={"output_ts_offset": str(offset_seconds)}) as output:
        stream = output.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(24):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, seed, 128, 96), format="rgb24")))
        output.mux(stream.encode())
    return all_frames(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0.0, 0.013, 0.4])
def test_joined_files_are_read_one_after_the_other(tmp_path: Path, kind: str, offset: float) -> None:
    first, second = (part(tmp_path / f"{seed}.{kind}", seed, seed * offset) for seed in (0, 1))
    path = tmp_path / f"joined.{kind}"
    contents = [(tmp_path / f"{seed}.{kind}").read_bytes() for seed in (0, 1)]
    # FFmpeg takes the header of a second FLV file for the end of the first.
    path.write_bytes(contents[0] + (contents[1][_FLV_HEADER_BYTES:] if kind == "flv" else contents[1]))
    expected = np.concatenate((first, second))
    with open_video(str(path)) as video:
        assert len(video) == len(expected)
        for indices in some_indices(len(video)):
            assert np.array_equal(video.get(indices), expected[indices])
    assert inspect_file(str(path), verify=True)["frames"] == len(expected)
    scan = scan_file(str(path))
    assert scan.jumps_back and not_for_decord(scan) and not_for_torchcodec(scan)


def test_a_sound_file_is_not_taken_for_joined_ones(tmp_path: Path) -> None:
    for kind in KINDS:
        part(tmp_path / f"one.{kind}", 0, 0)
        assert not scan_file(str(tmp_path / f"one.{kind}")).jumps_back


def test_a_rate_is_found_where_no_average_is_known(monkeypatch: pytest.MonkeyPatch, plain: Path) -> None:
    stream: Any = SimpleNamespace(average_rate=None, base_rate=30)
    assert frame_rate(stream) == 30.0
    stream.base_rate = None
    assert frame_rate(stream) == 0.0
    assert pyav_reader.frame_rate is frame_rate


def test_an_flv_file_joined_to_another_is_broken_by_name(tmp_path: Path) -> None:
    for seed in (0, 1):
        part(tmp_path / f"{seed}.flv", seed, seed * 0.013)
    path = tmp_path / "joined.flv"
    path.write_bytes(b"".join((tmp_path / f"{seed}.flv").read_bytes() for seed in (0, 1)))
    for look in (open_video, scan_file):
        with pytest.raises(DecodeError, match="another FLV file is joined to its end"):
            look(str(path))
