"""Probes on real files: every head, the same numbers as before, and comparisons by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mvd_ds
from classifiers import CLIP, SHAPE
from mvd_ds.config import ConfigError, ProbeRecipe, load_recipe
from mvd_ds.runs.probing.probe import probe
from mvd_ds.tools.report.report import write_report


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, CLIP.frames, CLIP.size_px), folder)
    return folder


def recipe(videos: Path, weights: Path, output: Path, *overrides: str) -> ProbeRecipe:
    found = load_recipe(
        "quickstart_probe",
        [
            f"data.manifest={videos / 'train.txt'}",
            f"validation_manifest={videos / 'val.txt'}",
            "data.workers=0",
            *(f"data.clip.{key}={getattr(CLIP, key)}" for key in ("frames", "stride_frames", "size_px")),
            f"models={{a: {{weights: {weights}}}, b: {{weights: {weights}, frames: shuffled}}}}",
            "compare=[[a, pixels]]",
            "regularisations=[0.01]",
            f"run.output={output}",
            *overrides,
        ],
        "probe",
    )
    assert isinstance(found, ProbeRecipe)
    return found


def test_every_head_on_real_files(videos: Path, weights: Path, tmp_path: Path) -> None:
    probe(recipe(videos, weights, tmp_path / "linear"), "x")
    heads = ["heads=[linear, knn, attentive, vqt]", "head={epochs: 2, learning_rates: [1e-3, 1e-2], batch: 16}"]
    compare = "compare=[[a, pixels], ['a:vqt', a], ['a:attentive', 'b:attentive']]"
    probe(recipe(videos, weights, tmp_path / "all", *heads, compare), "x")
    linear, found = (json.loads((tmp_path / name / "probes.json").read_text()) for name in ("linear", "all"))
    assert {name: found["probes"][name] for name in linear["probes"]} == linear["probes"], "other heads change no linear probe"
    assert set(found["probes"]) == {"a", "b", "pixels", *(f"{m}:knn" for m in ("a", "b", "pixels"))} | {
        f"{model}:{head}" for model in ("a", "b") for head in ("attentive", "vqt")
    }
    assert set(found["comparisons"]) == {"a minus pixels", "a:vqt minus a", "a:attentive minus b:attentive"}
    for name, shares in found["probes"].items():
        for label, share in shares.items():
            low, high = found["intervals"][name][label]
            assert 0 <= low <= share <= high <= 1
    with np.load(tmp_path / "all" / "correct.npz") as right:
        assert right["labels"].shape[1] == 2
        assert {name: right[f"{name}/how"].mean() for name in found["probes"]} == pytest.approx(
            {name: shares["how"] for name, shares in found["probes"].items()}
        )
    chosen = found["details"]["a:vqt"]["how"]["learning_rate"]
    assert len(chosen) == 3 and set(chosen) <= {1e-3, 1e-2}
    write_report([tmp_path / "all"], tmp_path / "report")
    assert "a:attentive" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["heads=[]"], "heads: give at least one, and each once"),
        (["heads=[linear, linear]"], "heads: give at least one, and each once"),
        (["compare=[['a:vqt', a]]"], "compare names 'a:vqt', which is not among a, b, pixels"),
        (["pooling=median"], "pooling.kind 'median': Input should be 'mean', 'cls', 'max', 'gem', 'ggem' or 'attention'"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(videos: Path, weights: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe(videos, weights, Path("x"), *overrides)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_pooling_that_the_encoder_lacks_is_one_line(videos: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pooling cls: this encoder has no class token"):
        probe(recipe(videos, weights, tmp_path / "run", "pooling=cls"), "x")


def test_labels_that_are_no_classes(videos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(path.name for path in (videos / "val").glob("*.mp4"))
    (tmp_path / "list.txt").write_text("".join(f"{videos}/val/{name} 0 -1\n" for name in names))
    own = [f"data.manifest={tmp_path / 'list.txt'}", "validation_manifest=null", "compare=[]"]
    with pytest.raises(ConfigError, match=r"list.txt: label label_1 shows a single class"):
        probe(recipe(videos, weights, tmp_path / "required", *own), "x")
    probe(recipe(videos, weights, tmp_path / "optional", *own, "labels=optional"), "x")
    assert json.loads((tmp_path / "optional" / "probes.json").read_text())["probes"] == {}
    said = capsys.readouterr().out
    assert "not probed: " in said and "label -1 is outside 0 to 99999" in said and "nothing to probe" in said


def test_a_model_that_was_trained_further_is_probed_anew(
    videos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, settings = tmp_path / "model", ("heads=[knn]", "compare=[]")
    shutil.copytree(weights, model)
    probe(recipe(videos, model, tmp_path / "run", *settings), "x")
    probe(recipe(videos, model, tmp_path / "run", *settings), "x")
    assert "is finished; nothing to do" in capsys.readouterr().out
    shutil.rmtree(model)
    mvd_ds.save(mvd_ds.build_encoder(SHAPE, CLIP.frames, CLIP.size_px, seed=1), model)
    probe(recipe(videos, model, tmp_path / "run", *settings), "x")
    assert "models.a.weights, models.b.weights had other contents then" in capsys.readouterr().out
    probe(recipe(videos, model, tmp_path / "fresh", *settings), "x")
    again, fresh = (json.loads((tmp_path / name / "probes.json").read_text()) for name in ("run", "fresh"))
    assert again == fresh
