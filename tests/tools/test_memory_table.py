"""The report's table of memory holds what a run measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mvd_ds.tools.memory_table import memory_section
from mvd_ds.tools.records import read_runs


def test_parts_and_peaks_of_a_run_stand_in_the_table(tmp_path: Path, training_run: Callable[..., Path]) -> None:
    run = training_run(tmp_path / "run")
    assert memory_section(read_runs([run])) is None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0] |= {"memory/weights_gib": 1.25, "memory/teacher_video_gib": 0.5, "memory/step_peak_gib": 12.34}
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    section = str(memory_section(read_runs([run])))
    assert section.index("weights that are trained") < section.index("teacher video") < section.index("peak at step")
    assert "1.250" in section and "0.500" in section and "12.3" in section
