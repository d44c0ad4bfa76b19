"""What is handed from process to process: which micro batch goes where, and that it arrives as it was."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.data.batch import ClipBatch
from mvd_ds.training.students.handing import CHUNK_BYTES, Owner, _pieces, put_together, taken_apart
from mvd_ds.training.students.shared import Pass

CPU = torch.device("cpu")


@pytest.mark.parametrize(("world", "ranks"), [(2, range(1, 2)), (3, range(1, 3)), (4, range(4)), (8, range(2, 5))])
def test_every_process_learns_from_the_micro_batches_of_a_run_of_its_own_ranks(world: int, ranks: range) -> None:
    """And takes a turn once all of them have one: turns that only some can take would wait for the others for ever."""
    per_step = 24
    owner = Owner(ranks, first=per_step, end=3 * per_step)
    got: dict[int, list[int]] = {rank: [] for rank in ranks}
    taken = 0
    for number in range(0, 4 * per_step, world):
        for each in range(number, number + world):
            rank = owner.rank_of(each)
            if rank is not None:
                got[rank].append(each)
        if owner.first <= number < owner.end:
            taken += owner.turns(number, world)
            assert taken == min(map(len, got.values()))
    assert taken == 2 * per_step // len(ranks)
    for index, rank in enumerate(ranks):
        assert got[rank] == list(range(per_step + index, 3 * per_step, len(ranks)))


def test_a_pass_arrives_as_it_was() -> None:
    numbers = torch.randn(2, 3, 4).transpose(0, 1)
    place = torch.tensor([5, 6])
    empty, flags = torch.zeros(2, 0), torch.tensor([True, False])
    batch = ClipBatch({8: numbers.to(torch.bfloat16)}, flags, place, place, empty, empty, place, place, ["a.mp4: broken"])
    sent = Pass((batch, {"image": {"image": numbers}}), {("image", True): {"image": numbers}})
    skeleton, tensors = taken_apart(sent, CPU)
    assert len(tensors) == 5 and all(tensor.is_contiguous() for tensor in tensors), "each once"
    found = put_together(skeleton, [tensor.clone() for tensor in tensors])
    got = found.drawn[0]
    assert torch.equal(found.given["image", True]["image"], numbers)
    assert found.given["image", True]["image"] is found.drawn[1]["image"]["image"]
    assert got.place is got.sample and torch.equal(got.place, place) and got.faults == batch.faults
    assert torch.equal(got.views[8], batch.views[8]) and got.views[8].dtype is torch.bfloat16
    assert got.drop_path.shape == (2, 0) and torch.equal(got.flip, flags)


def test_large_tensors_travel_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.P2POp", lambda operation, piece, peer: piece)
    pieces = _pieces(None, [torch.zeros(CHUNK_BYTES // 4 + 1), torch.zeros(0), torch.zeros((), dtype=torch.int64)], 1)
    assert [piece.numel() for piece in pieces] == [CHUNK_BYTES, 4, 8]  # type: ignore[attr-defined]
