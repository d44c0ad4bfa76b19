"""The thread that sees what the training thread cannot: a rank that died, requests to stop, a hang.

It looks every second. What it finds ends the run within these times: the death of a rank 4 s on its own machine; elsewhere
at the latest when the launcher has given up on the other ranks (30 s) or the engine's timeout is over; a hang
``engine.timeout_minutes``.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from mvd_ds.training.ending import abort
from mvd_ds.training.liveness.heartbeat import Beat, Heartbeat, read_beats
from mvd_ds.training.liveness.process import ProcessName
from mvd_ds.training.liveness.rank_log import RankLog
from mvd_ds.training.run_folder import EXIT_CODES, RunFolder

POLL_SECONDS = 1.0
#: Between the discovery of a hang and the end: time for all ranks to write their stacks.
STACKS_SECONDS = 5.0
GOES_ON = "the same command goes on from the last checkpoint"


class Watchdog:
    """A thread that watches over one rank of an attempt.

    Args:
        peers: processes of all ranks.
        timeout_seconds: a rank that begins nothing new for so long hangs.
        chores: what else is done every second.
    """

    def __init__(
        self,
        folder: RunFolder,
        peers: list[ProcessName],
        heartbeat: Heartbeat,
        log: RankLog,
        timeout_seconds: float,
        heartbeat_seconds: float,
        chores: list[Callable[[], None]],
    ) -> None:
        self.folder, self.peers, self.heartbeat, self.log = folder, peers, heartbeat, log
        self.rank, self.attempt = heartbeat.beat.rank, heartbeat.beat.attempt
        self.timeout_seconds, self.heartbeat_seconds, self.chores = timeout_seconds, heartbeat_seconds, chores
        self.hang, self.spoken = (folder.control / f"{word}-{self.attempt:03}" for word in ("hang", "spoken"))
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self.heartbeat.write()
        self.thread.start()

    def close(self) -> None:
        """Stop watching; what is left must end by itself."""
        self.over.set()
        self.thread.join()
        faulthandler.cancel_dump_traceback_later()

    def follow_the_dead(self) -> None:
        """End this process if another rank of this machine died, naming it unless a rank has spoken already."""
        badly, silent = self._dead()
        if badly:
            self.abort("; ".join(self._death_message(rank, beat) for rank, beat in silent.items()) or f"rank {badly[0]} ended")

    def abort(self, reason: str) -> NoReturn:
        """End this process for what happened to another; of the ranks that are left, the first to come here speaks."""
        abort(f"{reason}; {GOES_ON}", speak=self.claim())

    def claim(self) -> bool:
        """Take the right to say why the run ends; only the first rank that asks gets it."""
        try:
            self.spoken.touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            pass  # better said twice than never
        return True

    def _dead(self) -> tuple[list[int], dict[int, Beat | None]]:
        """Return this machine's ranks that ended badly, and those of them that did not say so, with their last heartbeat."""
        dead = [rank for rank, peer in enumerate(self.peers) if rank != self.rank and peer.is_alive() is False]
        if not dead:
            return [], {}
        beats = {beat.rank: beat for beat in read_beats(self.folder, self.attempt)}
        endings = {rank: beats[rank].ended if rank in beats else None for rank in dead}
        badly = [rank for rank in dead if endings[rank] not in EXIT_CODES]
        return badly, {rank: beats.get(rank) for rank in badly if endings[rank] is None}

    def _death_message(self, rank: int, beat: Beat | None) -> str:
        where = f", last seen {beat.doing} in step {beat.step}" if beat else ""
        return f"rank {rank} ({self.peers[rank]}) died{where}"

    def _watch(self) -> None:
        last_beat = time.monotonic()
        while not self.over.wait(POLL_SECONDS):
            self._look_at_peers()
            self._look_for_hang()
            for chore in self.chores:
                try:
                    chore()
                except OSError:
                    pass  # a folder that vanished or is full is told by the training thread, which needs it
            if time.monotonic() - last_beat >= self.heartbeat_seconds:
                last_beat = time.monotonic()
                self.heartbeat.write()
                # Should even this thread be kept from running, the process still ends, with its stacks.
                faulthandler.dump_traceback_later(self.timeout_seconds + 60, exit=True, file=self.log.stack)

    def _look_at_peers(self) -> None:
        if not self._dead()[0]:
            return
        time.sleep(2 * POLL_SECONDS)  # its last words may still be on their way
        if not self.over.is_set():
            self.follow_the_dead()

    def _look_for_hang(self) -> None:
        seen = self.hang.exists()
        if not seen and self.heartbeat.still_seconds() < self.timeout_seconds:
            return
        self._tell_of_hang()
        beat = self.heartbeat.beat
        self.log.write_stacks(f"hang in step {beat.step}, {beat.doing}")
        self.heartbeat.write()
        time.sleep(STACKS_SECONDS)
        self.abort(self._hang())

    def _tell_of_hang(self) -> None:
        try:
            self.hang.touch()
        except OSError:
            pass  # the others notice by themselves

    def _hang(self) -> str:
        """Return the message that names the rank which is behind: the one that has begun the fewest things."""
        beats = read_beats(self.folder, self.attempt) or [self.heartbeat.beat]
        behind = min(beats, key=lambda beat: (beat.count, beat.written))
        quiet = max(beat.written for beat in beats) - behind.written
        silence = f", and gave no sign of life for {quiet:.0f} s" if quiet > 2 * self.heartbeat_seconds + STACKS_SECONDS else ""
        others = sorted({f"{beat.doing} in step {beat.step}" for beat in beats if beat.rank != behind.rank})
        return (
            f"no progress for engine.timeout_minutes {self.timeout_seconds / 60:g}: {behind} is behind, {behind.doing} in step "
            f"{behind.step}{silence}; the others: {', '.join(others) or 'none'}; stacks are in {self.log.path.parent}"
        )
