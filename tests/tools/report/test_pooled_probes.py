"""Probes of several training seeds as one result, with numbers that can be checked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mvd_ds.config import ConfigError
from mvd_ds.tools.report.pooled_probes import merge_probes
from mvd_ds.tools.report.report import write_report
from mvd_ds.tools.report.run_records import read_runs

Build = Callable[..., Path]
CLIPS = 400
LABELS = np.stack([np.arange(CLIPS) % 10, np.arange(CLIPS) % 8], axis=1)


def seed_run(build: Build, folder: Path, seed: int, right: dict[str, float], **recipe: Any) -> Path:
    """A probe run in which a model gets the first ``right`` of all clips right, in two probe seeds; on *how* half as many."""
    run = build(folder)
    models = {model: {"weights": f"seed-{seed}/{model}"} for model in right}
    settings = {"objective": "probe", "models": models, "run": {"seed": seed, "output": str(folder)}, **recipe}
    (run / "recipe.yaml").write_text(yaml.safe_dump(settings))
    tables = {}
    for model, share in right.items():
        for label, part in (("what", share), ("how", share / 2)):
            tables[f"{model}/{label}"] = np.stack([np.arange(CLIPS) < part * CLIPS] * 2)
    np.savez(run / "correct.npz", labels=LABELS, **tables)
    return run


def test_seeds_of_one_experiment_are_pooled(tmp_path: Path, probe_run: Build, capsys: pytest.CaptureFixture[str]) -> None:
    shares = [{"student": 0.5, "untrained": 0.3}, {"student": 0.7, "untrained": 0.3}]
    runs = [seed_run(probe_run, tmp_path / str(seed), seed, right) for seed, right in enumerate(shares)]
    write_report(runs, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["trainings"] == 2
    assert found["probes"]["student"] == pytest.approx({"what": 0.6, "how": 0.3})
    assert found["details"]["student"]["what"]["per_seed"] == pytest.approx([0.5, 0.7])
    gain = found["comparisons"]["student minus untrained"]["what"]
    assert gain["difference"] == pytest.approx(0.3) and (gain["clips"], gain["seeds"]) == (CLIPS, 2)
    low, high = found["intervals"]["student"]["what"]
    # Two seeds 0.2 apart: a quarter of the resamples hold the lower one alone, a quarter the higher one.
    assert low == pytest.approx(0.46, abs=0.03) and high == pytest.approx(0.74, abs=0.03)
    low, high = found["intervals"]["untrained"]["what"]
    assert 0.3 - low == pytest.approx(1.96 * (0.3 * 0.7 / CLIPS) ** 0.5, rel=0.15), "seeds that agree leave the clips' own spread"
    said = capsys.readouterr().out
    assert "student minus untrained" in said and "60.0 (" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "over 2 training seeds and the held-out clips" in page.replace("\u00a0", " ")


def test_other_experiments_stay_apart(tmp_path: Path, probe_run: Build) -> None:
    right = {"student": 0.5, "untrained": 0.3}
    first = seed_run(probe_run, tmp_path / "a", 0, right)
    same_seed = seed_run(probe_run, tmp_path / "b", 0, right)
    other_probe = seed_run(probe_run, tmp_path / "c", 1, right, pooling={"kind": "max"})
    without = probe_run(tmp_path / "d")
    for other in (same_seed, other_probe, without):
        merged = merge_probes(read_runs([first, other]))
        assert "a/student" in merged.probes and merged.trainings == 1
    second = seed_run(probe_run, tmp_path / "e", 1, right)
    np.savez(second / "correct.npz", labels=LABELS[::-1])
    assert "a/student" in merge_probes(read_runs([first, second])).probes, "they were not asked about the same clips"


def test_a_file_that_is_damaged_is_one_line(tmp_path: Path, probe_run: Build) -> None:
    right = {"student": 0.5, "untrained": 0.3}
    runs = [seed_run(probe_run, tmp_path / str(seed), seed, right) for seed in (0, 1)]
    (runs[1] / "correct.npz").write_bytes(b"PK nothing")
    with pytest.raises(ConfigError, match=r"correct\.npz: cannot be read: .*start the probe again"):
        merge_probes(read_runs(runs))


def test_other_heads_on_the_same_seeds_share_the_table(tmp_path: Path, probe_run: Build) -> None:
    linear, heads = {"student": 0.5, "untrained": 0.3}, {"student:attentive": 0.6, "untrained:attentive": 0.2}
    runs = [seed_run(probe_run, tmp_path / f"linear-{seed}", seed, linear) for seed in (0, 1)]
    for seed in (0, 1):
        run = seed_run(probe_run, tmp_path / f"attentive-{seed}", seed, heads, heads=["attentive"])
        stated = json.loads((run / "probes.json").read_text())
        stated |= {"probes": {name: {"what": share, "how": share / 2} for name, share in heads.items()}, "comparisons": {}}
        (run / "probes.json").write_text(json.dumps(stated))
        runs.append(run)
    merged = merge_probes(read_runs(runs))
    assert list(merged.probes) == ["student", "untrained", "student:attentive", "untrained:attentive"]
    assert merged.trainings == 2 and merged.probes["student:attentive"]["how"] == pytest.approx(0.3)
