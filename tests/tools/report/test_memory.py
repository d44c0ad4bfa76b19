"""The report's table of memory holds what runs measured, in one table with its unit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mvd_ds.tools.report.memory import memory_table
from mvd_ds.tools.report.run_records import read_runs


def test_parts_and_peaks_of_all_runs_stand_in_one_table(tmp_path: Path, training_run: Callable[..., Path]) -> None:
    runs = [training_run(tmp_path / name) for name in ("a", "b", "c")]
    assert memory_table(read_runs(runs)) is None
    more = [
        {"memory/build_weights_gib": 1.125, "memory/step_weights_gib": 1.25, "memory/step_teacher_video_gib": 0.5},
        {"memory/step_peak_gib": 12.34, "memory/step_data_gib": 0.125, "memory/save_peak_gib": 9.876},
    ]
    for run, measured in ((runs[0], more), (runs[1], [{}, {"memory/step_weights_gib": 2.0}])):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line, values in zip(lines, measured, strict=False):
            line.update(values)
        (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    table = memory_table(read_runs(runs))
    assert table is not None and table.head == ["part", "a (GiB)", "b (GiB)"]
    found = [(row.name, *(cell.text for cell in row.cells)) for row in table.rows]
    assert found == [
        ("trained weights (shards under ZeRO-3)", "1.250", "2.000"),
        ("teacher video", "0.500", ""),
        ("batches", "0.125", ""),
        ("peak while training", "12.3", ""),
        ("peak while a checkpoint is written", "9.876", ""),
    ]
    assert [row.kind for row in table.rows] == ["", "", "", "group", ""]
