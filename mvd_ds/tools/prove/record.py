"""The findings of a part of ``prove``, written to its file after every finding, so that a part that dies loses nothing."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.files import one_line, write_json


class Record:
    """The findings of one part: checks with a bound, measurements, and what could not be tried.

    Args:
        path: file to write; None keeps findings in memory, as ranks other than the first do.
        seconds: time box of the part.
    """

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path = path
        self.deadline = time.monotonic() + seconds
        self.checks: list[dict[str, Any]] = []
        self.measured: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}

    def seconds_left(self) -> float:
        """Return the seconds until the part's time is over."""
        return self.deadline - time.monotonic()

    def check(self, name: str, value: float, bound: float) -> bool:
        """Record that ``value`` must be a number of at most ``bound``, and return whether it is."""
        passed = not math.isnan(value) and value <= bound
        self.checks.append({"name": name, "passed": passed, "value": _finite(value), "bound": bound})
        self._write()
        return passed

    def require(self, name: str, passed: bool, note: str = "") -> bool:
        """Record a check that has no number, and return ``passed``."""
        self.checks.append({"name": name, "passed": bool(passed), "note": one_line(note, 300)})
        self._write()
        return passed

    def measure(self, name: str, values: Any) -> None:
        """Record a measurement under its name."""
        self.measured[name] = values
        self._write()

    def skip(self, name: str, reason: object) -> None:
        """Record that ``name`` could not be tried here, and why."""
        self.skipped[name] = one_line(reason, 300)
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_json(self.path, {"checks": self.checks, "measured": self.measured, "skipped": self.skipped}, sync=False)


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the L2 norm of the difference over that of ``expected``, both taken to fp32 on the CPU."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected).clamp_min(1e-30))
