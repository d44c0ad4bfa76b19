"""A file of finished jobs that survives a kill at any time."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Journal:
    """Finished jobs, one line of JSON each; a line that was not written to its end is ignored."""

    def __init__(self, path: Path, others: Sequence[Path] = ()) -> None:
        """Keep ``path``; the file is made by the first record. Journals of other processes, ``others``, are only read."""
        self.path, self._others = path, others

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield all records in the order in which they were appended, those of other journals first."""
        yield from itertools.chain.from_iterable(map(_records, (*self._others, self.path)))

    def append(self, record: dict[str, Any]) -> None:
        """Append a record."""
        new = b"" if self._ends_whole() else b"\n"
        with open(self.path, "ab") as file:
            file.write(new + json.dumps(record).encode() + b"\n")

    def _ends_whole(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with open(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record
