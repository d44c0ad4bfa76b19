"""How long the parts of a step take, and how much memory it needs."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mvd_ds.training.reporting.memory import forget_peak, resident_bytes


class Clock:
    """Milliseconds between marks: device events on a GPU, which make no one wait; CPU time of this process on a CPU.

    CPU time and not wall time, so that what else runs on the machine counts little.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        """Begin a step."""
        self._marks = [("", self._now())]

    def mark(self, name: str) -> None:
        """What happened since the last mark was ``name``."""
        self._marks.append((name, self._now()))

    def parts(self) -> dict[str, float]:
        """Milliseconds by name, of all marks of one name together. Waits for the device."""
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
    """Seconds: CPU time of this process on a CPU, which others on the machine disturb little; the wall's on a GPU."""
    return time.monotonic if device.type == "cuda" else time.process_time


def held_by(student: nn.Module, optimizer: torch.optim.Optimizer, teachers: dict[str, nn.Module]) -> int:
    """Bytes of weights, optimizer states and teachers."""
    states = [value for states in optimizer.state.values() for value in states.values() if torch.is_tensor(value)]
    networks = [student, *teachers.values()]
    return tensor_bytes([*states, *(parameter for network in networks for parameter in network.parameters())])


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PeakMemory:
    """Context that finds how many bytes more than at its start were taken at most; None where the system does not tell."""

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
    """Have the C library return to the system what is free: else a peak grows into memory of earlier steps, and is not seen."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
