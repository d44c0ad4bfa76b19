"""The values that the steps of ``prepare`` share: its options, and the videos that it found good."""

from __future__ import annotations

from typing import Any, NamedTuple

from mvd_ds.data.manifests.listings import ListedVideo
from mvd_ds.data.prepare.encode import Encoding
from mvd_ds.data.readers.location import ByteRange


class PrepareOptions(NamedTuple):
    """The options of one call of ``prepare``."""

    verify: bool = False
    """Decode every frame of every file."""
    encoding: Encoding | None = None
    """Codec and quality to encode with; None: files stay as they are."""
    shard_bytes: int = 0
    """Size of a tar shard in bytes; 0: no shards."""
    workers: int = 1
    """Number of processes."""
    seconds_per_file: float = 300.0
    """Seconds after which a file that is still being read is given up."""
    videos: str | None = None
    """Folder of the videos that the list names; None: the list's own."""
    classes: str | None = None
    """File of class names; None: the list's own."""


class Found(NamedTuple):
    """A good video and its facts."""

    entry: ListedVideo
    """Line of the list that names it."""
    facts: dict[str, Any]
    """Facts of the file to train on, by column of the manifest."""
    location: str | ByteRange
    """File to train on: the original, or the one that was encoded from it."""
