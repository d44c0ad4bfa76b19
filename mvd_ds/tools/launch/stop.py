"""The signals that reach the supervisor: the first asks the run to save and end, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class StopSignals:
    """A context that counts requests to stop; ``first`` names the signal or process that asked first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: str | None = None
        self.arrived = threading.Event()
        self.earlier: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for name in NAMES:
            number = getattr(signal, name)
            # What nohup or a script has ignored stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.earlier[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)

    def ask(self, who: str) -> None:
        """Ask for a stop as a signal would."""
        self.count += 1
        self.first = self.first or who
        self.arrived.set()

    @property
    def asked(self) -> bool:
        return self.count > 0

    def sleep(self, seconds: float) -> None:
        """Sleep, or wake at the first request."""
        self.arrived.wait(seconds)
