"""Batches on their way to the device: all of them, in order, mirrored once, and errors where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mvd_ds.training.device_batch import to_device
from mvd_ds.training.prefetch import DeviceBatches

DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


class Batch(NamedTuple):
    views: dict[int, Tensor]
    flip: Tensor
    place: Tensor
    faults: list[str]


def _batch(number: int) -> Batch:
    view = torch.arange(2 * 3 * 2 * 4 * 4, dtype=torch.uint8).view(2, 3, 2, 4, 4) + number
    return Batch({4: view, 8: view.repeat(1, 1, 1, 2, 2)}, torch.tensor([True, False]), torch.tensor([number, number]), ["a"])


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("ahead", [False, True])
def test_all_batches_come_in_order(device: torch.device, ahead: bool) -> None:
    batches = DeviceBatches(iter([_batch(number) for number in range(5)]), device)
    seen = []
    for batch in batches:
        assert batch.views[4].device.type == device.type
        seen.append(batch.place[0].item())
        if ahead:
            batches.fetch_ahead()
            batches.fetch_ahead()
    assert seen == [0, 1, 2, 3, 4]
    assert next(batches, None) is None


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_held_bytes_are_those_of_the_batches_at_hand(device: torch.device) -> None:
    batches = DeviceBatches(iter([_batch(number) for number in range(2)]), device)
    each = 192 + 4 * 192 + 2 + 16  # two views, flip and place
    assert batches.held_bytes == 0
    next(batches)
    assert batches.held_bytes == each
    batches.fetch_ahead()
    assert batches.held_bytes == each * (2 if device.type == "cuda" else 1)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_device_mirrors_what_is_to_be_mirrored_once(device: torch.device) -> None:
    batch = _batch(0)
    moved = to_device(batch, device)
    for size, view in moved.views.items():
        assert torch.equal(view[0].cpu(), batch.views[size][0].flip(-1))
        assert torch.equal(view[1].cpu(), batch.views[size][1])
    again = to_device(moved, device)
    assert all(torch.equal(again.views[size], moved.views[size]) for size in (4, 8))
    assert again.faults == ["a"]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_an_error_of_the_loader_comes_out_at_its_batch(device: torch.device) -> None:
    def failing() -> Iterator[Any]:
        yield _batch(0)
        raise OSError("gone")

    batches = DeviceBatches(failing(), device)
    assert next(batches).place[0].item() == 0
    batches.fetch_ahead()
    with pytest.raises(OSError, match="gone"):
        next(batches)
