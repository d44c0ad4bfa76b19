"""Every reader on one small file of every kind: the bytes of a plain decode from start to end, or a clear refusal."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from conformance_files import BROKEN, CHANGED, ENCODED, Plain, plain_decode, some_indices, write_all
from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.location import ByteRange, Location
from mvd_ds.data.readers.video import DecodeError

#: What decord says no to, and why.
NOT_FOR_DECORD = {
    "open_group.mp4": "open group of pictures",
    "open_group.mkv": "open group of pictures",
    "hevc_open_group.mp4": "open group of pictures",
    "interlaced.mp4": "interlaced",
    "ten_bits.mp4": "pixel format yuv420p10le",
    "narrow.mp4": "48 px wide",
    "av1.mp4": "codec libdav1d",
    "av1.webm": "codec libdav1d",
    "vp8.webm": "codec vp8",
    "packed.avi": "container avi",
    "h264.avi": "container avi",
    "mjpeg.avi": "container avi",
    "mjpeg.mp4": "codec mjpeg",
    "mpeg2.mpg": "container mpeg",
    "transport.ts": "container mpegts",
    "flash.flv": "container flv",
    "edit_list.mp4": "edit list",
    "edit_list_late.mp4": "edit list",
    "intra_refresh.mp4": "open group of pictures",
    "mpeg4.mp4": "codec mpeg4",
    "late_start.mkv": "198 frames in the header, 40 in the file",
}
NOT_FOR_TORCHCODEC = {
    name: reason
    for name, reason in NOT_FOR_DECORD.items()
    if reason.split()[0] in ("container", "pixel", "interlaced") or (reason.startswith("open") and not name.startswith("hevc"))
}
#: Bits that are wrong without breaking the syntax: PyAV alone says that a frame is made of damaged ones; decord and torchcodec
#: show it, patched up. `prepare --verify` finds such files.
CONCEALED = {("flipped.mp4", "decord"), ("flipped.mp4", "torchcodec")}
FIT = [*ENCODED, *CHANGED]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conformance")
    write_all(folder)
    return folder


@pytest.fixture(scope="session")
def plain(files: Path) -> dict[str, Plain | None]:
    """What a plain decode makes of each file; None of those that it cannot open."""
    found: dict[str, Plain | None] = {}
    for name in [*FIT, *BROKEN]:
        try:
            found[name] = plain_decode(files / name)
        except (OSError, ValueError, IndexError, AttributeError):
            found[name] = None
    return found


def answers(location: Location, reader: str) -> list[str]:
    """A digest of the frames for each of ``some_indices``, or why they, or the file, are refused."""
    try:
        with open_video(location, reader) as video:
            return [_answer(video, indices) for indices in some_indices(len(video))]
    except DecodeError as error:
        return [f"refused: {error}"]


def _answer(video, indices: np.ndarray) -> str:  # type: ignore[no-untyped-def]
    try:
        return digest(list(video.get(indices)))
    except DecodeError as error:
        return f"refused: {error}"


def digest(images: list[np.ndarray]) -> str:
    found = hashlib.sha256(str([image.shape for image in images]).encode())
    for image in images:
        found.update(np.ascontiguousarray(image))
    return found.hexdigest()


def expected(plain: Plain, length: int) -> list[str]:
    """The answers of a reader that sees ``length`` frames; those that a plain decode does not give can only be refused."""
    return [
        digest([plain.frames[i] for i in indices.tolist()]) if set(indices.tolist()) <= plain.frames.keys() else "refused: any"
        for indices in some_indices(length)
    ]


def _refusal(reader: str, reason: str) -> str:
    return f"refused: {reader} cannot be trusted with this file ({reason}); use data.reader auto"


def check_broken(name: str, reader: str, found: list[str], plain: Plain | None) -> None:
    """Right or refused, set of indices by set of indices."""
    if len(found) == 1 and found[0].startswith("refused: "):
        assert 8 < len(found[0].removeprefix("refused: ")) < 250 and "\n" not in found[0] and "/" not in found[0], found
        return
    assert plain is not None, f"{name} is read where a plain decode cannot open it"
    for answer, right in zip(found, expected(plain, plain.length), strict=True):
        assert answer == right or answer.startswith("refused: ") or (name, reader) in CONCEALED, name


@pytest.mark.parametrize("name", FIT)
def test_pyav_reads_all_fit_files(files: Path, plain: dict[str, Plain], name: str) -> None:
    assert answers(str(files / name), "auto") == expected(plain[name], plain[name].length)


@pytest.mark.parametrize("name", FIT)
def test_decord_reads_or_refuses_fit_files(files: Path, plain: dict[str, Plain], name: str) -> None:
    found = answers(str(files / name), "decord")
    if name in NOT_FOR_DECORD:
        assert found == [_refusal("decord", NOT_FOR_DECORD[name])]
    else:
        assert found == expected(plain[name], plain[name].length)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_broken_files_are_right_or_refused(files: Path, plain: dict[str, Plain | None], name: str, reader: str) -> None:
    check_broken(name, reader, answers(str(files / name), reader), plain[name])


@pytest.mark.parametrize("name", ["b_frames.mp4", "vp9.webm", "edit_list.mp4", "transport.ts", "mjpeg.mp4", "vp8.webm"])
@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_bytes_and_byte_ranges_read_as_the_file_does(files: Path, tmp_path: Path, name: str, reader: str) -> None:
    content = (files / name).read_bytes()
    (tmp_path / "shard.tar").write_bytes(b"x" * 1234 + content + b"y" * 999)
    from_path = answers(str(files / name), reader)
    assert answers(content, reader) == from_path
    assert answers(ByteRange(str(tmp_path / "shard.tar"), 1234, len(content), name), reader) == from_path


def test_a_byte_range_beyond_the_file_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(b"x" * 100)
    for reader in ("pyav", "decord", "torchcodec"):
        with pytest.raises(DecodeError, match="the file around it ends at byte 100, before the video does"):
            open_video(ByteRange(str(tmp_path / "shard.tar"), 50, 100), reader)
        with pytest.raises(DecodeError, match="no such file"):
            open_video(ByteRange(str(tmp_path / "gone.tar"), 50, 100), reader)


def test_frame_rates_are_those_of_the_file(files: Path) -> None:
    rates = {}
    for name in ("b_frames.mp4", "vp9.webm", "mpeg2.mpg", "with_sound.mp4"):
        for reader in ("pyav", "decord"):
            try:
                with open_video(str(files / name), reader) as video:
                    rates[name, reader] = video.fps
            except DecodeError:
                pass
    assert set(rates.values()) == {30.0} and len(rates) == 7
    with open_video(str(files / "uneven.mp4")) as video:
        assert 29 < video.fps < 30


@pytest.fixture(scope="session")
def by_torchcodec(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """torchcodec's answers for every file, by a process that finds PyAV's FFmpeg libraries under their plain names."""
    if find_spec("torchcodec") is None:
        pytest.skip("torchcodec is not installed")
    libraries = tmp_path_factory.mktemp("ffmpeg")
    folder = Path(str(find_spec("av").origin)).parent.parent / "av.libs"  # type: ignore[union-attr]
    for library in folder.glob("*.so*"):
        stem, _, version = library.name.partition(".so.")
        for link in (library.name, f"{stem.rpartition('-')[0]}.so.{version.partition('.')[0]}"):
            (libraries / link).symlink_to(library)
    code = (
        "import sys, json; sys.path[:0] = sys.argv[1:3]; sys.path.insert(0, sys.argv[1] + '/data/readers')\n"
        "from test_decode_conformance import answers\n"
        "from pathlib import Path\n"
        "print(json.dumps({path.name: answers(str(path), 'torchcodec') for path in sorted(Path(sys.argv[3]).iterdir())}))"
    )
    tests = Path(__file__).parents[2]
    paths = os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]))
    command = [sys.executable, "-c", code, str(tests), str(tests.parent), str(files)]
    done = subprocess.run(command, env={**os.environ, "LD_LIBRARY_PATH": paths}, capture_output=True, text=True, timeout=240)
    if "torchcodec is installed but does not load" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1][-300:])
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", FIT)
def test_torchcodec_reads_or_refuses_fit_files(by_torchcodec: dict[str, list[str]], plain: dict[str, Plain], name: str) -> None:
    if name in NOT_FOR_TORCHCODEC:
        assert by_torchcodec[name] == [_refusal("torchcodec", NOT_FOR_TORCHCODEC[name])]
    else:
        assert by_torchcodec[name] == expected(plain[name], plain[name].length)


@pytest.mark.parametrize("name", BROKEN)
def test_torchcodec_is_right_about_broken_files_or_refuses(
    by_torchcodec: dict[str, list[str]], plain: dict[str, Plain | None], name: str
) -> None:
    check_broken(name, "torchcodec", by_torchcodec[name], plain[name])


@pytest.mark.nightly
@pytest.mark.parametrize("reader", ["auto", "decord"])
def test_a_thousand_rounds_leave_memory_and_files_as_they_were(files: Path, plain: dict[str, Plain | None], reader: str) -> None:
    """Open, read, close over the whole set: neither memory nor open files grow."""
    names = [*FIT, *BROKEN]

    def round_of(number: int) -> None:
        name = names[number % len(names)]
        known = plain[name]
        try:
            with open_video(str(files / name), reader) as video:
                video.get(np.array([0, known.length - 1 if known is not None else 0]))
        except DecodeError:
            pass

    def memory_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    for number in range(5 * len(names)):
        round_of(number)
    before, opened = memory_mib(), len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        round_of(number)
    assert len(os.listdir("/proc/self/fd")) == opened
    assert memory_mib() - before < 5
