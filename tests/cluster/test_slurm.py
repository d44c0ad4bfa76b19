"""`sbatch launchers/slurm.sbatch` on a real SLURM of two hosts: runs, is preempted, reaches its time limit, finishes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.slurm import Slurm
from launching import ROOT, cpu_environment, losses, processes_of
from nightly_record import record
from shrinking import RECIPE

pytestmark = [pytest.mark.launch, pytest.mark.nightly]
#: Enough to be finished neither by the first interruption nor by the second: at least a minute.
STEPS = 600


def wait_for(log: Path, text: str, times: int, seconds: float) -> None:
    """Until ``log`` holds ``text`` so often."""
    deadline = time.monotonic() + seconds
    while not log.exists() or log.read_text(errors="replace").count(text) < times:
        assert time.monotonic() < deadline, f"no {times} x '{text}' in {log.read_text()[-4000:] if log.exists() else 'no log'}"
        time.sleep(0.3)


def test_a_job_is_preempted_reaches_its_limit_and_finishes(cluster: Slurm, shrunk: list[str], tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "slurm.log"
    options = ["--nodes=2", "--time=30", f"--output={log}", "--parsable"]
    training = ["--processes", "1", "distill", RECIPE, *shrunk, f"schedule.steps={STEPS}", "run.save_every_steps=20"]
    script = [str(ROOT / "launchers" / "slurm.sbatch"), *training, f"run.output={run}"]
    began = time.monotonic()
    job = cluster.run("sbatch", *options, *script, environment=cpu_environment(), folder=ROOT).strip()
    wait_for(log, "launch: attempt 1 on mvd-a, mvd-b", 1, 60)
    while not (run / "checkpoints" / "latest").exists():
        assert time.monotonic() - began < 150, log.read_text()[-4000:]
        time.sleep(0.3)
    cluster.run("scontrol", "requeue", job)
    wait_for(log, "resuming from the checkpoint of step", 1, 150)
    # Less than the 5 minutes of the script's --signal are left now; SLURM looks twice a minute.
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    wait_for(log, f"requeueing SLURM job {job}", 1, 150)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    wait_for(log, "resuming from the checkpoint of step", 2, 150)
    wait_for(log, "finished at step", 1, 400)
    said = log.read_text()
    assert "SIGUSR1: asked all ranks to save and end" in said
    assert len(losses(run)) == STEPS, "every step once, over all starts"
    while cluster.state(job)["JobState"] != "COMPLETED":
        assert time.monotonic() - began < 580
        time.sleep(0.5)
    assert not processes_of(run)
    restarts = int(cluster.state(job)["Restarts"])
    assert restarts >= 2
    record("slurm", "preempted and at its time limit", {"restarts": restarts, "seconds": round(time.monotonic() - began)})


def test_an_array_trains_a_run_for_each_seed(cluster: Slurm, shrunk: list[str], two_processes: Path, tmp_path: Path) -> None:
    runs = [tmp_path / f"run-{seed}" for seed in (0, 1)]
    options = ["--array=0-1%1", f"--output={tmp_path}/slurm-%a.log", "--parsable"]
    training = ["--processes", "2", "distill", RECIPE, *shrunk, "run.seed={seed}", f"run.output={tmp_path}/run-{{seed}}"]
    script = [str(ROOT / "launchers" / "slurm.sbatch"), *training]
    cluster.run("sbatch", *options, *script, environment=cpu_environment(), folder=ROOT)
    for seed in (0, 1):
        wait_for(tmp_path / f"slurm-{seed}.log", "finished at step 20", 1, 200)
    assert losses(runs[0]) == losses(two_processes) != losses(runs[1])


def test_the_job_equals_one_host(cluster: Slurm, shrunk: list[str], two_processes: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "slurm.log"
    training = ["--processes", "1", "distill", RECIPE, *shrunk, f"run.output={run}"]
    options = ["--nodes=2", f"--output={log}"]
    script = [str(ROOT / "launchers" / "slurm.sbatch"), *training]
    cluster.run("sbatch", *options, *script, environment=cpu_environment(), folder=ROOT)
    wait_for(log, "finished at step 20", 1, 200)
    assert losses(run) == losses(two_processes)
