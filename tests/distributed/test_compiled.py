"""Compilation, activation checkpointing and frozen parts together, under every ZeRO stage; blocks are leaf modules of ZeRO-3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launching import alone_script, launch_script

CONFIGS = ["zero3_lowmem.json", "zero3.json", "zero2.json", "zero1.json"]


@pytest.mark.parametrize(
    ("processes", "backend", "checkpointings", "configs"),
    [
        (1, "aot_eager", "1", CONFIGS[:1]),
        pytest.param(2, "aot_eager", "012", CONFIGS, marks=pytest.mark.nightly),
        pytest.param(2, "inductor", "01", CONFIGS[:1], marks=pytest.mark.nightly),
    ],
)
def test_compiled_and_recomputed_blocks_learn_as_eager_ones(
    processes: int, backend: str, checkpointings: str, configs: list[str]
) -> None:
    """``aot_eager`` traces and splits forward from backward as ``inductor`` does, without its minutes of C++."""
    script = Path(__file__).with_name("compiled_engine.py")
    if processes == 1:
        said = alone_script(script, backend, checkpointings, *configs).stdout
    else:
        said = launch_script(processes, script, backend, checkpointings, *configs, timeout=1200).stdout
    rows = json.loads(next(line for line in said.splitlines() if line.startswith("[")))
    assert len(rows) == 2 * len(checkpointings) * len(configs)
    whole, frozen = (next(row["eager"]["losses"] for row in rows if row["frozen"] is which) for which in (False, True))
    assert frozen[0] == whole[0] and abs(frozen[-1] - whole[-1]) > 1e-3 * whole[-1], "frozen parts would have learned"
    for row in rows:
        eager, compiled = row["eager"]["losses"], row["compiled"]["losses"]
        assert compiled == pytest.approx(eager, rel=1e-5), row["case"]
        assert eager == pytest.approx(frozen if row["frozen"] else whole, rel=1e-5), row["case"]
        assert len(set(eager)) == len(eager), "training moves the loss"
        assert row["compiled"]["faults"] == [None] * 3 and row["compiled"]["shapes"] == [1] * 3, row
