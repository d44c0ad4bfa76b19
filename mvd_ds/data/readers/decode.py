"""From a path to frames: the one door to all readers."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from mvd_ds.data.readers.decord_reader import DecordVideo
from mvd_ds.data.readers.location import Location, extension_of, read_bytes
from mvd_ds.data.readers.pyav_reader import PyavVideo
from mvd_ds.data.readers.scan import Scan, not_for_decord, not_for_torchcodec, scan_file
from mvd_ds.data.readers.torchcodec_reader import TorchcodecVideo, decoder_class
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError, Video, check_indices, reason_of

__all__ = ["READERS", "DecodeError", "Video", "open_video", "read_frames"]


def open_video(location: Location, reader: str = "auto") -> Video:
    """An opened video or image.

    Args:
        location: path, content, or byte range of a file.
        reader: decord, pyav, torchcodec, or auto: PyAV, which is exact on every file and, because it alone can leave out
            frames on which no other depends and needs no scan before, the fastest on all that were measured (16 frames,
            stride 4, of 340 x 256 H.264 with long groups of pictures: 19.5 ms; torchcodec 24.3, decord 43.9; in that order
            on H.264 and MJPEG as ``prepare`` writes them, VP9, HEVC and AV1, too, where decord reads them).

    Raises:
        DecodeError: if it cannot be opened, or decord or torchcodec is asked to read a file on which it lies or hangs.
        ConfigError: if torchcodec is asked for and cannot be used on this machine.
    """
    if extension_of(location) in IMAGE_EXTENSIONS:
        return ImageVideo(location)
    return READERS[reader](location)


def read_frames(location: Location, indices: np.ndarray, reader: str = "auto") -> np.ndarray:
    """Frames uint8 (T, H, W, C) of a file.

    Raises:
        DecodeError: if one of them cannot be read.
    """
    with open_video(location, reader) as video:
        return video.get(np.asarray(indices, np.int64))


def _open_by_decord(location: Location) -> Video:
    """By decord, if a scan of the file finds nothing on which decord lies or hangs."""
    return _open_scanned(DecordVideo, location, not_for_decord)


def _open_by_torchcodec(location: Location) -> Video:
    """By torchcodec, if a scan of the file finds nothing that it gets wrong."""
    decoder_class()
    return _open_scanned(TorchcodecVideo, location, not_for_torchcodec)


def _open_scanned(kind: type[DecordVideo | TorchcodecVideo], location: Location, refuses: Callable[[Scan], str]) -> Video:
    scan = scan_file(location)
    reason = refuses(scan)
    if not reason:
        video = kind(location, scan.fps)
        if len(video) == scan.frames:
            return video
        reason = f"{len(video)} frames by {kind.reader}, {scan.frames} in the file"
        video.close()
    raise DecodeError(f"{kind.reader} cannot be trusted with this file ({reason}); use data.reader auto")


class ImageVideo(Video):
    """An image: a video of one frame."""

    reader = "image"
    fps = 0.0

    def __init__(self, location: Location) -> None:
        """Read ``location``, upright.

        Raises:
            DecodeError: if Pillow cannot.
        """
        try:
            with Image.open(location if isinstance(location, str) else io.BytesIO(read_bytes(location))) as image:
                self._frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[None]
        except FileNotFoundError:
            raise DecodeError("no such file") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DecodeError(reason_of(error)) from None

    def __len__(self) -> int:
        return 1

    def close(self) -> None:
        del self._frame

    def get(self, indices: np.ndarray) -> np.ndarray:
        check_indices(indices, 1)
        return np.repeat(self._frame, len(indices), axis=0)


READERS: dict[str, Callable[[Location], Video]] = {
    "auto": PyavVideo,
    "decord": _open_by_decord,
    "pyav": PyavVideo,
    "torchcodec": _open_by_torchcodec,
}
