"""The last lines of the rank that failed first, read from ``RUN/logs/attempt-NNN/rank-R.log``."""

from __future__ import annotations

import re
from pathlib import Path

#: Number of lines of a log that are shown, and of bytes that are read for them.
LINES, BYTES = 15, 65536
#: Pattern of a failure in a log.
_FAILURE = re.compile(rb"^(Traceback \(most recent call last\)|mvd_ds: |\w*(Error|Exception)\b)", re.MULTILINE)
#: Pattern of a failure that follows from the end of another rank: such a rank was not the first to fail.
_CONSEQUENCE = re.compile(
    rb"Connection (closed|reset) by peer|Timed out waiting|Watchdog caught collective operation timeout|lost a rank|\) died"
)


def last_words(run: Path, since: float) -> str:
    """Return the last lines of the rank that failed first, under its name; empty if this attempt has no log.

    First is the rank with a failure of its own that fell silent earliest; then one whose peers had gone.

    Args:
        since: logs that were last written before (seconds) belong to other attempts.
    """
    candidates = []
    for path in sorted(run.glob("logs/attempt-*/rank-*.log")):
        written = path.stat().st_mtime
        if written < since:
            continue
        tail = _tail(path)
        kind = 2 if not _FAILURE.search(tail) else 1 if _CONSEQUENCE.search(tail) else 0
        candidates.append((kind, written, path, tail))
    if not candidates:
        return ""
    _, _, path, tail = min(candidates, key=lambda found: found[:2])
    lines = tail.decode(errors="replace").splitlines()[-LINES:]
    return "\n".join([f"{path.stem} was the first to fail; its last lines ({path}):", *(f"  | {line}" for line in lines)])


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - BYTES, 0))
        return file.read()
