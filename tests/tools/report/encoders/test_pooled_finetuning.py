"""Fine-tuned runs of several networks, labels and seeds as one result, with numbers that can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvd_ds.tools.report.encoders.pooled_finetuning import merge_finetuned
from mvd_ds.tools.report.report import write_report
from mvd_ds.tools.report.run_records import read_runs

VIDEOS = 200
LABELS = {"what": [video % 10 for video in range(VIDEOS)], "how": [video % 8 for video in range(VIDEOS)]}


def run(folder: Path, network: str, label: str, seed: int, right: int, **recipe: Any) -> Path:
    """A fine-tuned run in the layout of the experiments: the first ``right`` videos are classified rightly."""
    path = folder / f"seed-{seed}" / f"{network}-{label}"
    path.mkdir(parents=True)
    settings = {"objective": "classification", "label": label, "weights": f"{network}-{seed}", "run": {"seed": seed}, **recipe}
    (path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    labels = LABELS[label]
    predicted = [true if video < right else (true + 1) % 8 for video, true in enumerate(labels)]
    found = {"step": 9, "top1": right / VIDEOS, "top5": 1.0, "samples": VIDEOS, "label": labels, "predicted": predicted}
    (path / "validation.json").write_text(json.dumps(found))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    shares = {("both", "what"): (120, 140), ("both", "how"): (60, 60), ("one", "what"): (80, 100), ("one", "how"): (60, 60)}
    return [run(tmp_path, network, label, seed, rights[seed]) for (network, label), rights in shares.items() for seed in (0, 1)]


def test_networks_labels_and_seeds_are_one_table(runs: list[Path]) -> None:
    found = merge_finetuned(read_runs(runs), ["both minus one", "both minus absent"])
    assert found is not None and len(found.runs) == len(runs)
    results = found.results
    assert results.probes == {"both": pytest.approx({"what": 0.65, "how": 0.3}), "one": pytest.approx({"what": 0.45, "how": 0.3})}
    assert results.details["both"]["what"].per_seed == pytest.approx([0.6, 0.7])
    assert results.chance == pytest.approx({"what": 0.1, "how": 0.125}) and results.trainings == 2
    assert list(results.comparisons) == ["both minus one"]
    gain = results.comparisons["both minus one"]["what"]
    assert gain.difference == pytest.approx(0.2) and gain.low > 0.1 and gain.verdict() == "beats"
    assert results.comparisons["both minus one"]["how"].verdict() is None


def test_the_page_and_the_figures_have_it_first(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["finetuned"]["probes"]["one"]["what"] == pytest.approx(0.45)
    page = (tmp_path / "out" / "report.html").read_text().replace("\u00a0", " ")
    assert "Each network was trained whole on each label" in page and "over 2 training seeds and the held-out clips" in page
    assert "Fine-tuned: " in page and "Labels “what” and “how”" in page


def test_what_is_no_such_table_stays_apart(runs: list[Path], tmp_path: Path) -> None:
    other = run(tmp_path / "other", "one", "what", 2, 50)
    longer = [run(tmp_path / "longer", "two", label, seed, 50, schedule={"epochs": 9}) for label in LABELS for seed in (0, 1)]
    for odd in ([*runs, other], [*runs, *longer], runs[:4], runs[:-1]):
        assert merge_finetuned(read_runs(odd), []) is None
