"""Batches on the device before they are needed: the next one is copied while the device computes on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mvd_ds.training.device_batch import to_device

_END = object()


class DeviceBatches:
    """The batches of a loader on a device, in order.

    On a GPU ``fetch_ahead`` starts to copy the next batch on a stream of its own. Call it where the device has work for a
    while, after the backward pass: it may wait for the loader. On the CPU it does nothing. What the loader raises comes out
    of ``next``, at the batch that it stands for.
    """

    def __init__(self, batches: Iterator[Any], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: Any = None
        self._current_bytes = 0
        self._copied: deque[tuple[Any, Any]] = deque()
        """Batches on the host with the event that follows their copy: their memory is not free before it."""

    def __iter__(self) -> DeviceBatches:
        return self

    def __next__(self) -> Any:
        if self._stream is None:
            batch = to_device(next(self._batches), self._device)
            self._current_bytes = _bytes(batch)
            return batch
        self.fetch_ahead()
        batch, self._ahead = self._ahead, None
        if isinstance(batch, BaseException):
            raise batch
        if batch is _END:
            raise StopIteration
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in _tensors(batch):
            if tensor.is_cuda:
                tensor.record_stream(current)
        self._current_bytes = _bytes(batch)
        return batch

    @property
    def held_bytes(self) -> int:
        """Bytes of the batch that was taken last and of the next one."""
        return self._current_bytes + (_bytes(self._ahead) if isinstance(self._ahead, tuple) else 0)

    def fetch_ahead(self) -> None:
        """Take the next batch from the loader and start its copy, if that has not been done."""
        if self._stream is None or self._ahead is not None:
            return
        while self._copied and self._copied[0][1].query():
            self._copied.popleft()
        try:
            batch: Any = next(self._batches, _END)
        except Exception as error:
            self._ahead = error
            return
        if batch is _END:
            self._ahead = _END
            return
        with torch.cuda.stream(self._stream):
            self._ahead = to_device(batch, self._device)
            self._copied.append((batch, self._stream.record_event()))


def _tensors(batch: Any) -> Iterator[Tensor]:
    for value in batch:
        for tensor in value.values() if isinstance(value, dict) else [value]:
            if isinstance(tensor, Tensor):
                yield tensor


def _bytes(batch: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(batch))
