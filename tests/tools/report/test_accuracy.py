"""Accuracy of fine-tuned and of evaluated classifiers stands in the report, and stale figures do not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvd_ds.config import load_recipe
from mvd_ds.tools.report.formatting import MISSING
from mvd_ds.tools.report.report import write_report
from mvd_ds.training.contents import contents_of
from mvd_ds.training.run_folder import RunFolder

Build = Callable[..., Path]


def report(runs: list[Path], output: Path) -> tuple[dict[str, Any], str]:
    write_report(runs, output)
    page = (output / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    return json.loads((output / "report.json").read_text(encoding="utf-8")), page


def finetuned_run(build: Build, folder: Path, accuracies: list[float], samples: int = 200) -> Path:
    """A fine-tuned run that validated every 10 steps; three of four held-out videos are of class 0."""
    run = build(folder, steps=10 * len(accuracies))
    (run / "recipe.yaml").write_text(yaml.safe_dump({"objective": "classification"}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line, top1 in zip(lines, accuracies, strict=True):
        line |= {"val/top1": top1, "val/top5": 1.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    labels = [int(video % 4 == 3) for video in range(samples)]
    values = {"step": 10 * len(accuracies), "top1": accuracies[-1], "top5": 1.0, "samples": samples, "label": labels}
    (run / "validation.json").write_text(json.dumps({**values, "predicted": labels}))
    return run


def evaluation_run(folder: Path, weights: Path, has_digests: bool) -> Path:
    """An evaluation of the classifier ``weights`` on 300 videos."""
    recipe = load_recipe("evaluate_5x3", [f"weights={weights}", "data.manifest=val.txt", f"run.output={folder}"])
    RunFolder(folder).open(recipe, contents_of(recipe))
    if not has_digests:
        RunFolder(folder).contents.unlink()
    results = {"weights": str(weights), "manifest": "val.txt", "top1": 0.127, "top5": 0.5, "samples": 300, "unreadable": 0}
    (folder / "evaluation.json").write_text(json.dumps(results))
    return folder


def accuracy_cells(page: str, name: str) -> list[str]:
    """Top-5, videos and chance of a run's row in the accuracy table."""
    row = re.search(rf"<tr[^>]*>\s*<th[^>]*>{name}</th>(.*?)</tr>", page, re.DOTALL)
    assert row is not None
    return [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row[1], re.DOTALL)][2:]


