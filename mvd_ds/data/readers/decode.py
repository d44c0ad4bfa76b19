"""The entry point of all readers: from a path to frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mvd_ds.data.readers.decord_reader import DecordVideo
from mvd_ds.data.readers.frames import MAX_PIXELS
from mvd_ds.data.readers.images import ImageVideo
from mvd_ds.data.readers.location import Location, extension_of
from mvd_ds.data.readers.pyav_reader import PyavVideo
from mvd_ds.data.readers.scan import Scan, not_for_decord, not_for_torchcodec, scan_file
from mvd_ds.data.readers.torchcodec_reader import TorchcodecVideo, decoder_class
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError, Video

__all__ = ["READERS", "DecodeError", "Video", "open_video", "read_frames"]


def open_video(location: Location, reader: str = "auto", max_pixels: int = MAX_PIXELS) -> Video:
    """Open a video or image.

    Args:
        location: path, content, or byte range of a file.
        reader: decord, pyav, torchcodec, or auto: PyAV, which is exact on every file and, because it alone can leave out
            frames on which no other depends and needs no scan before, the fastest on all that were measured (16 frames,
            stride 4, of 340 x 256 H.264 with long groups of pictures: 19.5 ms; torchcodec 24.3, decord 43.9; in that order
            on H.264 and MJPEG as ``prepare`` writes them, VP9, HEVC and AV1, too, where decord reads them).
        max_pixels: most pixels of a frame; files with larger frames are refused before they are decoded.

    Raises:
        DecodeError: if it cannot be opened, is larger, or decord or torchcodec is asked to read a file on which it gives wrong
            frames or hangs.
        ConfigError: if torchcodec is asked for and cannot be used on this machine.
    """
    if extension_of(location) in IMAGE_EXTENSIONS:
        return ImageVideo(location, max_pixels)
    return READERS[reader](location, max_pixels)


def read_frames(location: Location, indices: np.ndarray, reader: str = "auto") -> np.ndarray:
    """Return the frames uint8 (T, H, W, C) at ``indices`` of a file.

    Raises:
        DecodeError: if one of them cannot be read.
    """
    with open_video(location, reader) as video:
        return video.get(np.asarray(indices, np.int64))


def _open_by_decord(location: Location, max_pixels: int) -> Video:
    """Open by decord, if a scan of the file finds nothing on which decord gives wrong frames or hangs."""
    return _open_scanned(DecordVideo, location, max_pixels, not_for_decord)


def _open_by_torchcodec(location: Location, max_pixels: int) -> Video:
    """Open by torchcodec, if a scan of the file finds nothing that it gets wrong."""
    decoder_class()
    return _open_scanned(TorchcodecVideo, location, max_pixels, not_for_torchcodec)


def _open_scanned(
    kind: type[DecordVideo | TorchcodecVideo], location: Location, max_pixels: int, refuses: Callable[[Scan], str]
) -> Video:
    scan = scan_file(location, max_pixels)
    reason = refuses(scan)
    if not reason:
        video = kind(location, scan.fps)
        if len(video) == scan.frames:
            return video
        reason = f"{len(video)} frames by {kind.reader}, {scan.frames} in the file"
        video.close()
    raise DecodeError(f"{kind.reader} cannot be trusted with this file ({reason}); use data.reader auto")


READERS: dict[str, Callable[[Location, int], Video]] = {
    "auto": PyavVideo,
    "decord": _open_by_decord,
    "pyav": PyavVideo,
    "torchcodec": _open_by_torchcodec,
}
"""Name of ``data.reader`` -> the function that opens a video."""
