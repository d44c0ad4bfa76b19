"""The report's table of memory holds what a run measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mvd_ds.tools.report.memory_table import memory_section
from mvd_ds.tools.report.run_records import read_runs


def test_parts_and_peaks_of_a_run_stand_in_the_table(tmp_path: Path, training_run: Callable[..., Path]) -> None:
    run = training_run(tmp_path / "run")
    assert memory_section(read_runs([run])) is None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0] |= {"memory/build_weights_gib": 1.125, "memory/step_weights_gib": 1.25, "memory/step_teacher_video_gib": 0.5}
    lines[1] |= {"memory/step_peak_gib": 12.34, "memory/step_data_gib": 0.125, "memory/save_peak_gib": 9.876}
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    section = str(memory_section(read_runs([run])))
    told = ["build", "step", "save", "weights that are trained", "1.125", "1.250", "teacher video", "0.500", "batches", "0.125"]
    places = [section.index(word) for word in [*told, "peak of the process", "12.3", "9.876"]]
    assert places == sorted(places) and "resume" not in section
