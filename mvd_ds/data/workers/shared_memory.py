"""Batches in shared memory: workers write rows, the training process reads tensors, and nothing is copied between them."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError

_ALIGNMENT = 64
_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
"""Folder of this container's limits, where it has its own (control groups, version 2)."""


class TensorLayout(NamedTuple):
    """Shape and dtype of one sample's row in an array of a batch."""

    shape: tuple[int, ...]
    dtype: str


class BatchMemory:
    """A fixed number of batch slots, in one block of memory that this process and its workers share.

    The block is a memory file without a name: it does not count as /dev/shm, whose 64 MiB in a container end many a loader,
    it is taken whole at the start and not at night, and it is gone with the last process that holds it.
    """

    def __init__(self, layout: dict[str, TensorLayout], rows: int, slots: int) -> None:
        """Allocate the memory.

        Args:
            layout: name -> one row of that array.
            rows: samples of a batch.
            slots: batches.

        Raises:
            ConfigError: if there is not enough of it.
        """
        self._layout, self._rows = layout, rows
        self._offsets, offset = {}, 0
        for name, row in layout.items():
            self._offsets[name] = offset
            offset += -(-rows * _bytes(row) // _ALIGNMENT) * _ALIGNMENT
        self._slot_bytes = offset
        self.bytes = max(slots * offset, 1)
        available = _available_bytes()
        if self.bytes > available:
            raise ConfigError(
                f"{slots} batches of {offset / 2**20:.0f} MiB do not fit into {available / 2**20:.0f} MiB of free memory; lower "
                "data.prefetch_batches or batch.micro"
            )
        self._descriptor = os.memfd_create("mvd_ds_batches")
        self._close = weakref.finalize(self, os.close, self._descriptor)
        os.posix_fallocate(self._descriptor, 0, self.bytes)
        self._map = mmap.mmap(self._descriptor, self.bytes)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a worker that is being started: it gets the memory, not a copy of it."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_map", "_descriptor", "_close")}
        return {**kept, "handle": DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        descriptor = state.pop("handle").detach()
        self.__dict__.update(state)
        self._map = mmap.mmap(descriptor, self.bytes)
        os.close(descriptor)

    def arrays(self, slot: int) -> dict[str, np.ndarray]:
        """Return the arrays (rows, ...) of a batch, to be written."""
        flat = np.frombuffer(self._map, np.uint8)
        return {
            name: flat[start : start + self._rows * _bytes(row)].view(row.dtype).reshape(self._rows, *row.shape)
            for (name, row), start in zip(self._layout.items(), self._starts(slot), strict=True)
        }

    def tensors(self, slot: int, rows: int, release: Callable[[int], None]) -> dict[str, Tensor]:
        """Return the first ``rows`` rows of a batch as tensors; ``release(slot)`` is called when the last is gone."""
        first = slot * self._slot_bytes
        view = memoryview(self._map)[first : first + self._slot_bytes]
        weakref.finalize(view, release, slot).atexit = False
        flat = torch.frombuffer(view, dtype=torch.uint8)
        return {
            name: _typed(flat[offset : offset + rows * _bytes(row)], row).view(rows, *row.shape)
            for (name, row), offset in zip(self._layout.items(), self._offsets.values(), strict=True)
        }

    def pin(self) -> None:
        """Lock the block's pages, so that the GPU fetches batches by itself; until this object is gone.

        Raises:
            RuntimeError: if the driver refuses.
        """
        runtime = torch.cuda.cudart()
        address = np.frombuffer(self._map, np.uint8).ctypes.data
        torch.cuda.check_error(runtime.cudaHostRegister(address, self.bytes, 0))
        weakref.finalize(self, runtime.cudaHostUnregister, address)

    def _starts(self, slot: int) -> list[int]:
        return [slot * self._slot_bytes + offset for offset in self._offsets.values()]


def _available_bytes() -> int:
    """Return the bytes that can be taken without swapping; taking more is not refused: the kernel kills."""
    fields = dict(line.split(":", 1) for line in _MEMORY.read_text(encoding="ascii").splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:  # a container may have less than the machine; what it holds of files is given back when needed
        limit, used = ((_GROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        held = dict(line.split() for line in (_GROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        return available if limit == "max" else min(available, int(limit) - int(used) + int(held["inactive_file"]))
    except (OSError, KeyError, ValueError):
        return available


def _bytes(row: TensorLayout) -> int:
    return math.prod(row.shape) * np.dtype(row.dtype).itemsize


def _typed(flat: Tensor, row: TensorLayout) -> Tensor:
    dtype = getattr(torch, row.dtype)
    return flat.view(dtype) if len(flat) else torch.empty(0, dtype=dtype)
