"""Networks that tell several classes of a video, or a real number: trained, tested and asked on real files, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, r2_score

import mvd_ds
from launching import launch, metrics
from mvd_ds.config import ConfigError, EvaluateRecipe, FinetuneRecipe, load_recipe
from mvd_ds.evaluation.csv_files import read_csv
from mvd_ds.models.classifiers.classifier_folder import open_classifier
from mvd_ds.runs.evaluate import evaluate
from mvd_ds.runs.finetune import card_of, finetune, read_labelled
from mvd_ds.tools.classify import classify
from mvd_ds.tools.convert import convert
from mvd_ds.tools.report.evaluation_page import write_evaluation_page
from mvd_ds.tools.report.report import write_report
from video_files import write_video

SMALL = [
    *("model.size=null", "model.embed_dim=64", "model.depth=1", "model.num_heads=2", "model.patch_px=8"),
    *("data.clip.frames=4", "data.clip.size_px=16", "data.clip.stride_frames=1", "data.workers=0", "data.clips_per_video=1"),
    *("batch.micro=4", "batch.global=4", "schedule.epochs=2", "schedule.warmup_epochs=0", "engine.precision=fp32"),
    *("weights=null", "run.device=cpu", "validation.batch=2", "validation.share=0"),
]
SETS = ["0,2", "1", "-", "0,1,2", "2", "1,2", "0", "0,1"]
REALS = ["0.5", "1e1", "-3", "2.25", "7", "0", "4.5", "1.5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos, and a list of them for each task; one more file is broken."""
    place = tmp_path_factory.mktemp("tasks")
    for number in range(8):
        write_video(place / f"{number}.mp4", frames=8, width=32, height=24, seed=number)
    (place / "broken.mp4").write_bytes(b"no video")
    for name, labels in (("sets", SETS), ("reals", REALS)):
        lines = [f"{number}.mp4 {label}" for number, label in enumerate(labels)]
        (place / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (place / "sets_val.txt").write_text((place / "sets.txt").read_text() + "broken.mp4 1\n")
    (place / "reals_val.txt").write_text((place / "reals.txt").read_text() + "broken.mp4 100\n")
    return place


def recipe(folder: Path, name: str, task: str, *more: str) -> FinetuneRecipe:
    manifests = [f"data.manifest={folder / name}.txt", f"validation.manifest={folder / name}_val.txt"]
    mix = [] if task == "multilabel" else ["augmentation.mix=null"]
    found = load_recipe("finetune_folder", [*SMALL, *manifests, *mix, f"task={task}", *more], "finetune")
    assert isinstance(found, FinetuneRecipe)
    return found


def trained(folder: Path, name: str, task: str, run: str) -> Path:
    """The run of a network that was trained in one go in this process."""
    assert finetune(recipe(folder, name, task, f"run.output={folder / run}"), run) == 0
    return folder / run


@pytest.fixture(scope="module")
def several(folder: Path) -> Path:
    return trained(folder, "sets", "multilabel", "several")


@pytest.fixture(scope="module")
def real(folder: Path) -> Path:
    return trained(folder, "reals", "regression", "real")


def result_of(folder: Path, name: str, run: str) -> tuple[dict[str, object], list[dict[str, str]]]:
    """The figures and the answers of a test of a run's network, 2 views of every video."""
    settings = [f"weights={folder / run / 'model'}", f"data.manifest={folder / name}_val.txt", "views.crops=1", "data.workers=0"]
    settings.append("data.clip.sampling=window")  # as the network was trained
    found = load_recipe("evaluate_2x3", [*settings, f"run.output={folder / run}_test", "bootstrap_draws=50", "run.device=cpu"])
    assert isinstance(found, EvaluateRecipe)
    out = evaluate(found, "test")
    write_evaluation_page(out)
    return json.loads((out / "evaluation.json").read_text()), read_csv(out / "predictions.csv")


def test_several_classes_are_learnt_tested_and_told(folder: Path, several: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = several
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = json.loads((run / "validation.json").read_text())
    assert told["task"] == "multilabel" and told["samples"] == 9 and told["predicted"][8] is None
    assert [line["val/map"] for line in logged if "val/map" in line][-1] == pytest.approx(told["map"])
    assert any("loss/multilabel" in line for line in logged)
    assert json.loads((run / "best" / "config.json").read_text())["task"] == "multilabel"

    results, rows = result_of(folder, "sets", "several")
    truth = np.array([[str(c) in label.split(",") for c in range(3)] for label in [*SETS, "1"]])
    scores = np.array([[float(row[str(c)] or 0) for c in range(3)] for row in rows])
    assert [row["labels"] for row in rows] == [*SETS, "1"] and rows[8]["readable"] == "0"
    wanted = [average_precision_score(truth[:, c], scores[:, c]) for c in range(3)]
    assert [row["ap"] for row in results["per_class"]] == pytest.approx(wanted, abs=1e-6)  # type: ignore[attr-defined]
    assert results["map"] == pytest.approx(np.mean(wanted), abs=1e-6) and results["unreadable"] == 1
    low, high = results["intervals"]["map"]  # type: ignore[index]
    assert 0 <= low <= results["map"] <= high <= 1
    assert "mean average precision" in (folder / "several_test" / "evaluation.html").read_text()

    model = mvd_ds.VideoClassifier(run / "model")
    assert scores[0] == pytest.approx(model.probabilities(folder / "0.mp4", segments=2).numpy(), abs=2e-6)
    classify(str(run / "model"), [folder / "0.mp4"], 3, 2, 1, "cpu")
    assert capfd.readouterr().out.count(" %  ") == 3
    with pytest.raises(ConfigError, match="take classify"):
        model.value(folder / "0.mp4")
    with pytest.raises(ConfigError, match="tells of task multilabel, which no other format says"):
        convert(run / "model", folder / "out", "videomae_finetuned")


def test_a_real_number_is_learnt_tested_and_told_in_its_own_units(
    folder: Path, real: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, wanted = real, np.array(REALS, float)
    told = json.loads((run / "validation.json").read_text())
    assert told["predicted"][8] is None and told["mae"] < 100 and {"spearman", "r2"} <= set(told)
    _, card = open_classifier(run / "model")
    assert card.scale == pytest.approx((wanted.mean(), wanted.std())) and card.classes == ("label",)

    results, rows = result_of(folder, "reals", "real")
    answers = np.array([float(row["answer"]) for row in rows[:8]])
    assert results["mae"] == pytest.approx(np.abs(answers - wanted).mean(), rel=1e-4) and rows[8]["answer"] == ""
    assert results["spearman"] == pytest.approx(spearmanr(answers, wanted).statistic, abs=1e-6)
    assert results["r2"] == pytest.approx(r2_score(wanted, answers), rel=1e-3)
    assert results["unreadable"] == 1 and results["mae_of_training_mean"] == pytest.approx(np.abs(wanted - wanted.mean()).mean())
    assert "left out" in (folder / "real_test" / "evaluation.html").read_text()

    value = mvd_ds.VideoClassifier(run / "model").value(folder / "3.mp4", segments=2)
    assert value == pytest.approx(answers[3], rel=1e-4)
    classify(str(run / "model"), [folder / "3.mp4"], 3, 2, 1, "cpu")
    assert f"label {value:.6g}" in capfd.readouterr().out
    kept = recipe(
        folder, "reals", "regression", f"weights={run / 'model'}", "keep_head=true", f"data.manifest={folder}/sets_val.txt"
    )
    with pytest.raises(ConfigError, match=r"sets_val.txt:1: label '0,2' is no real number"):
        read_labelled(kept)


def test_an_interrupted_training_ends_as_an_untouched_one(folder: Path, several: Path, real: Path) -> None:
    for name, task, untouched in (("sets", "multilabel", several), ("reals", "regression", real)):
        run = folder / f"{name}_resumed"
        for more in (["run.stop_after_steps=3"], []):
            finetune(recipe(folder, name, task, f"run.output={run}", *more), name)
        assert (run / "validation.json").read_text() == (untouched / "validation.json").read_text()
        ours, theirs = (load_file(place / "model" / "model.safetensors") for place in (run, untouched))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.launch
def test_two_processes_learn_and_measure_what_one_does(folder: Path, several: Path) -> None:
    run, alone = folder / "several_of_two", several
    manifests = [f"data.manifest={folder}/sets.txt", f"validation.manifest={folder}/sets_val.txt", "task=multilabel"]
    small = [setting for setting in SMALL if not setting.startswith("batch.micro")]
    launch(2, "finetune", "finetune_folder", *small, *manifests, "batch.micro=2", f"run.output={run}")
    mine, his = ([line["loss/multilabel"] for line in metrics(place) if "loss/multilabel" in line] for place in (run, alone))
    assert len(mine) == 2 and mine == pytest.approx(his, rel=1e-4)
    ours, theirs = (json.loads((place / "validation.json").read_text()) for place in (run, alone))
    assert ours["map"] == pytest.approx(theirs["map"], abs=0.02) and ours["label"] == theirs["label"]
    assert ours["samples"] == theirs["samples"] == 9 and ours["predicted"][8] is None


def test_the_report_shows_both_beside_each_other(folder: Path, several: Path, real: Path, tmp_path: Path) -> None:
    for name, run in (("sets", several), ("reals", real)):
        result_of(folder, name, run.name)
    write_report([several, folder / "several_test", real, folder / "real_test"], tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "Several classes and real numbers" in text and "binary cross-entropy" in text


def test_held_out_shares_are_listed_as_they_are_written(folder: Path, tmp_path: Path) -> None:
    for name, task in (("sets", "multilabel"), ("reals", "regression")):
        found = read_labelled(recipe(folder, name, task, "validation.manifest=null", "validation.share=0.25"))
        assert found.held_out is not None and len(found.held_out.labels) == 2 and len(found.labels) == 6
        again = tmp_path / f"{name}.txt"
        again.write_bytes(found.held_out.listing)
        listed = read_labelled(recipe(folder, name, task, f"validation.manifest={again}"))
        assert listed.held_out is not None
        assert np.array_equal(listed.held_out.labels, found.held_out.labels)
        if task == "regression":
            assert card_of(recipe(folder, name, task), found).scale == pytest.approx((found.labels.mean(), found.labels.std()))


@pytest.mark.parametrize(
    ("text", "task", "told"),
    [
        ("0.mp4 1\n1.mp4 0.5\n", "classes", r"list.txt:2: label '0.5' is a real number, where one class is wanted; .*regression"),
        ("0.mp4 1\n1.mp4 0,1\n", "classes", r"list.txt:2: label '0,1' is several classes, .*task=multilabel"),
        ("0.mp4 1\n1.mp4 0.5\n", "multilabel", r"list.txt:2: label '0.5' is not a list of classes, such as 3,7,12"),
        ("0.mp4 1\n1.mp4 0,0\n", "multilabel", r"list.txt:2: label '0,0' names class 0 twice"),
        ("0.mp4 0,3\n1.mp4 1\n", "multilabel", r"1 of 4 classes have no video: 2; number classes from 0"),
        ('# classes: ["a", "b"]\n0.mp4 0\n1.mp4 0,2\n', "multilabel", r"list.txt:3: class 2 is outside 0 to 1 \(2 classes\)"),
        ("0.mp4 0.1\n1.mp4 nan\n", "regression", r"list.txt:2: label 'nan' is none: a label is a class"),
        ("0.mp4 0.1\n1.mp4\n", "regression", r"list.txt:2: 0 labels, but 1 in line 1"),
        ("0.mp4 0.1\n1.mp4 1e999\n", "regression", r"list.txt:2: label '1e999' is none"),
        ("0.mp4 0.1\n1.mp4 0,1\n", "regression", r"list.txt:2: label '0,1' is no real number"),
    ],
)
def test_a_wrong_label_is_one_line(folder: Path, text: str, task: str, told: str) -> None:
    (folder / "list.txt").write_text(text)
    with pytest.raises(ConfigError, match=told) as error:
        read_labelled(recipe(folder, "list", task, "validation.manifest=null"))
    assert "\n" not in str(error.value)


def test_all_equal_numbers_are_nothing_to_learn(folder: Path) -> None:
    (folder / "list.txt").write_text("0.mp4 2\n1.mp4 2.0\n")
    found = recipe(folder, "list", "regression", "validation.manifest=null")
    with pytest.raises(ConfigError, match="are all 2; there is nothing to learn"):
        card_of(found, read_labelled(found))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["task=regression", "label_smoothing=0.1", "augmentation.mix=null"], "label_smoothing 0.1 is for classes"),
        (["task=regression"], "augmentation.mix blends classes, not real numbers"),
        (["task=multilabel", "teacher.weights=x"], "leave it out with task multilabel"),
        (["regression_loss=mse"], "regression_loss mse is for task regression, not classes"),
    ],
)
def test_settings_of_another_task_are_refused(more: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_recipe("finetune_folder", [*SMALL, *more], "finetune")
