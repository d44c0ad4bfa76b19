"""The common step of several students computes what each computes alone, with fewer operations."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import ConfigError
from mvd_ds.tools.bench.clock import Clock
from mvd_ds.tools.bench.step import StepBenchOptions
from mvd_ds.tools.bench.step_variants import step_recipe
from mvd_ds.tools.bench.students_step import TOGETHER, build_students, measure_students
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.step import TeacherTargets

CPU = torch.device("cpu")

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


def test_teachers_are_asked_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first timed step has the clips of the step before it, whose losses were compared."""
    asked: list[str] = []
    sources = TeacherTargets.sources
    monkeypatch.setattr(TeacherTargets, "sources", lambda self, name, *more: asked.append(name) or sources(self, name, *more))
    recipe = step_recipe("mvd_base_from_base", TINY, "recipe", CPU)
    alone = {key: recipe.student(key) for key in recipe.students}
    together = build_students(alone, Cluster(0, 1, CPU))[TOGETHER]
    for _ in range(2):
        together.step.loss(together.batches[0], Clock(CPU))
    assert asked == ["image", "video"] * 2
