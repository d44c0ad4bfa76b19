"""Batches in shared memory: written by arrays, read by tensors, reused when nobody looks any more."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.data.loader import ClipLoader
from mvd_ds.data.workers import shared_memory
from mvd_ds.data.workers.shared_memory import BatchMemory, TensorLayout
from video_files import recipe

LAYOUT = {
    "clip": TensorLayout((3, 5), "uint8"),
    "ok": TensorLayout((), "bool"),
    "index": TensorLayout((2,), "int64"),
    "none": TensorLayout((0,), "int64"),
    "share": TensorLayout((1, 3), "float32"),
}


def test_tensors_show_what_arrays_were_given() -> None:
    memory = BatchMemory(LAYOUT, rows=4, slots=3)
    for slot in range(3):
        for number, array in enumerate(memory.arrays(slot).values()):
            array[:] = (np.arange(array.size).reshape(array.shape) + slot + number) % 7
    for slot in range(3):
        tensors = memory.tensors(slot, 3, lambda slot: None)
        assert list(tensors) == list(LAYOUT)
        for number, ((name, row), tensor) in enumerate(zip(LAYOUT.items(), tensors.values(), strict=True)):
            assert tensor.dtype == getattr(torch, row.dtype) and tensor.shape == (3, *row.shape), name
            wanted = (np.arange(4 * tensor[0].numel()).reshape(4, *row.shape) + slot + number) % 7
            assert np.array_equal(tensor.numpy(), wanted[:3].astype(row.dtype))


def test_a_slot_is_free_when_its_last_tensor_is_gone() -> None:
    memory, freed = BatchMemory(LAYOUT, 4, 3), []
    tensors = memory.tensors(1, 4, freed.append)
    kept = tensors["clip"][2:].transpose(0, 1)
    del tensors
    gc.collect()
    assert freed == []
    del kept
    assert freed == [1]


def test_tensors_outlive_the_memory() -> None:
    memory = BatchMemory(LAYOUT, 4, 1)
    memory.arrays(0)["index"][:] = 7
    tensors = memory.tensors(0, 4, lambda slot: None)
    del memory
    gc.collect()
    assert (tensors["index"] == 7).all()


def test_more_than_there_is_memory_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"4 batches of \d+ MiB do not fit into \d+ MiB of free memory; lower data.pref"):
        BatchMemory({"clip": TensorLayout((1 << 20, 1 << 24), "uint8")}, 1 << 8, 4)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("10000000\n")
    (tmp_path / "memory.current").write_text("9500000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    BatchMemory({"clip": TensorLayout((1000,), "uint8")}, 100, 5)
    with pytest.raises(ConfigError, match="do not fit into 1 MiB of free memory"):
        BatchMemory({"clip": TensorLayout((1000,), "uint8")}, 100, 7)
    (tmp_path / "memory.max").write_text("max\n")
    BatchMemory({"clip": TensorLayout((1000,), "uint8")}, 100, 7)


def test_a_consumer_may_keep_every_batch(twelve: Path) -> None:
    settings = recipe(twelve, batch={"micro": 2, "global": 2}, data__workers=2, data__prefetch_batches=1)
    kept = list(ClipLoader(settings, 3, 0, 1).batches(0, 18))
    fresh = ClipLoader(recipe(twelve, batch={"micro": 2, "global": 2}), 3, 0, 1).batches(0, 18)
    for one, other in zip(kept, fresh, strict=True):
        assert torch.equal(one.views[32], other.views[32]) and torch.equal(one.place, other.place)
