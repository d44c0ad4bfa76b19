"""Students that are trained together are those that are trained alone, whatever happens to the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launching import losses, script_ranks
from mvd_ds.config import ConfigError
from mvd_ds.files import read_json
from mvd_ds.runs.any_training import train_by_name
from mvd_ds.tools.replay import replay
from mvd_ds.tools.report.run_records import read_runs
from mvd_ds.tools.status import status_of
from mvd_ds.training.run_folder import RunFolder
from shrinking import RECIPE, SCALES

#: K masks, drop path, and every kind of state; two students unlike each other in size, decoders, rate, length and ZeRO.
SETTINGS = [
    *SCALES,
    *("masking.masks_per_clip=2", "optimizer.ema_decay=0.9", "balance=loss_relative", "schedule.steps=4", "calibration_clips=8"),
    *("schedule.warmup_steps=1", "teachers.image.placement=replicated", "teachers.video.placement=replicated"),
]
SMALL = {
    "model.depth": "2",
    "decoder.depth": "1",
    "optimizer.base_lr": "0.03",
    "schedule.steps": "3",
    "engine.config": "zero1.json",
}
TOGETHER = ["students.b={}", *(f"students.s.{key}={value}" for key, value in SMALL.items())]

pytestmark = pytest.mark.launch

SCRIPT = Path(__file__).with_name("several_runs.py")


@pytest.fixture(scope="module")
def alone(shrunk: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of each student's run of its own."""
    folder = tmp_path_factory.mktemp("alone")
    own = {"b": [], "s": [f"{key}={value}" for key, value in SMALL.items()]}
    return {name: train_by_name(RECIPE, [*shrunk, *SETTINGS, *more, f"run.output={folder / name}"]) for name, more in own.items()}


def require_equal(found: Path, expected: Path) -> None:
    for loss in ("total", "image", "video"):
        assert losses(found, f"loss/{loss}") == losses(expected, f"loss/{loss}")
    for file in ("model.safetensors", "ema.safetensors", "target_statistics.safetensors"):
        got, wanted = load_file(found / "model" / file), load_file(expected / "model" / file)
        assert got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted), file


