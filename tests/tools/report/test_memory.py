"""The report's table of memory holds what runs measured, in one table with its unit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mvd_ds.tools.report.memory import memory_table
from mvd_ds.tools.report.report import write_report
from mvd_ds.tools.report.run_records import read_runs


def with_metrics(run: Path, measured: list[dict[str, float]]) -> Path:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line, values in zip(lines, measured, strict=False):
        line.update(values)
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return run


def test_parts_and_peaks_of_all_runs_stand_in_one_table(tmp_path: Path, training_run: Callable[..., Path]) -> None:
    runs = [training_run(tmp_path / name) for name in ("a", "b", "c")]
    assert memory_table(read_runs(runs)) is None
    more = [
        {"memory/build_weights_gib": 1.125, "memory/step_weights_gib": 1.25, "memory/step_teacher_video_gib": 0.5},
        {"memory/step_peak_gib": 12.34, "memory/step_data_gib": 0.125, "memory/save_peak_gib": 9.876},
    ]
    for run, measured in ((runs[0], more), (runs[1], [{}, {"memory/step_weights_gib": 2.0}])):
        with_metrics(run, measured)
    table = memory_table(read_runs(runs))
    assert table is not None and table.head == ["part", "a (GiB)", "b (GiB)"]
    found = [(row.name, *(cell.text for cell in row.cells)) for row in table.rows]
    assert found == [
        ("trained weights (shards under ZeRO-3)", "1.25", "2.00"),
        ("teacher video", "0.50", ""),
        ("batches", "0.12", ""),
        ("peak while training", "12.3", ""),
        ("peak while a checkpoint is written", "9.88", ""),
    ]
    assert [row.kind for row in table.rows] == ["", "", "", "group", ""]


def test_small_runs_have_mib_and_one_unit_a_table(tmp_path: Path, training_run: Callable[..., Path]) -> None:
    measured = {"memory/step_weights_gib": 0.003, "memory/step_data_gib": 0.25, "memory/step_peak_gib": 1.5}
    small = with_metrics(training_run(tmp_path / "a"), [measured | {"memory/peak_gib": 0.75}] * 99)
    table = memory_table(read_runs([small]))
    assert table is not None and table.head == ["part", "a (MiB)"]
    assert [row.cells[0].text for row in table.rows] == ["3.07", "256", "1,536"], "a peak above 1 GiB keeps the table's unit"
    large = with_metrics(training_run(tmp_path / "b"), [{"memory/step_weights_gib": 2.5, "memory/peak_gib": 8.0}] * 99)
    both = memory_table(read_runs([small, large]))
    assert both is not None and both.head == ["part", "a (GiB)", "b (GiB)"]
    for runs, unit, peak in (([small], "MiB", "768"), ([small, large], "GiB", "0.75")):
        write_report(runs, tmp_path / "out")
        page = (tmp_path / "out" / "report.html").read_text()
        assert f'<td data-label="peak memory ({unit})"><span>{peak}</span>' in page
