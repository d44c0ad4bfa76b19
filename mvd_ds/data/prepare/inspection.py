"""Inspection of a video before it is trained on: its facts, or why it cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.frames import FrameBuffer
from mvd_ds.data.readers.location import Location, extension_of, size_of
from mvd_ds.data.readers.pyav_container import open_container, sample_table
from mvd_ds.data.readers.scan import not_for_decord, scan_file
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError, Video, reason_of

COLUMNS = ("frames", "fps", "width", "height", "codec", "keyframes", "rotation", "edit_list", "uneven", "decord")
"""Facts in the order of a manifest's columns. ``decord``: yes, or why it must not read the file."""
_CLIP_FRAMES = 16
"""Frames that ``verify`` reads as training does, beside decoding all of them."""


def inspect_file(location: Location, verify: bool) -> dict[str, Any]:
    """Return the facts of ``COLUMNS``.

    Args:
        location: a video or image.
        verify: decode all frames, not only the first, and read a clip as training does.

    Raises:
        DecodeError: if it cannot be used.
    """
    if extension_of(location) in IMAGE_EXTENSIONS:
        with open_video(location) as image:
            for number in range(len(image) if verify else 1):
                height, width = image.get(np.array([number])).shape[1:3]
            values = (len(image), round(image.fps, 3), width, height, "image", len(image), 0, False, False, "image")
            return dict(zip(COLUMNS, values, strict=True))
    scan = scan_file(location)
    if not scan.frames:
        raise DecodeError("the video holds no frames")
    with open_video(location) as video:
        frames = len(video)
        _read_clip(video, frames if verify else 1)
    if verify:
        _decode_all(location, frames)
    width, height = (scan.height, scan.width) if scan.orientation.transposed else (scan.width, scan.height)
    return {
        "frames": frames,
        "fps": round(scan.fps, 3),
        "width": width,
        "height": height,
        "codec": scan.codec,
        "keyframes": scan.keyframes,
        "rotation": scan.orientation.degrees,
        "edit_list": scan.edit_list,
        "uneven": scan.uneven,
        "decord": not_for_decord(scan) or "yes",
    }


def _read_clip(video: Video, frames: int) -> None:
    """Read some of the first ``frames`` frames, evenly spaced, as training does."""
    video.get(np.unique(np.linspace(0, frames - 1, min(frames, _CLIP_FRAMES)).astype(np.int64)))


def _decode_all(location: Location, frames: int) -> None:
    """Decode and convert every frame of a video of ``frames``.

    Raises:
        DecodeError: if one cannot be, is corrupt, or of another size or orientation than the first.
    """
    container, stream = open_container(location)
    buffer, count, corrupt = FrameBuffer(1), 0, 0
    try:
        sample_table(container, stream, size_of(location))  # refuses a file that ends before its header says it does
        for frame in container.decode(stream):
            corrupt += frame.is_corrupt
            buffer.put(0, frame)
            count += 1
    except Exception as error:
        raise DecodeError(f"frame {count} of {frames}: {reason_of(error)}") from None
    finally:
        container.close()
    if corrupt:
        raise DecodeError(f"{corrupt} of {frames} frames are corrupt")
    if count < frames:
        raise DecodeError(f"{count} of {frames} frames can be decoded")
