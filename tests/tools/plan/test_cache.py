"""The plan of a cache: the bytes that a real one has, and the epochs that follow from arithmetic alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.data.cached.index import read_index
from mvd_ds.runs.caching.cache_targets import cache_targets
from mvd_ds.tools.machine.devices import find_machine
from mvd_ds.tools.plan.cache import plan_cache, stored_outputs
from mvd_ds.tools.plan.plan import Planner
from shrinking import RECIPE, shipped

KINDS = [
    "teachers.video.target.blocks=[0, 2]",
    "teachers.video.target.mode=each",
    "teachers.video.more_targets.summary={kind: summary, summary: mean}",
    "teachers.video.more_targets.relations={kind: relations}",
    "masking.kind=attention",
    "masking.teacher=video",
    "masking.pick=multinomial",
    "data.clip.flip=0.5",
    "targets.crops=2",
    "targets.store=int8",
]


def test_the_planned_bytes_are_those_of_a_cache(shrunk: list[str], videos: Path, tmp_path: Path) -> None:
    overrides = [*shrunk, *KINDS, f"data.manifest={videos / 'val.txt'}", f"targets.cache={tmp_path / 'cache'}"]
    recipe = shipped(overrides)
    cache_targets(recipe, "run")
    index = read_index(tmp_path / "cache")
    assert stored_outputs(recipe, "int8") == index.outputs
    assert main(["plan", RECIPE, *overrides, "--gpus", "1", "--cache", "--json", str(tmp_path / "plan.json")]) in (0, 1)
    planned = json.loads((tmp_path / "plan.json").read_text())["cache"]
    assert planned["clip_bytes"]["int8"] == index.clip_bytes and planned["views"] == index.views == 4
    assert planned["total_bytes"]["int8"] == 16 * index.clip_bytes


@pytest.mark.parametrize(("crops", "flip", "views"), [(1, 0.0, 1), (3, 0.5, 6), (2, 1.0, 2)])
def test_a_cache_has_paid_after_as_many_epochs_as_it_has_views_where_arithmetic_limits(
    crops: int, flip: float, views: int
) -> None:
    overrides = [f"targets.crops={crops}", f"data.clip.flip={flip}"]
    planner = Planner("mvd_base_from_base", overrides, find_machine("h200", None, None, None, 0.45), 240_436, 0.01)
    plan = plan_cache(planner, 8)
    assert plan.views == views and plan.break_even_epochs == pytest.approx(views, rel=0.02)
    assert plan.clip_bytes["bf16"] == views * 2 * 1568 * 768 * 2 and plan.clip_bytes["fp32"] == 2 * plan.clip_bytes["bf16"]
    assert not plan.cached.memory.device.keys() & {"teacher image", "teacher video"}


def test_where_decoding_limits_it_never_pays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    main(["plan", "mvd_base_from_base", "--clips", "240436", "--decode", "500", "--cache", "--json", str(file)])
    assert json.loads(file.read_text())["cache"]["break_even_epochs"] is None
    said = " ".join(capsys.readouterr().out.split())
    assert "it never pays: reading clips limits, " in said and " s a step with data.workers 10; more of them" in said


def test_what_has_no_teachers_has_no_cache(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "videomae_base", "--clips", "1000000", "--cache"]) == 2
    assert "--cache: videomae_base has no teachers whose targets could be kept" in capsys.readouterr().err
