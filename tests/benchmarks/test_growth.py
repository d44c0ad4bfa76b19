"""Growth of a step's cost is measured case by case, beside the plan of the same case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.growth import main
from benchmarks.growth_cases import AXES, GrowthOptions, measure_growth, planned_seconds
from mvd_ds.cli import main as command_line
from mvd_ds.tools.bench.step_variants import step_recipe
from mvd_ds.tools.machine.devices import find_machine
from mvd_ds.tools.plan.memory import plain_step_bytes
from mvd_ds.tools.plan.sizes import recipe_sizes

RECIPE = "mvd_base_from_base"
_NETWORK = ("size=null", "embed_dim=32", "depth=2", "num_heads=2")
TINY = [
    *(f"{part}.{item}" for part in ("model", "teachers.image", "teachers.video") for item in _NETWORK),
    *("decoder.embed_dim=16", "decoder.num_heads=2", "decoder.depth=1"),
    *("data.clip.frames=4", "data.clip.size_px=64", "batch.micro=2"),
]


def test_every_axis_is_measured_planned_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "growth.json"
    axes = ["clips", "side in px"]
    options = ["--device", "cpu", "--axes", *axes, "--steps", "1", "--output", str(output)]
    code = main([RECIPE, *TINY, *options])
    said, result = capsys.readouterr().out, json.loads(output.read_text())
    assert "measured here" in said and "cpu" in result["label"]
    assert [row["axis"] for row in result["cases"][:1]] == ["base"] and {row["axis"] for row in result["cases"][1:]} == set(axes)
    assert set(result["base"]) == set(AXES)
    for axis in axes:
        rows = [row for row in result["cases"] if row["axis"] == axis]
        planned = [row["planned_milliseconds"] for row in sorted(rows, key=lambda row: row["value"])]
        assert planned == sorted(planned) and len(set(planned)) == len(planned) >= 2, axis
        assert result["base"][axis] not in {row["value"] for row in rows}
    base = result["cases"][0]
    assert base["time_off_by"] == pytest.approx(0, abs=1e-6), "the base case calibrates"
    assert all(row["measured_milliseconds"] > 0 and row["measured_parts"]["backward"] > 0 for row in result["cases"])
    off = max(abs(row["time_off_by"]) for row in result["cases"])
    assert code in (0, 1) and (code == 1 or off <= 0.15)


@pytest.mark.nightly
def test_processes_are_measured_under_the_engine() -> None:
    settings = [*TINY, "engine.config=zero1.json"]
    rows = measure_growth(RECIPE, settings, GrowthOptions(("processes",), 1, (1, 2), "cpu"))["cases"]
    groups = [row for row in rows if row["axis"] == "processes"]
    assert [row["value"] for row in groups] == [1, 2]
    for row in groups:
        assert abs(row["memory_off_by"]) < 0.02, "states are planned to the padding"
    assert groups[0]["time_off_by"] == pytest.approx(0, abs=1e-6) and groups[1]["planned_milliseconds"] > 0


def test_a_core_of_this_host_is_a_device() -> None:
    machine = find_machine("cpu", None, None, None)
    assert machine.device.fp32_share == 1 and machine.device.matrix_tflops > 1e-3 and machine.efficiency == 0.9
    assert find_machine("cpu", None, None, None, 0.5).efficiency == 0.5
    recipe = step_recipe(RECIPE, TINY, "recipe", torch.device("cpu"))
    double = step_recipe(RECIPE, [*TINY, "batch.micro=4"], "recipe", torch.device("cpu"))
    engine = {"zero_optimization": {"stage": 1, "reduce_bucket_size": 1000}}
    one, two = (planned_seconds(chosen, engine, machine) for chosen in (recipe, double))
    assert 1 < two / one < 2, "a step of twice the clips shares its optimizer"
    small, large = (sum(plain_step_bytes(chosen, recipe_sizes(chosen)).values()) for chosen in (recipe, double))
    assert small < large < 2 * small


def test_faults_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([RECIPE, "batch.micro=none", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "batch.micro" in said


@pytest.mark.parametrize("arguments", [[], [RECIPE, "--steps", "1"], ["--device", "cpu", RECIPE]])
def test_the_old_command_names_the_new_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["bench", "growth", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "python -m benchmarks.growth" in said
