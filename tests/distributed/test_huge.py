"""The largest published student beside its two teachers, published geometry, on two CPU processes in 24 GiB."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from launching import launch, metrics
from mvd_ds.config import TrainingRecipe, load_recipe
from mvd_ds.data.synthetic.writer import write_sample_set
from mvd_ds.models.teachers import plan_teacher
from mvd_ds.runs.student import plan_predictor
from nightly_record import record

pytestmark = [pytest.mark.launch, pytest.mark.nightly]

RECIPE = "mvd_huge_from_huge"
PROCESSES = 2
GIB = 2**30
#: Of one process beside its share of the states: Python with torch and DeepSpeed, buffers, one block of each network, and
#: what a chunk of a teacher's pass takes (20 widths a token in bf16, attention included, both teachers apart).
OTHER_GIB = 2.0


def expected_gib(recipe: TrainingRecipe) -> dict[str, float]:
    """Resident memory of one process at the peak of each phase, by formula.

    A parameter has 2 bytes of bf16 weight, 2 of gradient, 4 of fp32 master and, from the first step on, 8 of moments. While
    a checkpoint is loaded its files are mapped, 12 bytes a parameter; teachers are placed when they no longer are.
    """
    student = plan_predictor(recipe).parameters / PROCESSES / GIB
    teachers = sum(plan_teacher(name, settings, recipe).parameters for name, settings in recipe.teachers.items())
    shards = 2 * teachers / PROCESSES / GIB
    trained = 16 * student + OTHER_GIB
    return {
        "build": 8 * student + shards + OTHER_GIB,
        "step": trained + shards,
        "save": trained + shards,
        "resume": trained + max(shards, 12 * student),
    }


def test_a_huge_student_steps_saves_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.disk_usage(tmp_path).free < 20 * GIB:
        pytest.skip(f"needs 20 GiB of disk in {tmp_path}")
    # Gathered blocks come and go: glibc's heaps would keep 3 GiB of holes in each process, mapped pieces go back at once.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
    write_sample_set(tmp_path / "videos", train_clips=8, validation_clips=2, seed=0, size_px=224, frames=16, workers=2)
    overrides = [
        f"data.manifest={tmp_path / 'videos' / 'train.txt'}",
        "data.clip.stride_frames=1",
        "data.workers=1",
        "batch.micro=1",
        "batch.global=2",
        "teachers.image.weights=random",
        "teachers.video.weights=random",
        "teachers.image.chunk_clips=1",
        "teachers.video.chunk_clips=1",
        "engine.config=zero3_lowmem.json",
        "engine.build=streamed",
        "engine.timeout_minutes=60",
        "schedule.epochs=null",
        "schedule.stop_after_epochs=null",
        "schedule.warmup_epochs=null",
        "schedule.steps=2",
        "run.log_every_steps=1",
        "run.pictures_every_steps=0",
        f"run.output={tmp_path / 'run'}",
    ]
    recipe = load_recipe(RECIPE, overrides, "distill")
    assert isinstance(recipe, TrainingRecipe)
    assert 700e6 < plan_predictor(recipe).parameters < 720e6
    found = {}
    for stop, phase in ((1, "first"), (2, "resumed")):
        launch(PROCESSES, "distill", RECIPE, *overrides, f"run.stop_after_steps={stop}", timeout=3600)
        line = metrics(tmp_path / "run")[-1]
        assert line["step"] == stop
        found[phase] = {name.removeprefix("memory/"): value for name, value in line.items() if name.startswith("memory/")}
    expected = expected_gib(recipe)
    measured = {phase: found["resumed" if phase == "resume" else "first"][f"{phase}_peak_gib"] for phase in expected}
    case = {"recipe": RECIPE, "processes": PROCESSES, "expected_gib_per_process": expected, "measured_gib_per_process": measured}
    record("scale", "huge_on_cpu", {**case, **found})
    assert max(measured.values()) < 12
    assert measured == pytest.approx(expected, rel=0.25)
