"""Teachers that are the student's own average: what their settings are, and what is refused."""

from __future__ import annotations

import pytest

from mvd_ds.config import ConfigError, TrainingRecipe, dump, load_recipe, validate
from mvd_ds.config.inputs import inputs_of, missing_inputs

RECIPE = "quickstart_distill"
LIVING = ["teachers={own: {weights: ema, target: {norm: final, normalise: true}, loss: l1}}", "optimizer.ema_decay=0.9"]


def recipe(*overrides: str) -> TrainingRecipe:
    loaded = load_recipe(RECIPE, [*LIVING, *overrides], "distill")
    assert isinstance(loaded, TrainingRecipe)
    return loaded


def test_it_has_the_architecture_of_the_student_wherever_that_is_changed() -> None:
    living = recipe("model.depth=3")
    assert living.teachers["own"].is_ema and living.teachers["own"].depth == 3
    assert living.teachers["own"].embed_dim == living.model.embed_dim
    assert validate(dump(living), "again") == living


def test_its_weights_are_no_file() -> None:
    assert "teachers.own.weights" in inputs_of(recipe())
    assert not [line for line in missing_inputs(recipe()) if "teachers.own" in line]
    elsewhere = [line for line in missing_inputs(recipe("init.weights=ema")) if "init.weights" in line]
    assert elsewhere, "as weights of anything else, ema is a path like any other"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optimizer.ema_decay=null"], "teachers.own.weights ema needs optimizer.ema_decay"),
        (["teachers.own.depth=1"], "teachers.own.weights ema has the student's own architecture: remove depth"),
        (["students={a: {}, b: {}}"], "teachers.own.weights ema is the average of one student"),
        (["targets.cache=cache"], "teachers.own.weights ema: a teacher that learns cannot be cached"),
        (["teachers.own.fp8=true"], "teachers.own.fp8 rounds weights once"),
        (["teachers.own.placement=zero3_nvme"], "choose zero3_offload"),
        (["optimizer.ema_decay=null", "optimizer.ema_decay_end=1"], "ema_decay_end is where ema_decay goes"),
    ],
)
def test_what_cannot_follow_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(*overrides)
    assert said in str(error.value)
