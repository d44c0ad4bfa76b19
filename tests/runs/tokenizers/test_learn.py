"""Tokenizers of real videos, in this process: learned, resumed to the bit, taken up by a student, refused by another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mvd_ds.config import ConfigError, dump
from mvd_ds.config.tokenizers.card import read_card
from mvd_ds.models.tokenizers.folder import VECTORS, read_tokenizer
from mvd_ds.models.weights import save_model
from mvd_ds.runs.any_training import train_by_name
from mvd_ds.runs.student import build_predictor
from mvd_ds.runs.tokenizers.matching import require_own_tokenizers, teacher_digest
from small_tokenizers import KMEANS, NETWORK, TEACHER, student_recipe, tokenizer_recipe, write_tokenizer

IMAGE = {**NETWORK, "depth": 1, "kind": "image", "tubelet_frames": 1, "position": "sincos2d", "weights": "random"}
PECO = {
    "tokenizer": {"codes": 16, "width": 4, "reconstruct": "pixels", "perceptual": "image"},
    "pixels": {"normalise": "none"},
    "teachers": {"video": TEACHER, "image": IMAGE},
}


def _write(path: Path, **changed: object) -> str:
    path.write_text(yaml.safe_dump(dump(tokenizer_recipe(**changed))))
    return str(path)


def _last(run: Path) -> dict[str, float]:
    rows: list[dict[str, float]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in reversed(rows) if "loss/total" in row)


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``vq`` with pictures."""
    folder = tmp_path_factory.mktemp("tokenizer")
    shown = ["run.pictures_every_steps=4", "run.picture_clips=9", "run.features_every_steps=1", "run.log_every_steps=1"]
    recipe = _write(folder / "small.yaml")
    return train_by_name(recipe, [f"data.manifest={videos}/train.txt", f"run.output={folder}/run", *shown])


def test_it_tells_usage_and_perplexity_and_shows_what_codes_stand_for(run: Path) -> None:
    last = _last(run)
    assert 0 < last["statistics/codebook_usage"] <= 1 < last["statistics/codebook_perplexity"] <= 16
    assert last["loss/total"] == pytest.approx(last["loss/reconstruction"] + last["loss/commitment"], rel=1e-5)
    assert "loss_relative/reconstruction" in last
    pictures = run / "pictures" / "step-00000004"
    assert (pictures / "codes.png").stat().st_size > 1000
    assert len(json.loads((pictures / "numbers.json").read_text())["codes"]) == 12


def test_a_run_that_was_stopped_goes_on_to_the_bit(run: Path, videos: Path, tmp_path: Path) -> None:
    recipe, where = _write(tmp_path / "small.yaml"), [f"data.manifest={videos}/train.txt", f"run.output={tmp_path}/run"]
    stopped = [*where, "run.stop_after_steps=2"]
    train_by_name(recipe, stopped)
    there = train_by_name(recipe, where)
    whole, again = (load_file(path / "model" / "model.safetensors") for path in (run, there))
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


def test_its_folder_is_whole_and_says_what_it_is(run: Path) -> None:
    card, tensors = read_tokenizer(run / "model")
    assert card == read_card(run / "model") and card.codes == 16 and card.teacher_digest is None
    assert tensors[VECTORS].norm(dim=-1).sub(1).abs().max() < 1e-5, "codes have length one"


def test_a_student_learns_its_codes(run: Path, videos: Path, tmp_path: Path) -> None:
    student = student_recipe(run / "model")
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(dump(student)))
    more = ["schedule.steps=12", "run.features_every_steps=12", "run.log_every_steps=1", "run.pictures_every_steps=12"]
    where = [f"data.manifest={videos}/train.txt", f"run.output={tmp_path}/run"]
    there = train_by_name(str(tmp_path / "student.yaml"), [*where, *more])
    first = json.loads((there / "metrics.jsonl").read_text().splitlines()[0])["loss/video"]
    last = _last(there)
    assert last["loss/video"] < first and 0 <= last["codes/accuracy_video"] <= 1


@pytest.mark.parametrize("changed", [KMEANS, PECO], ids=["kmeans", "pixels and a perceptual teacher"])
def test_other_ways_to_learn_codes_run(changed: dict[str, object], videos: Path, tmp_path: Path) -> None:
    recipe = _write(tmp_path / "small.yaml", **changed)
    shown = ["run.log_every_steps=1", "run.features_every_steps=1", f"run.output={tmp_path}/run"]
    last = _last(train_by_name(recipe, [f"data.manifest={videos}/train.txt", *shown]))
    assert last["statistics/codebook_usage"] > 0.5
    assert ("loss/perceptual" in last) == ("pixels" in changed) and ("loss/commitment" in last) == ("pixels" in changed)


def test_a_tokenizer_of_other_weights_is_refused_and_of_another_precision_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = student_recipe(write_tokenizer(tmp_path / "random", tokenizer_recipe()))
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = {name: torch.randn_like(value) for name, value in build_predictor(teacher).state_dict().items()}
        save_model(tmp_path / f"teacher{seed}", weights, teacher, {})
    own = {**TEACHER, "weights": str(tmp_path / "teacher0")}
    recipe = tokenizer_recipe(teachers={"video": own})
    folder = write_tokenizer(tmp_path / "tokenizer", recipe, teacher_digest(recipe, "video"))
    student = student_recipe(folder, weights=str(tmp_path / "teacher0"))
    require_own_tokenizers(student)
    assert read_card(folder).precision == "fp32" and not capsys.readouterr().out
    require_own_tokenizers(student.model_copy(update={"engine": student.engine.model_copy(update={"precision": "bf16"})}))
    assert "was learned in fp32, and tokens are read in bf16 here" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"tokenizer was made for other weights than .*teacher1; learn one for this teacher"):
        require_own_tokenizers(student_recipe(folder, weights=str(tmp_path / "teacher1")))


def test_too_few_tokens_to_begin_with_are_told_before_anything_is_read(videos: Path, tmp_path: Path) -> None:
    recipe = _write(tmp_path / "small.yaml", tokenizer={"codes": 1000, "width": 4})
    with pytest.raises(ConfigError, match=r"codes 1000: .* have 512 tokens to begin with; set calibration_clips to 16 or"):
        train_by_name(recipe, [f"data.manifest={videos}/train.txt", f"run.output={tmp_path}/run"])
