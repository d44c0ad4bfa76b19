"""Tokenizers of clips and of single frames on real videos: learned, resumed to the bit, taken up by a student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mvd_ds.config import ConfigError, dump
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.models.tokenizers.folder import VECTORS, read_tokenizer
from mvd_ds.runs.any_training import train_by_name
from mvd_ds.runs.tokenizers.matching import require_own_tokenizers
from small_tokenizers import FRAMES, PIXELS, student_of_pixels, tokenizer_recipe, write_tokenizer

#: 64 videos are five steps of 12 and a part of the next epoch.
SHORT: dict[str, Any] = {"batch": {"micro": 3, "global": 12}, "schedule": {"steps": 6, "warmup_steps": 0}}


def _learn(recipe: TokenizerRecipe, videos: Path, run: Path, *more: str) -> Path:
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(dump(recipe)))
    return train_by_name(str(path), [f"data.manifest={videos}/train.txt", f"run.output={run}", "run.log_every_steps=1", *more])


def _rows(run: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss/total" in row]


@pytest.fixture(scope="module", params=[PIXELS, FRAMES], ids=["tubelets", "frames"])
def run(request: pytest.FixtureRequest, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenizerRecipe, Path]:
    """A finished run with pictures, and its recipe."""
    recipe = tokenizer_recipe(**request.param | SHORT)
    shown = ["run.pictures_every_steps=6", "run.picture_clips=5", "run.features_every_steps=1"]
    return recipe, _learn(recipe, videos, tmp_path_factory.mktemp("pixels") / "run", *shown)


def test_it_learns_tells_its_losses_and_shows_what_codes_make(run: tuple[TokenizerRecipe, Path]) -> None:
    recipe, folder = run
    rows = _rows(folder)
    assert rows[-1]["loss/reconstruction"] < rows[0]["loss/reconstruction"]
    last = rows[-1]
    parts = last["loss/reconstruction"] + last["loss/commitment"] + 0.1 * last["loss/perceptual"]
    assert last["loss/total"] == pytest.approx(parts, rel=1e-5)
    assert 0 < last["statistics/codebook_usage"] <= 1 <= last["statistics/codebook_perplexity"] <= 16
    pictures = {path.stem for path in (folder / "pictures" / "step-00000006").glob("*.png")}
    clips = {"images"} if recipe.model.kind == "image" else {f"clip-{number}" for number in range(4)}
    assert pictures == {"codes"} | clips


def test_a_run_that_was_stopped_goes_on_to_the_bit(run: tuple[TokenizerRecipe, Path], videos: Path, tmp_path: Path) -> None:
    recipe, folder = run
    _learn(recipe, videos, tmp_path / "run", "run.stop_after_steps=4")
    there = _learn(recipe, videos, tmp_path / "run")
    whole, again = (load_file(path / "model" / "model.safetensors") for path in (folder, there))
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert any(name.startswith("pixels.blocks.") for name in whole)
    assert whole[VECTORS].norm(dim=-1).sub(1).abs().max() < 1e-5, "codes have length one"


def test_a_student_learns_its_codes(run: tuple[TokenizerRecipe, Path], videos: Path, tmp_path: Path) -> None:
    recipe, folder = run
    assert read_tokenizer(folder / "model")[0].teacher_digest is None
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(dump(student_of_pixels(folder / "model", recipe))))
    more = ["schedule.steps=12", "run.log_every_steps=1", "run.features_every_steps=12"]
    where = [f"data.manifest={videos}/train.txt", f"run.output={tmp_path}/run"]
    rows = _rows(train_by_name(str(tmp_path / "student.yaml"), [*where, *more]))
    assert rows[-1]["loss/video"] < rows[0]["loss/video"] and 0 <= rows[-1]["codes/accuracy_video"] <= 1


def test_codes_of_another_encoder_are_refused(tmp_path: Path) -> None:
    recipe = tokenizer_recipe(**PIXELS)
    folder = write_tokenizer(tmp_path / "tokenizer", recipe)
    require_own_tokenizers(student_of_pixels(folder, recipe))
    require_own_tokenizers(student_of_pixels(folder, recipe, weights=str(write_tokenizer(tmp_path / "copy", recipe))))
    other = write_tokenizer(tmp_path / "other", recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 1})}))
    line = r"made for other weights than .*other; it has an encoder of its own: teachers.video.weights=.*tokenizer"
    with pytest.raises(ConfigError, match=line):
        require_own_tokenizers(student_of_pixels(folder, recipe, weights=str(other)))
