"""The stream of batches in order: prefetched by workers into shared memory, or filled in this process without workers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, DataSettings
from mvd_ds.data.workers.quarantine import Quarantine
from mvd_ds.data.workers.shared_memory import BatchMemory, TensorLayout
from mvd_ds.data.workers.workers import DEATHS_IN_A_ROW, Job, Reading, Task, Worker, wait_for

_HELD = 3
"""Batches that the consumer may hold while others are being filled; beyond them it gets copies."""


class Filled(NamedTuple):
    """One batch: its arrays and its faults."""

    arrays: dict[str, Tensor]
    faults: list[str]


def filled_batches(
    job: Job,
    groups: Iterable[Sequence[int]],
    rows: int,
    data: DataSettings,
    quarantine: Quarantine,
    together: int = 1,
    pin: bool = False,
) -> Iterator[Filled]:
    """Yield one batch for each of ``groups``, in order. Closing the iterator stops the workers.

    With workers, the tensors lie in shared memory and are the consumer's for as long as it keeps any of them.

    Args:
        job: fills rows.
        groups: the items of each batch.
        rows: most items of a batch.
        data: worker settings.
        quarantine: gets the files that end workers.
        together: items that are one file; a worker gets whole files.
        pin: for a GPU.

    Raises:
        ConfigError: if the job says so, workers die again and again, or memory is short.
    """
    if not data.workers:
        yield from _filled_here(job, groups, quarantine)
        return
    stream = _Stream(job, rows, data, quarantine, together, pin)
    try:
        yield from stream.run(groups)
    finally:
        stream.close()


def _filled_here(job: Job, groups: Iterable[Sequence[int]], quarantine: Quarantine) -> Iterator[Filled]:
    reading = Reading(np.zeros(3, np.int64))
    for items in groups:
        arrays = {name: np.empty((len(items), *row.shape), row.dtype) for name, row in job.layout.items()}
        faults = job.fill(items, arrays, quarantine.barred(items), reading)
        yield Filled({name: torch.from_numpy(array) for name, array in arrays.items()}, faults)


class _Batch:
    """A batch that is being filled."""

    def __init__(self, slot: int, rows: int, tasks: int) -> None:
        self.slot, self.rows, self.missing = slot, rows, tasks
        self.faults: dict[int, list[str]] = {}
        """Faults by task number, so that they come in order whichever worker is done first."""


class _Stream:
    """The training process's side of the workers: it sends tasks and receives batches."""

    def __init__(self, job: Job, rows: int, data: DataSettings, quarantine: Quarantine, together: int, pin: bool) -> None:
        self._job, self._data, self._quarantine, self._together = job, data, quarantine, together
        slots = data.prefetch_batches + _HELD
        self._memory = BatchMemory(job.layout, rows, slots)
        if pin:
            _pin(self._memory)
        self._free = deque(range(slots))
        self._batches: dict[int, _Batch] = {}
        self._next_task = 0
        notes = BatchMemory({"note": TensorLayout((3,), "int64")}, data.workers, 1)
        self._workers = [Worker(job, self._memory, notes, number) for number in range(data.workers)]

    def run(self, groups: Iterable[Sequence[int]]) -> Iterator[Filled]:
        source, pending = iter(groups), deque[_Batch]()
        while True:
            while len(pending) < self._data.prefetch_batches and (items := next(source, None)) is not None:
                pending.append(self._order(items))
            if not pending:
                return
            while pending[0].missing:
                self._poll()
            yield self._deliver(pending.popleft())

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.join()

    def _order(self, items: Sequence[int]) -> _Batch:
        """Divide a batch among the workers: each gets the next part, so all of them work on the batch that is due."""
        files = -(-len(items) // self._together)
        step = -(-files // len(self._workers)) * self._together
        firsts = range(0, len(items), step)
        batch = _Batch(self._free.popleft(), len(items), len(firsts))
        for first in firsts:
            task = Task(self._next_task, batch.slot, first, items[first : first + step])
            self._next_task += 1
            self._batches[task.number] = batch
            self._give(task)
        return batch

    def _give(self, task: Task) -> None:
        worker = self._workers[task.number % len(self._workers)]
        worker.give(task, self._quarantine.barred(task.items))

    def _poll(self) -> None:
        """Receive the workers' answers; put the files of dead workers in quarantine and start others."""
        for worker in wait_for(self._workers, self._data.stall_seconds):
            said = worker.take()
            if said is None:
                self._replace(worker)
                continue
            task, faults = said
            batch = self._batches.pop(task.number)
            batch.missing -= 1
            batch.faults[task.number] = faults

    def _replace(self, worker: Worker) -> None:
        death, left = worker.reap()
        if death.deaths >= DEATHS_IN_A_ROW:
            raise ConfigError(
                f"{death.deaths} loader processes in a row died at the same clips, the last one {death.reason}, reading "
                f"{self._job.path(death.video) if death.video >= 0 else 'nothing'}. Memory may be short: lower data.workers, "
                "data.prefetch_batches or batch.micro"
            )
        if death.video >= 0:
            self._quarantine.add(death.position, death.video, self._job.path(death.video), death.reason)
        for task in left:
            self._give(task)

    def _deliver(self, batch: _Batch) -> Filled:
        faults = [fault for _, faults in sorted(batch.faults.items()) for fault in faults]
        arrays = self._memory.tensors(batch.slot, batch.rows, self._free.append)
        if not self._free:  # the consumer keeps more batches than there is room for
            arrays = {name: array.clone() for name, array in arrays.items()}
        return Filled(arrays, faults)


def _pin(memory: BatchMemory) -> None:
    """Pin the memory if the driver allows it; training works without, more slowly, and says so."""
    try:
        memory.pin()
    except RuntimeError as error:
        logging.getLogger("mvd_ds").warning("the loader's memory could not be pinned (%s): copies to the GPU will wait", error)
