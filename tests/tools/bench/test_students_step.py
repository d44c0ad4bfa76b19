"""The common step of several students computes what each computes alone, with fewer operations."""

from __future__ import annotations

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.tools.bench.step import StepBenchOptions
from mvd_ds.tools.bench.students_step import TOGETHER, measure_students

_NETWORK = ("size=null", "embed_dim=32", "depth=2", "num_heads=2")
TINY = [
    *(f"{part}.{item}" for part in ("model", "teachers.image", "teachers.video") for item in _NETWORK),
    *("decoder.embed_dim=16", "decoder.num_heads=2", "decoder.depth=1", "masking.masks_per_clip=2"),
    *("data.clip.frames=4", "data.clip.size_px=64", "batch.micro=2", "students.deep.model.depth=3", "students.own={}"),
]


def test_students_together_compute_what_each_does_alone() -> None:
    result = measure_students("mvd_base_from_base", TINY, StepBenchOptions(device="cpu"))
    assert result["gate"] == {"equal": True, "worst_relative_difference": 0.0}
    assert list(result["students"]) == ["deep", "own", TOGETHER]
    counts = result["gflops_per_clip"]
    assert result["operations_over_alone"] == counts[TOGETHER] / (counts["deep"] + counts["own"])
    with pytest.raises(ConfigError, match=r"students.own.ranks 1: the step that is measured .* add students.own.ranks=null"):
        measure_students("mvd_base_from_base", [*TINY, "students.own.ranks=1"], StepBenchOptions(device="cpu"))
    assert max(counts["deep"], counts["own"]) < counts[TOGETHER] < counts["deep"] + counts["own"]
