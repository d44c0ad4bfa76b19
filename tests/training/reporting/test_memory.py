"""Bytes are counted once, and a peak belongs to the phase in which it was."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace

import torch
from torch import nn

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.reporting.memory import MemoryMonitor, state_bytes

CLUSTER = Cluster(0, 1, torch.device("cpu"))


def engine() -> SimpleNamespace:
    """An engine without ZeRO: a Linear of 8 x 4 and Adam's moments after one step."""
    module = nn.Linear(8, 4, bias=False)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    return SimpleNamespace(module=module, optimizer=optimizer)


def test_every_storage_is_counted_once() -> None:
    teacher = nn.Linear(2, 2, bias=False)
    found = state_bytes(engine(), {"video": teacher, "again": teacher})
    assert found["weights"] == 8 * 4 * 4 and found["masters"] == 0, "the weights are their own masters"
    assert found["gradients"] == 8 * 4 * 4
    assert 0 <= found["optimizer"] - 2 * 8 * 4 * 4 <= 8, "two moments, and a count of steps"
    assert (found["teacher_video"], found["teacher_again"]) == (16, 0)


def test_a_peak_belongs_to_its_phase_and_is_told_once() -> None:
    gc.collect()
    give_back()  # or what earlier tests have freed is taken for the large one, and the process does not grow
    memory = MemoryMonitor(CLUSTER)
    large = torch.ones(2**26)  # 256 MiB
    memory.watch(engine())
    memory.mark("build")
    with_large = memory.untold["build"]["peak"]
    del large
    give_back()  # if it stood in a gap of the heap, malloc keeps it
    memory.mark("build")
    assert memory.untold["build"]["peak"] == with_large, "the largest of its pieces"
    memory.holds(2**20)
    told = memory.tell()
    for phase, rest in (("build", "temporaries"), ("step", "activations")):
        parts = {"weights", "masters", "optimizer", "gradients", "buckets", "live", "data", "peak", rest}
        assert {f"memory/{phase}_{part}_gib" for part in parts} <= told.keys()
    assert told["memory/peak_gib"] >= with_large > told["memory/step_peak_gib"] + 0.2
    assert (told["memory/build_data_gib"], told["memory/step_data_gib"]) == (0, 2**-10)
    assert memory.tell().keys() == {"memory/peak_gib"} and memory.tell_phases() == {}


def heap_that_is_free_but_for_its_end() -> torch.Tensor:
    """Return the tensor that keeps 400 MiB of freed heap: without it malloc gives them back, and the process shrinks by them."""
    del (threshold := [torch.ones(7 * 2**20)])[:]  # from now on 28 MiB come from the heap, not from the system
    held = [torch.ones(2**18) for _ in range(400)]
    last = torch.ones(2**18)
    del held, threshold
    return last


def give_back() -> None:
    """Have malloc give back what is free now, as it would otherwise do at some time in between."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)


def test_what_a_phase_takes_above_its_parts_is_measured() -> None:
    """The parts that it leaves behind are not counted as temporaries, and what earlier tests have freed does not hide them."""
    last = heap_that_is_free_but_for_its_end()
    gc.collect()  # what earlier tests left would be freed in between
    give_back()
    memory = MemoryMonitor(CLUSTER)
    memory.mark("start")
    del last
    module = nn.Linear(2**13, 2**13, bias=False)  # 256 MiB
    other = torch.ones(2**25)  # 128 MiB
    del other
    memory.watch(SimpleNamespace(module=module, optimizer=torch.optim.AdamW(module.parameters())))
    memory.mark("build")
    told = memory.tell_phases()
    assert told["memory/build_weights_gib"] == 0.25
    assert 0.1 < told["memory/build_temporaries_gib"] < 0.2
    memory.mark("save")
    assert memory.tell_phases()["memory/save_temporaries_gib"] < 0.05
