"""Signs of life: one small file per rank says who it is, where it is in the run, and when it last said so.

``RUN/control/heartbeats/rank-R.json``. Files, because they outlive the processes: after a death they still tell who is
missing, and another job, or a person, can read them.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from pydantic import BaseModel, ValidationError

from mvd_ds.files import printable, write_text
from mvd_ds.training.liveness.process import ProcessName
from mvd_ds.training.run_folder import RunFolder

#: Without a new sign of life for so long, a process on another machine counts as dead.
STALE_SECONDS = 30.0


class Beat(BaseModel):
    """The last sign of life of one rank."""

    rank: int
    process: ProcessName
    attempt: int
    step: int = 0
    doing: str = "starting"
    count: int = 0
    """Grows with everything that is begun: ranks in step have equal counts, a laggard has the smallest."""
    stopping: bool = False
    ended: str | None = None
    """State or reason of its end, if it could still say so."""
    written: float = 0.0
    """Seconds since 1970, of its own clock."""

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.process})"


class Heartbeat:
    """The signs of this process: ``at`` costs nothing and is called by the training thread, ``write`` by the watch."""

    def __init__(self, folder: RunFolder, rank: int, attempt: int) -> None:
        """Make the folder of the signs.

        Raises:
            OSError: if it cannot be made.
        """
        self.path = beat_path(folder, rank)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.beat = Beat(rank=rank, process=ProcessName.of(os.getpid()), attempt=attempt)
        self.lock = threading.Lock()
        self.also: list[Heartbeat] = []
        """Signs of the same process in other folders, which are written with these."""
        self.moved = time.monotonic()

    def at(self, doing: str, step: int | None = None, tell: bool = False) -> None:
        """Note that something new has begun: ``doing``, in optimizer step ``step`` (None: as before).

        Args:
            tell: write it at once; for what is rare, and what one wants to know after a death.
        """
        self.beat.count += 1
        self.beat.doing = doing
        self.beat.step = self.beat.step if step is None else step
        self.moved = time.monotonic()
        if tell:
            self.write()

    def still_seconds(self) -> float:
        """Return the seconds since something new was begun."""
        return time.monotonic() - self.moved

    def write(self) -> None:
        """Write the file; a folder that has vanished is for the training thread to find."""
        with self.lock:
            self.beat.written = time.time()
            try:
                write_text(self.path, self.beat.model_dump_json() + "\n", sync=False)
            except OSError:
                pass
        for other in self.also:
            other.write()

    def end(self, how: str) -> None:
        """Write the last sign."""
        self.beat.ended = printable(how)
        self.write()


def beat_path(folder: RunFolder, rank: int) -> Path:
    """Return the heartbeat file of ``rank``."""
    return folder.control / "heartbeats" / f"rank-{rank}.json"


def read_beats(folder: RunFolder, attempt: int | None = None) -> list[Beat]:
    """Return the last heartbeats of all ranks (of ``attempt``), in rank order, without files that cannot be read."""
    beats = []
    for path in (folder.control / "heartbeats").glob("rank-*.json"):
        try:
            beat = Beat.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            continue
        if attempt is None or beat.attempt == attempt:
            beats.append(beat)
    return sorted(beats, key=lambda beat: beat.rank)


def is_alive(beat: Beat) -> bool:
    """Return whether its process runs; on another machine, whether it gave a sign in the last ``STALE_SECONDS``."""
    if beat.ended is not None:
        return False
    alive = beat.process.is_alive()
    return alive if alive is not None else time.time() - beat.written < STALE_SECONDS
