"""`settings` explains every setting there is, and `recipes --all` prints a recipe that loads as the recipe does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mvd_ds.cli import main
from mvd_ds.config import dump, leaves, load_recipe, recipe_names, validate
from mvd_ds.config.reference import all_settings, settings_in


def test_every_setting_has_a_type_and_a_docstring() -> None:
    settings = all_settings()
    assert len(settings) > 200 and all(setting.type and setting.text and setting.commands for setting in settings)
    assert not [setting for setting in settings if "typing." in setting.type or "<class" in setting.type]
    by_key = {setting.key: setting for setting in settings}
    assert by_key["batch.global"].type == "int, 1 or more" and by_key["batch.global"].default == "1024"
    assert by_key["teachers.NAME.depth"].default == "required"
    assert by_key["data.reader"].type == "auto | decord | pyav | torchcodec"


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_of_a_recipe_is_explained(name: str) -> None:
    recipe = load_recipe(name)
    assert {setting.key: value for setting, value in settings_in(recipe)} == leaves(dump(recipe))


def test_a_recipe_is_shown_with_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "mvd_base_from_base", "batch.micro=4"]) == 0
    out = capsys.readouterr().out
    assert "batch.micro=4   (int, 1 or more; default " in out and "teachers.video.depth=12 " in out
    assert "    Clips per optimizer step" in out


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("data.clip", "data.clip.frames=", "data.reader="),
        ("teachers.mine.weights", "teachers.NAME.weights", "teachers.NAME.depth"),
        ("teachers.mine.more_targets", "teachers.NAME.more_targets.NAME.standardise=", "teachers.NAME.target.standardise="),
        ("finetune", "validation.manifest", "masking.ratio"),
        (None, "masking.ratio", "masking.radio"),
    ],
)
def test_a_part_is_shown(name: str | None, shown: str, hidden: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", *([name] if name else [])]) == 0
    out = capsys.readouterr().out
    assert shown in out and hidden not in out


def test_a_misspelt_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "batch.golbal"]) == 2
    assert capsys.readouterr().err.endswith("nor a setting; did you mean 'batch.global'?\n")
    assert main(["recipes", "--all"]) == 2


OTHERS = [
    ("lr", "'optimizer.base_lr'"),
    ("output-dir", "'run.output'"),
    ("more_targets", "'teachers.NAME.more_targets'"),
    ("more_tragets", "'teachers.NAME.more_targets'"),
    ("target", "'teachers.NAME.target'"),
    (
        "standardise",
        "'teachers.NAME.more_targets.NAME.standardise' or 'teachers.NAME.target.standardise' or 'tokenizer.standardise'",
    ),
]


@pytest.mark.parametrize(("name", "meant"), OTHERS)
def test_a_name_of_other_trainers_or_a_last_word_is_answered_with_ours(
    name: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings", name]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_recipes_all_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "mvd_base_from_base", "--all"]) == 0
    text = capsys.readouterr().out
    assert validate(yaml.safe_load(text), "here") == load_recipe("mvd_base_from_base")
    assert "gradient_clipping" in text
