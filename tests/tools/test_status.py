"""Where a run stands, from its folder alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvd_ds.cli import main
from mvd_ds.files import write_json
from mvd_ds.training.liveness.heartbeat import Heartbeat
from mvd_ds.training.liveness.process import ProcessName
from mvd_ds.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


def write_status(run: Path, state: str, **more: object) -> None:
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "status.json", {"state": state, "attempts": 2, "step": 30, "last_step": 90, "seconds": 61.0, **more})


def beat(run: Path, process: ProcessName | None = None, ended: str | None = None) -> None:
    heartbeat = Heartbeat(RunFolder(run), rank=1, attempt=2)
    heartbeat.at("waiting for a batch", step=31)
    if process is not None:
        heartbeat.beat.process = process
    heartbeat.beat.ended = ended
    heartbeat.write()


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("stopped", 0), ("preempted", 75), ("failed", 1)])
def test_an_end_has_its_exit_code(state: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_status(tmp_path, state, reason="because")
    assert main(["status", str(tmp_path)]) == code
    assert f"{state}: because (step 30 of 90, attempt 2, 1:01 in all)" in capsys.readouterr().out


def test_a_living_run_still_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The step is the one that a rank is in, the time goes on between two saves."""
    write_status(tmp_path, "running")
    os.utime(tmp_path / "status.json", (time.time() - 240, time.time() - 240))
    beat(tmp_path)
    assert main(["status", str(tmp_path)]) == 3
    said = capsys.readouterr().out
    assert "running step 31 of 90 (step 30 is saved, attempt 2, 5:0" in said and "waiting for a batch in step 31" in said
    assert f"rank 1 (process {os.getpid()} on" in said
    write_status(tmp_path, "running", step=0)
    assert main(["status", str(tmp_path)]) == 3 and "nothing is saved yet" in capsys.readouterr().out


def test_epochs_of_each_source_are_those_of_the_newest_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_status(tmp_path, "finished")
    lines = ['{"step": 1, "data/epochs_a": 0.1, "data/epochs_b": 1}', '{"step": 2, "data/epochs_a": 0.25, "data/epochs_b": 2}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 2, "memory": 1}', '{"st']))
    assert main(["status", str(tmp_path)]) == 0
    assert "epochs of each source: a 0.25, b 2.00" in capsys.readouterr().out
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main(["status", str(tmp_path)]) == 0 and "epochs of each" not in capsys.readouterr().out


def test_a_killed_run_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = ProcessName.of(killed.pid)
    assert name.is_alive()
    killed.kill()
    while name.is_alive():  # a zombie until it is waited for, which counts as dead
        pass
    write_status(tmp_path, "running")
    beat(tmp_path, name)
    assert main(["status", str(tmp_path)]) == 1
    assert "ended without a reason" in (said := capsys.readouterr().out) and "waiting for a batch in step 31" in said
    killed.wait()


def test_another_process_of_the_same_number_is_another(tmp_path: Path) -> None:
    here = ProcessName.of(os.getpid())
    assert here.is_alive() and here.model_copy(update={"born": here.born - 1}).is_alive() is False
    assert here.model_copy(update={"machine": "another boot"}).is_alive() is None


@pytest.mark.parametrize(
    "text", [None, "", "[]", '{"state": "finished"}', '{"state": 3, "attempts": 1, "step": 1, "last_step": 1}']
)
def test_no_run_is_a_failure_in_one_line(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    assert main(["status", str(tmp_path)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_folder_of_runs_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b", "a"):
        write_status(tmp_path / name, "finished")
    assert main(["status", str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith(f"no run has begun here; runs are in {tmp_path}/a, {tmp_path}/b\n")


def test_status_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from mvd_ds.cli import main; main(['status', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
