"""What a list should know of a video before it is trained on: its facts, or why it cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvd_ds.data.readers.decode import open_video
from mvd_ds.data.readers.location import Location, extension_of, size_of
from mvd_ds.data.readers.pyav_container import READ_ERRORS, open_container, sample_table
from mvd_ds.data.readers.scan import Scan, not_for_decord, scan_file
from mvd_ds.data.readers.video import IMAGE_EXTENSIONS, DecodeError, reason_of

COLUMNS = ("frames", "fps", "width", "height", "codec", "keyframes", "rotation", "edit_list", "uneven", "decord")
"""Facts in the order of a manifest's columns. ``decord``: yes, or why it must not read the file."""


def inspect_file(location: Location, verify: bool) -> dict[str, Any]:
    """The facts of ``COLUMNS``.

    Args:
        location: a video or image.
        verify: decode all frames, not only the first.

    Raises:
        DecodeError: if it cannot be used.
    """
    if extension_of(location) in IMAGE_EXTENSIONS:
        with open_video(location) as image:
            return _image_facts(*image.get(np.zeros(1, np.int64)).shape[1:3])
    scan = scan_file(location)
    if not scan.frames:
        raise DecodeError("the video holds no frames")
    rotation = _decode(location, scan, verify)
    width, height = (scan.height, scan.width) if rotation in (90, 270) else (scan.width, scan.height)
    return {
        "frames": scan.frames,
        "fps": round(scan.fps, 3),
        "width": width,
        "height": height,
        "codec": scan.codec,
        "keyframes": scan.keyframes,
        "rotation": rotation,
        "edit_list": scan.edit_list,
        "uneven": scan.uneven,
        "decord": not_for_decord(scan) or "yes",
    }


def _decode(location: Location, scan: Scan, verify: bool) -> int:
    """Decode the first frame, or all of them, and give the degrees (0, 90, 180, 270) by which they are turned."""
    container, stream = open_container(location)
    rotation = count = corrupt = 0
    try:
        sample_table(container, stream, size_of(location))  # refuses a file that ends before its header says it does
        for frame in container.decode(stream):
            if not count:
                rotation = round(frame.rotation / 90) % 4 * 90
            corrupt += frame.is_corrupt
            count += 1
            if not verify:
                break
    except READ_ERRORS as error:
        raise DecodeError(f"frame {count} of {scan.frames}: {reason_of(error)}") from None
    finally:
        container.close()
    if corrupt:
        raise DecodeError(f"{corrupt} of {scan.frames} frames are corrupt")
    if not count or (verify and count < scan.frames):
        raise DecodeError(f"{count} of {scan.frames} frames can be decoded")
    return rotation


def _image_facts(height: int, width: int) -> dict[str, Any]:
    values = (1, 0.0, width, height, "image", 1, 0, False, False, "image")
    return dict(zip(COLUMNS, values, strict=True))
