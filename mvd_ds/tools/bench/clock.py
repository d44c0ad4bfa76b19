"""Measurement of the time that the parts of a step take, and of its memory."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.training.reporting.memory import forget_peak, resident_bytes


class Clock:
    """A clock of milliseconds between marks: CUDA events on a GPU, which block nobody; CPU time of this process on a CPU.

    CPU time and not wall time, so that what else runs on the machine counts little.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        """Begin a step."""
        self._marks = [("", self._now())]

    def mark(self, name: str) -> None:
        """Record that the time since the last mark was spent on ``name``."""
        self._marks.append((name, self._now()))

    def parts(self) -> dict[str, float]:
        """Wait for the device, and return milliseconds by name, summed over all marks of one name."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        found: dict[str, float] = {}
        for (_, before), (name, now) in zip(self._marks, self._marks[1:], strict=False):
            passed = before.elapsed_time(now) if self.device.type == "cuda" else 1e3 * (now - before)
            found[name] = found.get(name, 0.0) + passed
        return found

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds: CPU time of this process on a CPU, which other programs disturb little; wall time on a GPU."""
    return time.monotonic if device.type == "cuda" else time.process_time


def held_by(student: nn.Module, optimizer: torch.optim.Optimizer, teachers: Mapping[str, nn.Module]) -> int:
    """Return the bytes of weights, optimizer states and teachers."""
    states = [value for states in optimizer.state.values() for value in states.values() if torch.is_tensor(value)]
    networks = [student, *teachers.values()]
    return tensor_bytes([*states, *(parameter for network in networks for parameter in network.parameters())])


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PeakMemory:
    """A context that measures its peak memory above the start, in bytes; ``above`` is None if the system does not tell."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.above: int | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before: int | None = torch.cuda.memory_allocated(self.device)
        else:
            give_back_freed()
            self._before = resident_bytes() if forget_peak() else None
        return self

    def __exit__(self, *_: object) -> None:
        is_cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if is_cuda else resident_bytes("VmHWM")
        if self._before is not None:
            self.above = peak - self._before


def give_back_freed() -> None:
    """Have the C library return free memory to the system; else a peak would hide in memory of earlier steps."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
