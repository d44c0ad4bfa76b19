"""One attempt of a launch: the launcher is started and watched until none of its processes is left on any host."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mvd_ds.tools.launch import processes, remote
from mvd_ds.tools.launch.command import Start
from mvd_ds.tools.launch.hosts import Host
from mvd_ds.tools.launch.launch_options import LaunchOptions
from mvd_ds.tools.launch.relay import Relay
from mvd_ds.tools.launch.stop import NAMES, StopSignals
from mvd_ds.training.run_folder import RunFolder

POLL_SECONDS = 0.3
#: Time for the other hosts to end by themselves after one has failed; ranks that save do so within seconds.
OTHERS_SECONDS = 20.0
#: Time between SIGTERM, at which ranks save and end, and SIGKILL; DeepSpeed's launcher gives its ranks as much.
GRACE_SECONDS = 30
#: Time for loader workers to end after a launcher that ended well.
REMAINDER_SECONDS = 1.0
#: Time for orphaned ranks, which save and end within 30 s of their launcher's death (``training/liveness/launcher.py``).
ORPHANS_SECONDS = 35.0
STOP_CODES = {-getattr(signal, name): name for name in NAMES}


class Ended(NamedTuple):
    """The end of an attempt."""

    code: int
    """Exit code of the launcher; negative for a signal."""
    survivors: int
    """Processes of this host that outlived it."""


@dataclass
class LaunchAttempt:
    """One start of the launcher on ``hosts``."""

    start: Start
    options: LaunchOptions
    hosts: list[Host]
    folder: RunFolder
    stop: StopSignals
    say: Callable[[str], None]
    told_at: float | None = field(default=None, init=False)

    def run(self) -> Ended:
        """Start the launcher, wait for its end, and leave no process behind."""
        try:
            return self._run()
        finally:
            for path in (self.folder.stop, *self.start.private_files):
                path.unlink(missing_ok=True)

    def _run(self) -> Ended:
        for path, text in self.start.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for path, text in self.start.private_files.items():
            _write_private(path, text)
        self.folder.stop.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in self.start.hidden}
        environment |= self.start.environment
        through_pdsh = self.options.mode == "hostfile"
        # A session of its own: Ctrl-C in a terminal reaches the supervisor alone.
        runner = subprocess.Popen(
            self.start.command, env=environment, start_new_session=True, stderr=subprocess.PIPE if through_pdsh else None
        )
        relay = Relay(runner.stderr) if runner.stderr else None
        survivors = 0
        try:
            code = self._wait(runner, relay)
            survivors = len(processes.wait_until_gone(self.options.launch, REMAINDER_SECONDS))
            if survivors and not self.stop.asked:
                self.say(f"the launcher ended and left {survivors} processes behind, which may still save")
                processes.wait_until_gone(self.options.launch, ORPHANS_SECONDS)
        finally:
            end_launch(self.options, self.hosts)
        if relay:
            relay.join(timeout=5)
        return Ended(code, survivors)

    def _wait(self, runner: subprocess.Popen[bytes], relay: Relay | None) -> int:
        """Return the exit code of the launcher once it and the ranks that may still save are gone, or have had their time."""
        while True:
            code = runner.poll()
            if code in STOP_CODES and not self.stop.asked:
                self.stop.ask(f"{STOP_CODES[code]} to the deepspeed runner")
            if self.stop.asked:
                self._tell_ranks()
            if code is not None and not (self.stop.asked and processes.marked(self.options.launch)):
                return code
            if self._time_is_up(relay):
                end_launch(self.options, self.hosts, 1 if self.stop.asked else GRACE_SECONDS)
                return runner.wait()
            time.sleep(POLL_SECONDS)

    def _tell_ranks(self) -> None:
        # Repeated in every poll: a run that is about to begin removes the file of an earlier one.
        self.folder.stop.parent.mkdir(parents=True, exist_ok=True)
        self.folder.stop.touch()
        if self.told_at is not None:
            return
        self.told_at = time.monotonic()
        seconds = f"{self.options.grace_seconds:g} s"
        self.say(f"{self.stop.first}: asked all ranks to save and end within {seconds}; once more ends them at once")

    def _time_is_up(self, relay: Relay | None) -> bool:
        now = time.monotonic()
        if self.stop.count > 1:
            self.say("asked again: ending all processes at once")
            return True
        if self.told_at is not None and now - self.told_at > self.options.grace_seconds:
            self.say(f"not ended {self.options.grace_seconds:g} s after {self.stop.first}: ending all processes")
            return True
        if relay is not None and relay.ended and now - relay.ended_at > OTHERS_SECONDS:
            self.say(f"host {relay.ended}; the others were not told by the launcher: ending all processes")
            return True
        return False


def _write_private(path: Path, text: str) -> None:
    """Write ``text`` to a new file ``path`` that this user alone may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def end_launch(options: LaunchOptions, hosts: list[Host], grace_seconds: int = GRACE_SECONDS) -> None:
    """End all processes of this launch on all its hosts, after ``grace_seconds`` by force."""
    processes.end(options.launch, grace_seconds)
    if options.mode == "hostfile":
        remote.end_remote(options.launch, hosts, grace_seconds)
    if options.mode == "slurm":
        remote.end_steps(os.environ.get("SLURM_JOB_ID", ""))