def write_weights(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_a_fine_tuned_run_says_what_it_learned(tmp_path: Path, training_run: Build) -> None:
    found, page = report([finetuned_run(training_run, tmp_path / "tuned", [0.5, 0.9, 0.81])], tmp_path / "out")
    assert "tuned: 81.0 % of 200 held-out videos are classified right after step 30; the best was 90.0 % after step 20" in page
    assert "always naming the most frequent class gives 75.0 %" in page
    assert "None of these runs measured accuracy" not in page and "too few" not in page
    assert "75.0\N{EN DASH}85.8" in page, "the interval of 81 % on 200 videos"
    assert "Top-1 while training" in page and "validation after step 30" in page
    assert found["validation"]["tuned"] == {"step": 30, "top1": 0.81, "top5": 1.0, "samples": 200}


def test_rows_of_validation_and_evaluation_are_alike(tmp_path: Path, training_run: Build) -> None:
    tuned = finetuned_run(training_run, tmp_path / "tuned", [0.5])
    three, seven = (evaluation_run(tmp_path / name, write_weights(tmp_path / "model", b"w"), True) for name in ("three", "seven"))
    for run, videos in ((three, [150, 90, 60]), (seven, [60, 40, 40, 40, 40, 40, 40])):
        results = json.loads((run / "evaluation.json").read_text())
        results["per_class"] = [{"top1": 0.5, "samples": count} for count in videos]
        (run / "evaluation.json").write_text(json.dumps(results))
    _, page = report([tuned, three, seven], tmp_path / "out")
    assert accuracy_cells(page, "tuned") == [MISSING, "200", "75.0 %"]
    assert accuracy_cells(page, "three") == [MISSING, "300", "50.0 %"]
    assert accuracy_cells(page, "seven") == ["50.0 %", "300", "20.0 %"]


def test_a_ladder_of_adaptations_says_what_it_cost(tmp_path: Path, training_run: Build) -> None:
    """Full fine-tuning alone has no such table; a rung beside it brings one, with both."""
    full, small = (finetuned_run(training_run, tmp_path / name, [0.5]) for name in ("full", "small"))
    assert "What was trained for it" not in report([full], tmp_path / "alone")[1]
    recipe = {"objective": "classification", "adaptation": {"kind": "lora", "rank": 4}}
    recipe["pooling"] = {"kind": "attention", "layers": [0, -1]}
    (small / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (small / "attempts").mkdir(exist_ok=True)
    groups = {"parameter_groups": [{"name": "decay", "parameters": 1200}, {"name": "no_decay", "parameters": 34}]}
    (small / "attempts" / "attempt-001.json").write_text(json.dumps(groups))
    _, page = report([full, small], tmp_path / "both")
    table = page[page.index("What was trained for it") :]
    words = re.sub(r"<[^>]*>", " ", table[: table.index("</table>")])
    assert re.search(r"small\s+lora, rank 4\s+attention of 2 blocks\s+1,234", words), words
    assert re.search(r"full\s+full\s+mean", words), words


def test_few_held_out_videos_are_said_to_be_too_few(tmp_path: Path, training_run: Build, probe_run: Build) -> None:
    runs = [finetuned_run(training_run, tmp_path / "tuned", [0.5, 0.75], 12)]
    runs.append(probe_run(tmp_path / "probe", clips={"train": 40, "held_out": 20}))
    _, page = report(runs, tmp_path / "out")
    assert "tuned: Only 12 held-out videos: each moves a share by 8.3 points." in page
    assert "Only 20 held-out clips: each moves a share by 5.0 points. Fewer than about 50 are too few" in page


def test_names_are_explained(tmp_path: Path, probe_run: Build) -> None:
    run = probe_run(tmp_path / "probe", probes={name: {"what": 0.5} for name in ("student", "untrained", "one_frame", "pixels")})
    models = {
        "student": {"weights": "runs/s/model"},
        "untrained": {"weights": "runs/s/model", "untrained": True, "every_frames": 2},
        "one_frame": {"weights": "runs/s/model", "frames": "first"},
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump({"objective": "probe", "models": models}))
    _, page = report([run], tmp_path / "out")
    for said in (
        "The digit or thing that a clip of the sample set shows, one of 10 classes.",
        "The frozen network runs/s/model.",
        "random initial weights, never trained",
        "It sees every second frame.",
        "only the first frame of each clip",
        "No network: a classifier on the pixels themselves.",
    ):
        assert said in page, said


@pytest.mark.parametrize("has_digests", [True, False])
def test_figures_of_weights_that_changed_are_left_out(tmp_path: Path, has_digests: bool) -> None:
    weights = write_weights(tmp_path / "model", b"first")
    run = evaluation_run(tmp_path / "tested", weights, has_digests)
    found, page = report([run], tmp_path / "before")
    assert "12.7 % of 300 held-out videos" in page and found["changed_inputs"] == {}
    write_weights(weights, b"trained further")
    later = (run / "evaluation.json").stat().st_mtime + 60
    os.utime(weights / "model.safetensors", (later, later))
    found, page = report([run], tmp_path / "after")
    assert "12.7 %" not in page and found["evaluations"] == {}
    assert f"its figures are left out, because weights {weights} has changed since they were measured" in page


def test_weights_of_the_same_digest_are_the_same_whatever_their_time(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "model", b"first")
    run = evaluation_run(tmp_path / "tested", weights, has_digests=True)
    later = (run / "evaluation.json").stat().st_mtime + 3600
    os.utime(weights / "model.safetensors", (later, later))
    assert report([run], tmp_path / "out")[0]["evaluations"]["tested"]["top1"] == 0.127


def test_a_probe_of_weights_that_changed_has_no_table(tmp_path: Path, probe_run: Build) -> None:
    run = probe_run(tmp_path / "probe")
    weights = write_weights(tmp_path / "model", b"first")
    later = (run / "probes.json").stat().st_mtime + 60
    os.utime(weights / "model.safetensors", (later, later))
    (run / "recipe.yaml").write_text(yaml.safe_dump({"objective": "probe", "models": {"student": {"weights": str(weights)}}}))
    found, page = report([run], tmp_path / "out")
    assert found["probes"] == {} and "54.0" not in page and "its figures are left out" in page
