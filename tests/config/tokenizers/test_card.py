"""Cards of tokenizers: one line for a folder that is none, and for a teacher that is another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvd_ds.config import ConfigError, TargetSettings
from mvd_ds.config.tokenizers.card import CARD_NAME, card_values, find_card, read_card, require_same_teacher
from small_tokenizers import KMEANS, TEACHER, student_recipe, tokenizer_recipe


def _folder(folder: Path, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CARD_NAME).write_text(json.dumps(card_values(tokenizer_recipe(**changed), None, 4)))
    return folder


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"depth": 1, "target": {"blocks": [0]}}, "depth: 2 -> 1"),
        ({"target": {"blocks": [0]}}, r"target.blocks: \[1\] -> \[0\]"),
        ({"target": {"norm": "final"}}, "target.norm: none -> final"),
        ({"weights": "runs/teacher/model"}, "weights: random -> a file"),
        ({"position": "sincos3d"}, "position: sinusoid1d -> sincos3d"),
    ],
)
def test_another_teacher_is_refused_with_every_difference(changed: dict[str, Any], difference: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "tokenizer")
    target = {"kind": "codes", "codebook": str(folder), **changed.get("target", {})}
    recipe = student_recipe(folder, **changed | {"target": target})
    with pytest.raises(ConfigError, match=rf"^setting .*tokenizer: was made for another teacher \(.*{difference}"):
        require_same_teacher(recipe, "video", recipe.teachers["video"].target, "setting")


def test_the_same_teacher_may_be_placed_otherwise_and_name_its_block_otherwise(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "tokenizer")
    target = {"kind": "codes", "codebook": str(folder), "blocks": [1]}
    recipe = student_recipe(folder, placement="zero3", chunk_clips=1, loss="cosine", target=target)
    require_same_teacher(recipe, "video", recipe.teachers["video"].target, "setting")


def test_random_weights_are_those_of_a_seed(tmp_path: Path) -> None:
    recipe = student_recipe(_folder(tmp_path / "tokenizer", run={"seed": 5}))
    with pytest.raises(ConfigError, match=r"run.seed, of random weights: 5 -> 0"):
        require_same_teacher(recipe, "video", recipe.teachers["video"].target, "setting")


def test_random_weights_are_those_of_a_name(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "tokenizer", teachers={"other": TEACHER})
    recipe = student_recipe(folder)
    with pytest.raises(ConfigError, match=r"name, which random weights depend on: other -> video"):
        require_same_teacher(recipe, "video", recipe.teachers["video"].target, "setting")


def test_what_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    for content, line in (
        (None, "there is no file"),
        ({"format": "mvd_ds"}, "is no tokenizer"),
        ({"format": "mvd_ds_tokenizer", "version": 9}, "has version 9 of tokenizers"),
        ({"format": "mvd_ds_tokenizer", "version": 1}, "is damaged"),
    ):
        if content is not None:
            (tmp_path / CARD_NAME).write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=line):
            read_card(tmp_path)


def test_a_recipe_that_states_its_codes_needs_no_folder_yet(tmp_path: Path) -> None:
    stated = TargetSettings(kind="codes", codebook=str(tmp_path / "later"), codes=8192)
    assert find_card(stated, "setting") is None
    card = find_card(TargetSettings(kind="codes", codebook=str(_folder(tmp_path / "now")), codes=16), "setting")
    assert card is not None and card.codes == 16 and not card.is_tokenwise
    with pytest.raises(ConfigError, match=r"has 16 codes, and target.codes is 17"):
        find_card(TargetSettings(kind="codes", codebook=str(tmp_path / "now"), codes=17), "setting")


def test_operations_are_those_of_the_search(tmp_path: Path) -> None:
    card = read_card(_folder(tmp_path / "kmeans", **KMEANS))
    assert card.is_tokenwise and card.flops(10) == 10 * 2 * 16 * 32
    assert read_card(_folder(tmp_path / "vq")).flops(10) == 10 * (2 * 32 * (32 + 4) + 2 * 16 * 4)
