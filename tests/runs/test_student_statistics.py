"""Model folders of students whose targets have statistics, or whose losses are weighed by what is learned."""

from pathlib import Path

import pytest
import torch

import mvd_ds
from mvd_ds.config import LOG_VARIANCES, ConfigError, TrainingRecipe, load_recipe
from mvd_ds.models import save_model
from mvd_ds.objectives.moving_statistics import statistics_state
from mvd_ds.objectives.targets import build_targets, target_statistics
from mvd_ds.runs.student import build_predictor, load_predictor, load_target_statistics


def _recipe(*overrides: str) -> TrainingRecipe:
    recipe = load_recipe("quickstart_distill", overrides)
    assert isinstance(recipe, TrainingRecipe)
    return recipe


def test_log_variances_are_a_part_of_the_student_and_not_of_other_readers(tmp_path: Path) -> None:
    recipe = _recipe("balance=uncertainty")
    student = build_predictor(recipe)
    assert set(student.state_dict()) - set(build_predictor(_recipe()).state_dict()) == {LOG_VARIANCES}
    torch.nn.init.constant_(student.balance.log_variances, 0.5)
    save_model(tmp_path / "model", student.state_dict(), recipe, {})
    loaded, _ = load_predictor(tmp_path / "model")
    assert loaded.balance.log_variances.tolist() == [0.5, 0.5]
    assert repr(mvd_ds.load(tmp_path / "model")).startswith("VideoEncoder(width 128")


def test_statistics_of_targets_lie_beside_the_weights(tmp_path: Path) -> None:
    scales = {"image": "running", "video": "phi_s"}
    recipe = _recipe(*(f"teachers.{name}.target={{standardise: {scale}}}" for name, scale in scales.items()))
    targets = build_targets(recipe)
    for part in target_statistics(targets).values():
        part.mean.normal_()
    state = statistics_state(target_statistics(targets))
    save_model(
        tmp_path / "model",
        build_predictor(recipe).state_dict(),
        recipe,
        {},
        statistics={**state, "image.balance.loss": torch.ones(())},
    )
    found = build_targets(recipe)
    load_target_statistics(tmp_path / "model", found)
    assert all(torch.equal(value, state[name]) for name, value in statistics_state(target_statistics(found)).items())
    (tmp_path / "model" / "target_statistics.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"target_statistics\.safetensors: the statistics .* is none there"):
        load_target_statistics(tmp_path / "model", found)
