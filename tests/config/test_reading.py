"""Texts and paths of settings are taken as they were typed; YAML that is malformed or unfolds is one short line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mvd_ds.config import ConfigError, TrainingRecipe, dump, load_recipe, to_yaml, validate
from mvd_ds.training.run_folder import RunFolder

DISTILL = "quickstart_distill"


def _message(recipe: str, overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides)
    return str(caught.value)


TYPED = [
    "001",
    "2024-11-30",
    "1e3",
    "no",
    "{date}",
    "{",
    "a: b",
    "[x]",
    "runs/run #1",
    "12:30:00",
    "0x1f",
    "%s",
    "!x",
    "*a",
    "a\nb",
]


@pytest.mark.parametrize("text", TYPED)
def test_texts_are_taken_as_they_were_typed(text: str) -> None:
    recipe = load_recipe(DISTILL, [f"run.output={text}", f"teachers.image.weights={text}", f"data.root={text}"])
    assert isinstance(recipe, TrainingRecipe)
    assert (recipe.run.output, recipe.teachers["image"].weights, recipe.data.root) == (text, text, text)
    assert RunFolder.of(recipe, "name").path == Path(text)
    assert validate(yaml.safe_load(to_yaml(recipe)), "yaml") == recipe


def test_quotes_and_null_keep_their_meaning() -> None:
    recipe = load_recipe(DISTILL, ["run.output='0 1'", "data.root=null", 'data.manifest="a\\tb"'])
    assert (recipe.run.output, recipe.data.root, recipe.data.manifest) == ("0 1", None, "a\tb")
    assert load_recipe(DISTILL, ["data.root="]).data.root is None
    assert "run.output '': String should have at least 1 character" in _message(DISTILL, ["run.output="])


def test_texts_of_a_file_are_taken_as_they_were_typed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    tree = dump(load_recipe(DISTILL))
    tree["data"]["sources"], tree["run"]["output"] = [{"manifest": "@@", "weight": 2}], "@"
    path.write_text(yaml.safe_dump(tree).replace("'@@'", "007").replace("'@'", "2024-11-30"))
    recipe = load_recipe(str(path))
    assert (recipe.run.output, recipe.data.sources[0].manifest) == ("2024-11-30", "007")


def test_paths_begin_at_home_and_braces_are_literal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ["run.output=~/x", "data.root=~", "data.manifest=~/a.txt", "teachers.image.weights=~/w", "engine.config=~/z.json"]
    recipe = load_recipe(DISTILL, [*paths, "run.picture_manifest=~/p.txt"])
    assert isinstance(recipe, TrainingRecipe)
    home = str(tmp_path)
    assert (recipe.run.output, recipe.data.manifest) == (f"{home}/x", f"{home}/a.txt")
    assert (recipe.teachers["image"].weights, recipe.engine.config) == (f"{home}/w", f"{home}/z.json")
    assert recipe.run.picture_manifest == f"{home}/p.txt"
    assert load_recipe(DISTILL, ["data.root=~/y"]).data.root == f"{home}/y"
    assert RunFolder.of(load_recipe(DISTILL, ["run.output=runs/{recipe}/{x}"]), "name").path == Path("runs/name/{x}")
    assert "run.output 'a\\x00b': a path cannot hold a zero byte" in _message(DISTILL, ["run.output=a\0b"])


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "its aliases unfold to more than 20000 values"),
        ("a: &a [*a]", "line 1 refers to itself"),
        ("a: " + "[" * 50_000, "is not YAML: maximum recursion"),
        ("objective: " + "9" * 5000, "line 1 holds a number of 5000 digits"),
        ("objective: 0x" + "f" * 5000, "line 1 holds a number of 5002 digits"),
        ("a: 1\n" * 1_000_000, "a recipe has at most 4 MiB"),
        (b"a: na\xefve\n", "mine.yaml:1: cannot be read: it is not UTF-8; .*iconv -f CP1252"),
        (b"\0\0\0\x18ftypmp42" + bytes(9), "this seems to be an MP4 or MOV video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "this seems to be a git-LFS pointer"),
    ],
)
def test_malformed_files_are_one_short_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    shown = _message(str(path), [])
    assert re.search(message, shown) and len(shown) < 500 and shown.isprintable()


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "[" * 50_000, "&a [*a]", "x" * 100_000])
def test_malformed_overrides_are_one_short_line(value: str) -> None:
    shown = _message(DISTILL, [f"run.seed={value}"])
    assert len(shown) < 500 and shown.isprintable()
