"""Requests to stop: a file, a signal, the end of the job's time, a launcher that died. All ranks obey in the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from mvd_ds.config import RunSettings
from mvd_ds.training.liveness.process import age_seconds
from mvd_ds.training.run_folder import RunFolder

if TYPE_CHECKING:
    from mvd_ds.training.cluster import Cluster

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequests:
    """The requests to stop that reached this rank; all ranks follow what ``agreed`` returns."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.save_seconds: Callable[[], float] = lambda: 0.0
        self.earlier: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        """Take signals as requests from now on; the second interrupt from the keyboard ends at once."""
        if threading.current_thread() is threading.main_thread():
            self.earlier = {number: signal.signal(number, self._signalled) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self.earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.earlier = {}

    def request(self, reason: str) -> None:
        """Ask to stop at the end of this step; the first reason counts."""
        self.reason = self.reason or reason

    def look(self, folder: RunFolder, settings: RunSettings) -> None:
        """Ask to stop if the file is there or the time is over. Called every second, outside the training thread.

        Raises:
            OSError: if the folder cannot be looked at.
        """
        if folder.stop.exists():
            self.request(f"{folder.stop} is there")
        limit = settings.stop_before_seconds
        if limit is not None and age_seconds() > limit - 2 * self.save_seconds():
            self.request(f"run.stop_before_seconds {limit:g} are nearly over")

    def agreed(self, cluster: Cluster) -> str | None:
        """Return the reason of the first rank that wants to stop, None if none does, on all ranks. Collective.

        Costs one reduction of a number among the hosts per step, 0.4 ms between two processes on two busy cores, on a
        group of its own: the device is not waited for. The engine has just made the ranks wait for each other anyway.
        """
        if not cluster.any(self.reason is not None):
            return None
        return next(reason for reason in cluster.gather(self.reason) if reason)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.request(f"signal {signal.Signals(number).name}")
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
