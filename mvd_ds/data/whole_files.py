"""Files that are whole or not there, whenever a process is killed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Codes of errors that are the disk's fault, not a video's."""


def write_whole(path: Path, content: bytes) -> None:
    """Write aside, sync, rename."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        file.write(content)
    finish(part, path)


def finish(part: Path, path: Path) -> None:
    """Sync what was written to ``part`` and give it its name."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


class Journal:
    """What is done, a line of JSON each. A line that was not written to its end is as good as none."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for reading and appending."""
        self.path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """All records; the last of a kind counts."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record

    def append(self, record: dict[str, Any]) -> None:
        """Add a record."""
        new = b"" if self._ends_whole() else b"\n"
        with open(self.path, "ab") as file:
            file.write(new + json.dumps(record).encode() + b"\n")

    def _ends_whole(self) -> bool:
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with open(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
