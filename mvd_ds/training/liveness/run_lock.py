"""One job per run folder: ``RUN/control/owner.json`` names who works there.

No flock, which shared file systems do not honour: the file is made by a hard link, which exactly one of several jobs can
make, and a dead owner's is moved away by a rename, after which the mover looks at what it moved.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from pydantic import BaseModel, ValidationError

from mvd_ds.config import ConfigError
from mvd_ds.files import read_json, write_text
from mvd_ds.training.console import say
from mvd_ds.training.liveness.heartbeat import STALE_SECONDS, Beat, read_beats
from mvd_ds.training.liveness.process import ProcessName
from mvd_ds.training.run_folder import RunFolder

#: The setting that names a run's folder.
RUN = "run.output"
#: So long a start waits for an earlier job that is about to end: the launcher kills ranks after 30 s.
ENDING_SECONDS = 60.0
#: So long a shared file system may take to show a file to another host.
VISIBLE_SECONDS = 10.0


class Owner(BaseModel, frozen=True):
    """The content of ``owner.json``."""

    token: str
    process: ProcessName
    heeds_stop: bool = True
    """It looks for requests to stop in the folder, as trainings do."""


class RunLock:
    """The lock on a run's folder, which rank 0 holds for all ranks.

    Args:
        folder: the folder.
        setting: the setting that names it.
        heeds_stop: this job looks for requests to stop in the folder.
    """

    def __init__(self, folder: RunFolder, setting: str = RUN, heeds_stop: bool = True) -> None:
        self.folder, self.setting, self.path = folder, setting, folder.control / "owner.json"
        self.owner = Owner(token=secrets.token_hex(8), process=ProcessName.of(os.getpid()), heeds_stop=heeds_stop)

    def acquire(self, poll_seconds: float = 1.0) -> None:
        """Become the owner, after a dead one if there is one.

        A process of this machine is dead when it is gone; one of another machine when it has given no new sign of life
        for ``STALE_SECONDS``. Clocks of machines are not compared.

        Raises:
            ConfigError: if another job works in the folder, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            earlier = _Earlier(self)
            while not self._take(earlier.owner()):
                earlier.wait(poll_seconds)
        except OSError as error:
            raise ConfigError(f"{self.setting} {self.folder.path}: cannot be written: {error.strerror or error}") from None
        self.folder.remove_leftovers()
        for beat in (self.folder.control / "heartbeats").glob("rank-*.json"):
            beat.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Return whether this job still holds the folder."""
        owner = self.read()
        return owner is not None and owner.token == self.owner.token

    def release(self) -> None:
        """Make way for the next job."""
        if self.is_held():
            self.path.unlink(missing_ok=True)

    def read(self) -> Owner | None:
        """Return the owner, None if there is none."""
        if not self.path.exists():
            return None
        try:
            return Owner.model_validate(read_json(self.path))
        except (ConfigError, ValidationError):
            return None if not self.path.exists() else Owner(token="", process=ProcessName(host="unknown", pid=0))

    def _take(self, dead: Owner | None) -> bool:
        """Make the file ours if there is none, or ``dead``'s, which the caller has found to be dead."""
        if dead is not None and not self._move_away(dead):
            return False
        aside = self.path.with_name(f".owner.{self.owner.token}")
        write_text(aside, self.owner.model_dump_json() + "\n")
        try:
            os.link(aside, self.path)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True

    def _move_away(self, dead: Owner) -> bool:
        grave = self.path.with_name(f".owner.{self.owner.token}.dead")
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return True
        moved = RunLock(self.folder)
        moved.path = grave
        found = moved.read()
        if found is not None and found.token != dead.token:
            # Another job was faster, and this is its file: put back what was taken.
            os.link(grave, self.path)
            grave.unlink()
            return False
        grave.unlink()
        return True


class _Earlier:
    """An earlier job in the folder: its owner, its heartbeats, and for how long they have not changed."""

    def __init__(self, lock: RunLock) -> None:
        self.lock, self.began, self.said = lock, time.monotonic(), False
        self.signs: dict[int, float] = {}
        self.changed = self.began

    def owner(self) -> Owner | None:
        """Return the dead owner, or None if there is no file; waits until that is known.

        Raises:
            ConfigError: if it lives.
        """
        while (owner := self.lock.read()) is not None:
            beats = read_beats(self.lock.folder)
            lives = self._lives(owner, beats)
            if lives is False:
                return owner
            is_ending = owner.process.is_alive() is False or any(beat.stopping or beat.ended for beat in beats)
            if (lives and not is_ending) or time.monotonic() - self.began > ENDING_SECONDS:
                raise ConfigError(self._refusal(owner))
            self.wait(1.0)
        return None

    def wait(self, seconds: float) -> None:
        if not self.said:
            self.said = True
            say(f"{self.lock.folder.path}: another job was here; waiting until it has ended")
        time.sleep(seconds)

    def _lives(self, owner: Owner, beats: list[Beat]) -> bool | None:
        """Return whether any process of the earlier job lives, None while that cannot be told."""
        known = [(beat.ended is None, beat.process.is_alive()) for beat in beats]
        states = [owner.process.is_alive(), *(alive for running, alive in known if running)]
        if any(states):
            return True
        if all(state is False for state in states):
            return False
        signs = {beat.rank: beat.written for beat in beats}
        if signs != self.signs:
            lives = bool(self.signs) or None
            self.signs, self.changed = signs, time.monotonic()
            return lives
        return False if time.monotonic() - self.changed > STALE_SECONDS else None

    def _refusal(self, owner: Owner) -> str:
        setting, folder = self.lock.setting, self.lock.folder
        end = f"stop it: touch {folder.stop}" if owner.heeds_stop else "wait until it has ended"
        return (
            f"{setting} {folder.path}: another job works here ({owner.process}); choose another {setting}, or {end}. If it is "
            f"not there any more, remove {self.lock.path}"
        )


def require_shared(folder: RunFolder, token: str) -> None:
    """Check that this process sees the folder whose owner has ``token``.

    Raises:
        ConfigError: if it sees another folder, or none.
    """
    lock, began = RunLock(folder), time.monotonic()
    while (owner := lock.read()) is None or owner.token != token:
        if time.monotonic() - began > VISIBLE_SECONDS:
            raise ConfigError(
                f"run.output {Path(folder.path).resolve()}: {ProcessName.of(os.getpid()).host} does not see the folder that "
                "rank 0 writes; all hosts need one shared file system, mounted at the same path"
            )
        time.sleep(0.2)
