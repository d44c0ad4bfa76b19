"""Captions of videos: how a field of a manifest holds them, and the faults of texts that come from outside."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mvd_ds.files import one_line

TEXT_COLUMN = "text"
"""Name of the column of captions, and of their key in JSON."""
MOST_BYTES = 65536
"""Longest caption, in bytes of UTF-8: 100 times the longest paragraph that captions are made of, and no whole file."""


def read_captions(field: bytes) -> tuple[str, ...]:
    """Return the captions that a field of a manifest holds: a plain text is one, JSON a text or a list of several.

    Raises:
        ValueError: in a few words, for a field that is not UTF-8, not JSON where it begins as JSON, or holds bad captions.
    """
    field = field.strip()
    if not field:
        return ()
    try:
        text = field.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"text is not UTF-8 at its byte {error.start + 1}") from None
    if not text.startswith(("[", '"')):
        return checked_captions(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"text '{one_line(text[:400], 60)}' begins as JSON does, and is none; write '[\"...\"]'") from None
    return checked_captions(value)


def checked_captions(value: object) -> tuple[str, ...]:
    """Return captions from a text or a list of texts.

    Raises:
        ValueError: in a few words, if it is something else, or a caption is empty, too long, no Unicode, or holds a NUL.
    """
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"text is {one_line(repr(value)[:400], 60)}, not a caption or a list of captions")
    for caption in captions:
        if not caption.strip():
            raise ValueError("a caption is empty; leave it out")
        try:
            size = len(caption.encode())
        except UnicodeEncodeError:
            raise ValueError(f"caption '{one_line(caption, 60)}' holds half of a character (a lone surrogate)") from None
        if size > MOST_BYTES:
            raise ValueError(f"caption '{one_line(caption[:100], 40)}' has {size:,} bytes, and at most {MOST_BYTES:,} are taken")
        if "\0" in caption:
            raise ValueError(f"caption '{one_line(caption, 60)}' holds a NUL, which no text does")
    return tuple(captions)


def caption_field(captions: Sequence[str]) -> str:
    """Return the field that holds ``captions``: JSON in one line, whose tabs and line breaks are escaped."""
    return json.dumps(list(captions), ensure_ascii=False) if captions else ""
