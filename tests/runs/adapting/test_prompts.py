"""Prompts in ``finetune`` on real files: towers stay, resumed equals untouched, and every command gives the same answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mvd_ds
from launching import losses
from mvd_ds.config import PROMPT_HEADS, ConfigError, EvaluateRecipe, load_recipe
from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.files import read_json
from mvd_ds.models.formats.containers import PROMPTS_NAME
from mvd_ds.models.prompts.file import digest_of
from mvd_ds.models.text.captioned import open_captioned
from mvd_ds.runs import finetune as runs_finetune
from mvd_ds.runs.evaluate import evaluate
from mvd_ds.runs.finetune import finetune
from mvd_ds.tools.checkpoints import convert_checkpoint
from mvd_ds.tools.export import export
from prompted_runs import RECIPE, STEPS, loaded, write_captioned


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioned(tmp_path_factory.mktemp("captioned") / "model")


@pytest.fixture(scope="module", params=PROMPT_HEADS)
def run(request: pytest.FixtureRequest, videos: Path, captioned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patched:
        found, place = [], runs_finetune.place_frozen
        patched.setattr(runs_finetune, "place_frozen", lambda *given: found.append(given[0]) or place(*given))
        assert finetune(loaded(request.param, videos, captioned, folder), RECIPE) == 0
    (adapted,), expected = found, open_captioned(captioned)[0]
    towers = adapted.frozen["towers"].state_dict()
    expected = expected.encoder.state_dict() if request.param == "vpt" else expected.state_dict()
    assert towers.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in towers.items()), "towers are not touched"
    return folder


def test_prompts_alone_are_trained_and_kept(run: Path, captioned: Path) -> None:
    curve = losses(run)
    assert len(curve) == STEPS and len(set(curve)) == STEPS
    kind = run.parent.name.rstrip("0123456789")
    names = {name.partition(".")[0] for name in load_file(run / "model" / PROMPTS_NAME)}
    assert (
        names
        == {
            "coop": {"context"},
            "cocoop": {"context", "narrow", "widen"},
            "metaprompt": {"vision", "text"},
            "vpt": {"vision", "head"},
        }[kind]
    )
    size = sum(file.stat().st_size for file in (run / "checkpoints").rglob("*") if file.is_file())
    assert size < (captioned / "model.safetensors").stat().st_size / 2, "no frozen weight is in a checkpoint"
    if kind == "metaprompt":
        assert all(losses(run, f"loss/{name}")[0] > 0 for name in ("class", "clips", "texts", "episodes"))


def test_every_command_gives_the_answers_of_the_validation(run: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds prompts, and no network; give the weights that they were learned on"):
        finetune(loaded("vpt", videos, run / "model", tmp_path / "again"), RECIPE)
    told = read_json(run / "validation.json")
    convert_checkpoint(run, tmp_path / "converted", None, average_only=False)
    export(run, tmp_path / "exported", [])
    for place in (run, tmp_path / "converted", tmp_path / "exported"):
        name = f"evaluation_{place.name}"
        overrides = [f"weights={place}", f"data.manifest={videos / 'val.txt'}", "data.workers=0", "views={segments: 1, crops: 1}"]
        overrides += ["label=how", "run.device=cpu", "precision=fp32", f"run.output={tmp_path / name}"]
        recipe = load_recipe("evaluate_5x3", overrides, "evaluate")
        assert isinstance(recipe, EvaluateRecipe)
        folder = evaluate(recipe, "evaluate_5x3")
        found = read_json(folder / "evaluation.json")
        assert found["top1"] == pytest.approx(told["top1"]), name
        with open(folder / "predictions.csv", newline="") as file:
            classes = [found["classes"].index(row["class_1"]) for row in csv.DictReader(file)]
        assert classes == told["predicted"], name
    (tmp_path / "others.txt").write_text("a cat\na dog\na lamp\n")
    if run.parent.name.startswith("vpt"):
        with pytest.raises(ConfigError, match="vpt of these settings has no answer for classes that it has not learnt"):
            mvd_ds.VideoClassifier(run, words=tmp_path / "others.txt")
    else:
        assert mvd_ds.VideoClassifier(run, words=tmp_path / "others.txt").classes == ("a cat", "a dog", "a lamp")
    path = read_manifest(videos / "val.txt").refs.path(0)
    own, exported = (mvd_ds.VideoClassifier(place).probabilities(path) for place in (run, tmp_path / "exported"))
    torch.testing.assert_close(own, exported)


def test_interrupted_and_resumed_equals_untouched(videos: Path, captioned: Path, tmp_path: Path) -> None:
    before = digest_of(captioned)
    ends = []
    for name, stops in (("untouched", ()), ("resumed", ("run.stop_after_steps=3",))):
        folder = tmp_path / name
        for stop in (*stops, "run.stop_after_steps=null"):
            finetune(loaded("cocoop", videos, captioned, folder, more=("optimizer.ema_decay=0.5", stop)), RECIPE)
        ends.append(folder)
    one, two = ends
    assert losses(one) == losses(two)
    for part in ("best", "model"):
        weights = [load_file(folder / part / PROMPTS_NAME) for folder in ends]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0] | weights[1]), part
    assert digest_of(captioned) == before, "towers are not touched"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["prompt.words={what: words.json}"], "prompt.words.what: there is no such label; labels are how"),
        (["prompt.context=60"], "60 learned vectors and the name"),
        (["prompt.contxt=4"], "contxt"),
        (["prompt.deep=3"], "prompt.deep is for adaptation metaprompt, vpt, not cocoop: leave it out"),
        (["weights=null"], "adaptation cocoop learns prompts for a trained network: set weights"),
        (["task=multilabel"], "tells one class of a video, not task multilabel"),
        (["model.drop_path=0.1"], "trains no block; set it to 0"),
        (["dropout=0.5"], "dropout is for class heads"),
        (["adaptation=full"], "prompt.words is for adaptation coop, cocoop, metaprompt, not full: leave it out"),
        (["model.patch_px=16"], "patch_px is 8 there and 16 in the recipe"),
    ],
)
def test_bad_settings_are_one_line(more: list[str], said: str, videos: Path, captioned: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        finetune(loaded("cocoop", videos, captioned, tmp_path / "run", more=tuple(more)), RECIPE)
    assert said in str(fault.value) and len(str(fault.value).splitlines()) <= 2
    assert not (tmp_path / "run" / "model").exists()


def test_an_encoder_without_words_is_one_line(videos: Path, captioned: Path, tmp_path: Path) -> None:
    mvd_ds.save(mvd_ds.load(captioned).network.encoder, tmp_path / "encoder")
    with pytest.raises(ConfigError, match="has no text tower, which reads the names of classes; give a"):
        finetune(loaded("coop", videos, tmp_path / "encoder", tmp_path / "run"), RECIPE)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x" * 10_000_000, *"abcdefg"], "has 10,000,000 bytes, and at most 65,536 are taken"),
        (["", *"abcdefg"], "empty"),
        (["\ud800", *"abcdefg"], "holds half of a character"),
        ([*"abc"], "has no words for class"),
    ],
)
def test_odd_words_are_one_line(names: list[str], said: str, videos: Path, captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(json.dumps({"classes": names}))
    more = [f"prompt.words={{how: {tmp_path / 'words.json'}}}"]
    with pytest.raises(ConfigError, match=said) as fault:
        finetune(loaded("coop", videos, captioned, tmp_path / "run", more=tuple(more)), RECIPE)
    assert len(str(fault.value)) < 600 and len(str(fault.value).splitlines()) <= 2
