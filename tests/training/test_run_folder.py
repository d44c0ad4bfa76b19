"""The folder of a run: what killed processes leave in it goes, and nothing else."""

from __future__ import annotations

from pathlib import Path

from mvd_ds.training.liveness.run_lock import RunLock
from mvd_ds.training.run_folder import RunFolder

LEFT = [
    "checkpoints/.latest.4711",
    "checkpoints/.latest.4711.partial",
    ".status.json.12",
    "control/heartbeats/.rank-0.json.7.partial",
]
KEPT = ["checkpoints/latest", ".hidden", "checkpoints/.latest", "status.json", ".notes.txt.1", "metrics.jsonl"]


def test_a_start_removes_what_killed_processes_were_writing(tmp_path: Path) -> None:
    for name in LEFT + KEPT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / ".model.partial").mkdir()
    RunLock(RunFolder(tmp_path)).acquire()
    assert [name for name in LEFT if (tmp_path / name).exists()] == []
    assert all((tmp_path / name).exists() for name in KEPT) and (tmp_path / ".model.partial").exists()
