"""Bytes are counted once, and a peak belongs to the phase in which it was."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.memory import Memory, state_bytes

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
    memory = Memory(CLUSTER)
    memory.mark("start")
    large = torch.ones(2**26)  # 256 MiB
    memory.watch(engine(), {})
    with_large = memory.untold["memory/build_peak_gib"]
    del large
    told = memory.tell()
    assert {"memory/peak_gib", "memory/weights_gib", "memory/activations_gib", "memory/step_peak_gib"} <= told.keys()
    assert told["memory/peak_gib"] >= with_large > memory.mark("later") + 0.2
    assert memory.tell().keys() == {"memory/peak_gib", "memory/later_peak_gib"}
    memory.mark("later")
    assert memory.tell().keys() == {"memory/peak_gib"}
