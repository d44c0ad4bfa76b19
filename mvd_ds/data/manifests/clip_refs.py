"""The lines of a manifest: paths with labels, and where each video's bytes are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np

from mvd_ds.config.base import without_secrets
from mvd_ds.data.manifests.captions import read_captions
from mvd_ds.data.manifests.columns import ShardPlaces
from mvd_ds.data.manifests.written_labels import WrittenLabels
from mvd_ds.data.readers.location import ByteRange
from mvd_ds.data.remote.addresses import STARTS, joined


class ClipRef(NamedTuple):
    """One line of a manifest."""

    path: str
    """Path of the video, joined to the root; of an address without what is secret in it."""
    labels: tuple[int, ...]
    """One number a label."""
    where: str
    """Place in the manifest for messages, ``train.txt:12``."""


class ClipRefs(Sequence[ClipRef]):
    """The lines of a manifest, kept as bytes: 200,000 lines take about 20 MB, a ClipRef is made when asked for."""

    def __init__(
        self,
        text: bytes,
        spans: np.ndarray,
        lines: np.ndarray | None,
        labels: np.ndarray,
        root: str,
        name: str,
        shards: ShardPlaces | None = None,
        captions: np.ndarray | None = None,
        written: WrittenLabels | None = None,
    ) -> None:
        """Keep ``text`` and where each path begins and ends in it.

        Args:
            text: bytes that hold all paths.
            spans: int64 (n, 2), start and end of each path in ``text``.
            lines: int32 (n,), line numbers, or None for a folder.
            labels: int64 (n, L).
            root: folder the paths are relative to.
            name: name of the manifest, for messages.
            shards: where each video stands in tar files; None: each is a file.
            captions: int64 (n, 2), start and end of each video's captions in ``text``; None: there are none.
            written: where labels are written in ``text``; None: ``labels`` are all of them.
        """
        self._text, self._spans, self._lines, self.root, self._name = text, spans, lines, root, name
        self._shards, self._captions = shards, captions
        self.labels, self.written = labels, written

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> ClipRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClipRef]: ...
    def __getitem__(self, index: int | slice) -> ClipRef | list[ClipRef]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        path = self.path(index)
        where = f"{self._name}:{self._lines[index]}" if self._lines is not None else path
        return ClipRef(path, tuple(self.labels[index].tolist()), where)

    def path(self, index: int) -> str:
        """Return the path of line ``index``, joined to the root; of an address without users, passwords and queries."""
        return without_secrets(self._place(index))

    def part(self, rows: np.ndarray) -> ClipRefs:
        """Return the lines ``rows``, int64 (k,), in that order; the text is shared."""
        lines = None if self._lines is None else self._lines[rows]
        shards = None if self._shards is None else self._shards.part(rows)
        captions = None if self._captions is None else self._captions[rows]
        written = None if self.written is None else self.written.part(rows)
        own = (self._text, self._spans[rows], lines, self.labels[rows], self.root, self._name)
        return ClipRefs(*own, shards, captions, written)

    def label_field(self, index: int, name: str) -> bytes:
        """Return the label ``name`` of line ``index`` as it is written; only where ``written`` says that there is one."""
        assert self.written is not None
        return self.written.field(self._text, index, name)

    @property
    def shard_bytes(self) -> int:
        """Bytes of all videos in shards; 0 where each is a file."""
        return 0 if self._shards is None else int(self._shards.size.sum())

    @property
    def has_captions(self) -> bool:
        """Return whether there is a column of captions."""
        return self._captions is not None

    def captions(self, index: int) -> tuple[str, ...]:
        """Return the captions of line ``index``; none where it has none."""
        if self._captions is None:
            return ()
        start, end = self._captions[index]
        return read_captions(self._text[start:end])

    def location(self, index: int) -> str | ByteRange:
        """Return where the bytes of line ``index`` are: a file, an object, or a range of a shard."""
        if self._shards is None:
            return self._place(index)
        shard = joined(self.root, self._shards.names[self._shards.shard[index]])
        return ByteRange(shard, int(self._shards.offset[index]), int(self._shards.size[index]), self.path(index))

    def addresses(self) -> set[str]:
        """Return the beginnings ``s3://`` of all addresses among the paths and shards, and of the root."""
        if self._shards is not None:
            names = [*self._shards.names]
        elif b"://" in self._text:
            names = [os.fsdecode(self._text[start:end]) for start, end in self._spans.tolist()]
        else:
            names = []
        return {start for start in STARTS if self.root.startswith(start) or any(name.startswith(start) for name in names)}

    def _place(self, index: int) -> str:
        start, end = self._spans[index]
        return joined(self.root, os.fsdecode(self._text[start:end]))
