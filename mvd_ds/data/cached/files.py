"""The files of a cache of targets: written row by row, read by ranges, so that neither holds more than a row in memory."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mvd_ds.config import ConfigError
from mvd_ds.data.cached.index import INDEX, CacheIndex, StoredArray, read_index
from mvd_ds.files import written_aside

#: Files that one process keeps open.
MOST_OPEN = 64


def file_name(number: int) -> str:
    """Return the name of file ``number`` of a cache."""
    return f"targets-{number:05}.safetensors"


def file_layout(index: CacheIndex, number: int) -> tuple[bytes, dict[str, int]]:
    """Return the header of file ``number`` of a cache, in safetensors' form, and where in the file each array begins."""
    rows, mark = index.rows_of(number), {"cache": index.mark, "file": str(number)} if index.mark else {}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **mark}}
    begins, end = {}, 0
    for name, array in index.arrays.items():
        begins[name], end = end, end + rows * array.row_bytes
        header[name] = {"dtype": array.file_type, "shape": [rows, *array.shape], "data_offsets": [begins[name], end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + begin for name, begin in begins.items()}


def file_bytes(index: CacheIndex, number: int) -> int:
    """Return the size of file ``number``."""
    return len(file_layout(index, number)[0]) + index.rows_of(number) * sum(array.row_bytes for array in index.arrays.values())


class RowWriter:
    """A file of a cache that is being written."""

    def __init__(self, descriptor: int, arrays: Mapping[str, StoredArray], begins: dict[str, int]) -> None:
        self._descriptor, self._arrays, self._begins = descriptor, arrays, begins

    def write(self, row: int, values: Mapping[str, np.ndarray]) -> None:
        """Write one row of every array.

        Raises:
            OSError: if the disk refuses.
        """
        for name, array in self._arrays.items():
            content = np.ascontiguousarray(values[name]).data.cast("B")
            assert len(content) == array.row_bytes, f"a row of {name} has {len(content)} bytes, not {array.row_bytes}"
            place = self._begins[name] + row * array.row_bytes
            while content:
                done = os.pwrite(self._descriptor, content, place)
                content, place = content[done:], place + done


@contextmanager
def written_file(folder: Path, index: CacheIndex, number: int) -> Iterator[RowWriter]:
    """Yield the writer of file ``number``; it takes its name when the block ends, whole and on disk, or is removed.

    All its bytes are taken from the disk at the start. Rows that are not written are zeros.

    Raises:
        OSError: if the disk refuses.
    """
    header, begins = file_layout(index, number)
    with written_aside(folder / file_name(number)) as aside:
        descriptor = os.open(aside, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, file_bytes(index, number))
            os.pwrite(descriptor, header, 0)
            yield RowWriter(descriptor, index.arrays, begins)
        finally:
            os.close(descriptor)


class CachedRows:
    """The rows of a whole cache, read into arrays that are there already. It travels to the loader's workers.

    Args:
        folder: folder of ``targets.cache``.

    Raises:
        ConfigError: in one line, if there is no index, or a file is missing or not whole.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index: CacheIndex = read_index(self.folder)
        self._open: OrderedDict[int, tuple[int, dict[str, int]]] = OrderedDict()
        for number in range(self.index.files):
            path, wanted = self.folder / file_name(number), file_bytes(self.index, number)
            size = path.stat().st_size if path.is_file() else -1
            if size != wanted:
                state = "is missing" if size < 0 else f"has {size:,} bytes, not {wanted:,}"
                raise ConfigError(f"{path}: {state}; run `mvd_ds cache-targets` again, it makes the files that are not whole")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a worker, which opens files by itself."""
        return {**self.__dict__, "_open": OrderedDict()}

    def fault(self, video: int) -> str | None:
        """Return why a video has no targets; None if it has."""
        return self.index.faults.get(video)

    def read(self, clip: int, crop: int, flip: bool, into: Mapping[str, np.ndarray]) -> None:
        """Fill the arrays ``into``, by name, with the rows of a view of a clip.

        Raises:
            ConfigError: in one line, if the file cannot be read.
        """
        number, row = self.index.row(clip, crop, flip)
        path = self.folder / file_name(number)
        try:
            descriptor, begins = self._opened(number)
            for name, array in self.index.arrays.items():
                if name not in into:
                    continue
                rest, place = into[name].data.cast("B"), begins[name] + row * array.row_bytes
                while rest:
                    done = os.preadv(descriptor, [rest], place)
                    if not done:
                        raise ConfigError(f"{path}: ends before row {row} of {name}")
                    rest, place = rest[done:], place + done
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None

    def _opened(self, number: int) -> tuple[int, dict[str, int]]:
        """Return the descriptor of a file and where its arrays begin; the file that was used longest ago may be closed.

        Raises:
            ConfigError: if its header is not that of the index.
        """
        if number not in self._open:
            header, begins = file_layout(self.index, number)
            descriptor = os.open(self.folder / file_name(number), os.O_RDONLY)
            if os.pread(descriptor, len(header), 0) != header:
                os.close(descriptor)
                raise ConfigError(
                    f"{self.folder / file_name(number)}: does not hold what {self.folder / INDEX} says; remove it, and run "
                    "`mvd_ds cache-targets` again"
                )
            self._open[number] = descriptor, begins
            if len(self._open) > MOST_OPEN:
                os.close(self._open.popitem(last=False)[1][0])
        self._open.move_to_end(number)
        return self._open[number]

    def close(self) -> None:
        """Close all files; they are opened again when they are read."""
        while self._open:
            os.close(self._open.popitem()[1][0])