def test_students_come_and_go_and_each_is_what_it_is_alone(
    shrunk: list[str], alone: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One begins, another comes later and catches up, then the first is left out; both end as they do alone, to the bit."""
    folder = tmp_path / "run"
    command = [*shrunk, *SETTINGS, f"run.output={folder}"]
    train_by_name(RECIPE, [*command, TOGETHER[0], "run.stop_after_steps=2"])
    assert status_of(folder)[1].startswith("stopped (step 2 of 4")
    train_by_name(RECIPE, [*command, *TOGETHER, "run.stop_after_steps=3"])
    said = capfd.readouterr().out
    assert "student s: is new, and learns alone from its first step until it has caught up with the others" in said
    assert "student b: resuming from the checkpoint of step 2" in said
    assert RunFolder(folder).students == {"b": folder / "b", "s": folder / "s"}
    train_by_name(RECIPE, [*command, TOGETHER[0]])
    assert "student s: left out from here on" in capfd.readouterr().out
    for name in ("b", "s"):
        require_equal(folder / name, alone[name])
    assert [read_json(folder / name / "status.json")["state"] for name in ("b", "s")] == ["finished", "finished"]
    assert [record.path for record in read_runs([folder])] == [folder / "b"]


def test_one_that_diverges_does_not_touch_the_other(shrunk: list[str], alone: dict[str, Path], tmp_path: Path) -> None:
    wild = ["students.s.optimizer.base_lr=1e30", "run.on_nonfinite=stop"]
    with pytest.raises(ConfigError, match=r"^student s: step \d: .* is not finite"):
        train_by_name(RECIPE, [*shrunk, *SETTINGS, *TOGETHER, *wild, f"run.output={tmp_path}"])
    require_equal(tmp_path / "b", alone["b"])
    states = {name: read_json(tmp_path / name / "status.json")["state"] for name in (".", "s", "b")}
    assert states == {".": "failed", "s": "failed", "b": "finished"}
    assert not (tmp_path / "s" / "model").exists()


def test_students_that_own_ranks_are_those_of_processes_of_their_own(
    shrunk: list[str], alone: dict[str, Path], tmp_path: Path
) -> None:
    """One diverges on the other's neighbour; then both stop, change places and go on: each ends as alone, to the bit.

    Teachers are spread over the processes of a student: here over one. The optimizer of those that go on is offloaded. The same
    two processes then learn from cached targets: one student begins, another comes later and catches up, and one is left out, as
    from teachers that are asked.
    """
    command = [*shrunk, *SETTINGS, *TOGETHER, "batch.global=8", "teachers.video.placement=zero3"]
    owned, swapped = (["students.b.ranks=0", "students.s.ranks=1"], ["students.b.ranks=1", "students.s.ranks=0"])
    wild = ["students.s.optimizer.base_lr=1e30", "run.on_nonfinite=stop", f"run.output={tmp_path / 'wild'}"]
    moved = [f"run.output={tmp_path / 'moved'}", "students.b.engine.config=zero3_offload.json"]
    views = [*shrunk, *SETTINGS, *TOGETHER, "targets.crops=2", "data.clip.flip=0.5", "engine.config=zero3.json"]
    cache = f"targets.cache={tmp_path / 'cache'}"
    live, cached = ([*views, f"run.output={tmp_path / name}"] for name in ("live", "cached"))
    kept = [cache, "targets.store=fp32"]
    commands = {
        "preflight": [*command, *swapped],
        "wild": [*command, *owned, *wild],
        "half": [*command, *owned, *moved, "run.stop_after_steps=2"],
        "whole": [*command, *swapped, *moved],
        "live": live,
        "cached one": [*(item for item in cached if not item.startswith("students.s.")), *kept, "run.stop_after_steps=2"],
        "cached both": [*cached, *kept, "run.stop_after_steps=3"],
        "cached rest": [*(item for item in cached if not item.startswith("students.s.")), *kept],
    }
    write = {"cached one": [*views, *kept]}
    said = script_ranks(2, SCRIPT, json.dumps(commands), json.dumps(write))
    assert "student b, ranks 1:" in said and "student s, ranks 0:" in said and said.count("a step takes ") == 2
    assert "of rank 1 is not finite" in said, "as the launcher counts it"
    (dump,) = (tmp_path / "wild" / "s" / "dumps").iterdir()
    assert replay(dump, "cpu") == 0
    assert "wild: student s: step" in said and "is not finite" in said and said.count("ended by: ") == 1
    for name, folder in (("b", "wild"), ("b", "moved"), ("s", "moved")):
        require_equal(tmp_path / folder / name, alone[name])
    assert read_json(tmp_path / "wild" / "s" / "status.json")["state"] == "failed"
    assert read_json(tmp_path / "moved" / "status.json")["step"] == 4
    assert "student s: ranks 1, 2 clips x 4 accumulation x 1 processes" in said
    assert "student b: resuming from the checkpoint of step 2" in said and "student s: step 3 of 3" in said
    assert "student s: is new" in said and "student s: left out from here on" in said
    for name in ("b", "s"):
        require_equal(tmp_path / "cached" / name, tmp_path / "live" / name)


@pytest.mark.nightly
def test_a_teacher_is_spread_over_the_processes_that_learn_with_the_same_students(shrunk: list[str], tmp_path: Path) -> None:
    """Three processes, two of which are one student's: each student is what it is with whole teachers, to the bit."""
    owned = ["students.b={}", "students.b.ranks=0-1", "students.s.model.depth=2", "students.s.ranks=2", "batch.global=12"]
    command = [*shrunk, *owned, "students.s.engine.config=zero1.json", "calibration_clips=8", "schedule.steps=2"]
    runs = {
        placement: [
            *(*command, "schedule.warmup_steps=1", f"run.output={tmp_path / placement}"),
            *(f"teachers.{name}.placement={placement}" for name in ("image", "video")),
        ]
        for placement in ("zero3", "replicated")
    }
    offloaded = ["students.b.engine.config=zero3_offload.json", f"run.output={tmp_path / 'offloaded'}"]
    runs["offloaded"] = [*runs["zero3"], *offloaded]
    script_ranks(3, SCRIPT, json.dumps(runs), json.dumps({}))
    for name in ("b", "s"):
        expected = losses(tmp_path / "replicated" / name, "loss/total")
        assert len(expected) == 2 and all(losses(tmp_path / run / name, "loss/total") == expected for run in runs)
