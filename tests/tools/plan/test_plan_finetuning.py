"""Fine-tuning is planned as training is, and memory that lies idle is met with a larger micro batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.config import FinetuneRecipe, load_recipe
from mvd_ds.models.classifiers.classifier import Classifier
from mvd_ds.models.flops import classifier_flops
from mvd_ds.tools.machine.devices import find_machine
from mvd_ds.tools.plan.plan import EASE_SHARE, Planner
from mvd_ds.tools.plan.sizes import CLASSES, recipe_sizes

H200 = find_machine("h200", None, None, None)


def planner(name: str, *overrides: str) -> Planner:
    return Planner(name, list(overrides), H200, 240_436, 65.0)


def test_a_classifier_is_counted_as_it_is_built() -> None:
    recipe = load_recipe("finetune_k400_small", ["model.depth=2"])
    assert isinstance(recipe, FinetuneRecipe)
    sizes = recipe_sizes(recipe)
    model = Classifier(recipe.model, recipe.grid, CLASSES, pooling=recipe.pooling)
    assert sizes.student.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sizes.student.tokens == 8 * 14 * 14 and not sizes.decoders and not sizes.teachers
    assert sizes.flops.training == 3 * classifier_flops(recipe.model, recipe.grid, CLASSES, recipe.pooling)


def test_finetuning_has_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "plan.json"
    assert main(["plan", "finetune_k400_base", "--gpus", "8", "--gpu", "h200", "--json", str(output)]) == 0
    out = capsys.readouterr().out
    assert "student, forward and backward" in out and "head of 400 classes is assumed" in out
    found = json.loads(output.read_text())
    assert found["case"]["fits"] and found["case"]["hours"] > 0 and "teacher" not in " ".join(found["case"]["device_bytes"])


def test_activations_of_finetuning_grow_with_the_micro_batch() -> None:
    small, large = (planner("finetune_k400_base", f"batch.micro={micro}").case(8) for micro in (8, 16))
    assert small is not None and large is not None
    assert large.memory.device["activations"] == 2 * small.memory.device["activations"]


def test_idle_memory_is_filled() -> None:
    plan = planner("mvd_small_from_base", "batch.micro=8").plan(8)
    assert plan.case is not None and plan.larger_micro is not None
    larger = plan.larger_micro.case
    assert larger.recipe.batch.micro > 8 and larger.recipe.batch.global_ == plan.case.recipe.batch.global_
    assert larger.memory.device_bytes <= EASE_SHARE * H200.device.memory_gib * 2**30
    assert larger.recipe.batch.accumulation_steps(8) < plan.case.recipe.batch.accumulation_steps(8)


@pytest.mark.parametrize("name", ["mvd_huge_from_huge", "mvd_small_from_base"])
def test_memory_in_use_and_whole_batches_are_left_alone(name: str) -> None:
    busy = planner(name, "batch.micro=128", "model.activation_checkpointing=0").plan(8)
    assert busy.larger_micro is None


def test_a_recipe_that_fits_itself_is_planned_with_defaults_where_nothing_is_here() -> None:
    plan = planner("finetune_folder").plan(8)
    assert plan.case is not None and any("will be fitted" in note for note in plan.notes)


def test_a_recipe_that_trains_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "evaluate_5x3"]) == 2
    assert "evaluate has no plan; pretrain, distill and finetune have" in capsys.readouterr().err
