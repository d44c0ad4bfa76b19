"""Which processes go on; tests/distributed has it under the launcher."""

from __future__ import annotations

import os

import pytest

from mvd_ds.config import BatchSettings
from mvd_ds.training.engine.elasticity import leave_out_surplus


@pytest.mark.parametrize(
    ("available", "micro", "clips", "admitted"),
    [(1, 2, 8, 1), (2, 2, 8, 2), (3, 2, 8, 2), (4, 2, 8, 4), (7, 2, 8, 4), (3, 8, 8, 1), (31, 32, 1024, 16), (24, 16, 768, 24)],
)
def test_largest_number_that_divides_the_batch(available: int, micro: int, clips: int, admitted: int) -> None:
    batch = BatchSettings(micro=micro, **{"global": clips})
    assert batch.admissible_processes(available) == admitted
    assert batch.accumulation_steps(admitted) * admitted * micro == clips


def test_surplus_ends_well_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    batch = BatchSettings(micro=2, **{"global": 8})
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        if rank == 2:
            with pytest.raises(SystemExit) as ended:
                leave_out_surplus(batch)
            assert ended.value.code == 0
        else:
            leave_out_surplus(batch)
            assert os.environ["WORLD_SIZE"] == "2"
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "2 go on, with accumulation 2, and rank 2 idles" in said[0] and "rank 2 of 3 on" in said[1]
