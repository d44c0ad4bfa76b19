"""What an attempt's end is taken for, when another follows, on which hosts, and what is said."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from mvd_ds.config import ConfigError
from mvd_ds.files import write_json, write_text
from mvd_ds.tools.launch import remote, supervisor
from mvd_ds.tools.launch.attempt import Ended
from mvd_ds.tools.launch.hosts import Host
from mvd_ds.tools.launch.judgement import USER_FAULT, Standing, judge
from mvd_ds.tools.launch.launch_options import FIRST_PORT, JOB_VARIABLES, PORTS, LaunchOptions
from mvd_ds.tools.launch.rank_logs import last_words
from mvd_ds.training.run_folder import FAILED, FINISHED, PREEMPTED

RECIPE = "mvd_base_from_base"
OLD = Standing("running", 5, "", "", 1.0)


def standing(state: str, changed: float, reason: str = "") -> Standing:
    return Standing(state, 5, reason, "step-5", changed)


@pytest.mark.parametrize(
    ("code", "after", "survivors", "outcome"),
    [
        (0, standing("finished", 2.0), 0, FINISHED),
        (0, standing("stopped", 2.0), 0, FINISHED),
        (0, standing("finished", 1.0), 0, FINISHED),  # it was finished before; the ranks said so and ended
        (1, standing("finished", 1.0), 0, FAILED),  # another recipe in the folder of a finished run
        (0, standing("finished", 1.0), 4, FAILED),  # killed before it could say anything
        (0, standing("running", 2.0), 2, FAILED),  # a killed launch.py: DeepSpeed says 0
        (0, standing("running", 2.0), 0, FAILED),
        (1, standing("preempted", 2.0), 0, PREEMPTED),  # DeepSpeed turns every code of a terminated node into 1
        (1, standing("preempted", 1.0), 0, FAILED),
        (0, standing("preempted", 2.0, "the launcher (process 7 on a) died"), 3, FAILED),  # nobody asked; start again
        (2, standing("running", 1.0), 0, USER_FAULT),
        (247, standing("running", 2.0), 0, FAILED),
        (-9, standing("none", 1.0), 3, FAILED),
    ],
)
def test_the_run_is_believed_and_not_the_launcher(code: int, after: Standing, survivors: int, outcome: int) -> None:
    assert judge(code, OLD, after, survivors) == outcome


def test_a_standing_is_read_from_what_is_there(tmp_path: Path) -> None:
    assert Standing.of(tmp_path) == Standing("none", 0, "", "", 0.0)
    (tmp_path / "status.json").write_text("{half")
    assert Standing.of(tmp_path).state == "none"
    write_json(tmp_path / "status.json", {"state": "running", "step": 7})
    (tmp_path / "checkpoints").mkdir()
    write_text(tmp_path / "checkpoints" / "latest", "step-6\n")
    found = Standing.of(tmp_path)
    assert (found.state, found.step, found.checkpoint) == ("running", 7, "step-6") and found.changed > 0


def attempts(run: Path, ends: list[tuple[int, str | None]], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Make every attempt end with (exit code, checkpoint it saved); the list fills with the hosts of each."""
    hosts_used: list[list[str]] = []

    class FakeAttempt:
        def __init__(self, start, options, hosts, *_):  # type: ignore[no-untyped-def]
            hosts_used.append([host.name for host in hosts])

        def run(self) -> Ended:
            code, checkpoint = ends[len(hosts_used) - 1]
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_json(run / "status.json", {"state": "finished" if code == 0 else "running", "step": len(hosts_used)})
            os.utime(run / "status.json", (len(hosts_used), len(hosts_used)))
            if checkpoint:
                write_text(run / "checkpoints" / "latest", checkpoint)
            return Ended(code, 0)

    monkeypatch.setattr(supervisor, "LaunchAttempt", FakeAttempt)
    monkeypatch.setattr(supervisor, "end_launch", lambda *_: 0)
    monkeypatch.setattr(supervisor, "_tell_missing", lambda _: FINISHED)
    monkeypatch.setattr(supervisor.shutil, "which", lambda program: f"/usr/bin/{program}")
    return hosts_used


def launch(run: Path, **options: object) -> int:
    given = {"backoff_seconds": 0.0, **options}
    return supervisor.launch(LaunchOptions("distill", RECIPE, ("data.manifest=x", f"run.output={run}"), **given))  # type: ignore[arg-type]


def test_restarts_count_attempts_without_a_new_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = attempts(tmp_path, [(1, "a"), (1, None), (1, "b"), (1, None), (1, None), (0, None)], monkeypatch)
    assert launch(tmp_path, restarts=2) == FAILED and len(used) == 5


def test_a_run_goes_on_while_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = attempts(tmp_path, [(1, "a"), (1, "b"), (1, "c"), (1, None), (0, None)], monkeypatch)
    assert launch(tmp_path, restarts=2) == FINISHED and len(used) == 5
    lines = [json.loads(line) for line in (tmp_path / "launch" / "attempts.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["failed"] * 4 + ["finished"]
    assert [line["attempt"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_fault_of_the_users_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = attempts(tmp_path, [(2, None)], monkeypatch)
    assert launch(tmp_path) == USER_FAULT and len(used) == 1


def test_what_is_missing_is_said_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DeepSpeed's launcher and its ranks take 18 s before they could say so."""
    tell_missing = supervisor._tell_missing
    used = attempts(tmp_path, [(0, None)], monkeypatch)
    monkeypatch.setattr(supervisor, "_tell_missing", tell_missing)
    assert launch(tmp_path) == USER_FAULT and not used and not (tmp_path / "launch").exists()
    assert "launch: missing: data.manifest: x is not there" in capsys.readouterr().err
    write_json(tmp_path / "status.json", {"state": "finished", "step": 3})
    assert launch(tmp_path) == FINISHED and used, "a finished run needs nothing any more"


def test_sick_hosts_are_left_out_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=8\nb slots=8\nc slots=8\nd slots=8\n")
    run = tmp_path / "run"
    used = attempts(run, [(1, None), (1, "x"), (0, None)], monkeypatch)
    sick = iter([{"b": "ECC errors"}, {}])
    monkeypatch.setattr(remote, "sick_hosts", lambda *_: next(sick))
    settings = ("data.manifest=x", f"run.output={run}", "batch.micro=32", "batch.global=1024")
    assert supervisor.launch(LaunchOptions("distill", RECIPE, settings, hostfile=hostfile, backoff_seconds=0)) == FINISHED
    # 1024 clips in forwards of 32 are 32 of them: 24 processes do not divide that, 16 do.
    assert used == [["a", "b", "c", "d"], ["a", "c"], ["a", "b", "c", "d"]]
    said = capsys.readouterr().err
    assert "left out: b (ECC errors)" in said and "idle, because they do not divide batch.global 1024: d" in said


def test_too_few_hosts_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=8\nb slots=8\n")
    used = attempts(tmp_path / "run", [(1, None)], monkeypatch)
    monkeypatch.setattr(remote, "sick_hosts", lambda *_: {"b": "silent"})
    settings = ("data.manifest=x", f"run.output={tmp_path / 'run'}")
    given = LaunchOptions("distill", RECIPE, settings, hostfile=hostfile, backoff_seconds=0, min_hosts=2)
    assert supervisor.launch(given) == FAILED and used == [["a", "b"]]


def test_ports_follow_the_job_and_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    options = LaunchOptions("distill", RECIPE, (), hostfile=Path("x"), node_rank=0)
    with pytest.raises(ConfigError, match="nodes must agree on a port"):
        options.rendezvous_port(1)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    other = LaunchOptions("distill", RECIPE, (), hostfile=Path("x"), node_rank=1)
    ports = [options.rendezvous_port(attempt) for attempt in (1, 2, 3)]
    assert ports == [other.rendezvous_port(attempt) for attempt in (1, 2, 3)]
    assert len(set(ports)) == 3 and all(FIRST_PORT <= port < FIRST_PORT + PORTS <= 32768 for port in ports)
    assert LaunchOptions("distill", RECIPE, (), port=5).rendezvous_port(9) == 5


def test_the_rank_that_failed_first_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "attempt-002"
    texts = {
        0: ("Traceback (most recent call last):\nRuntimeError: Connection closed by peer [10.0.0.2]:4\n", 100),
        1: ("fine\nTraceback (most recent call last):\nValueError: the real reason\n", 105),
        2: ("step 4\n", 90),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for rank, (text, written) in texts.items():
        write_text(folder / f"rank-{rank}.log", text)
        os.utime(folder / f"rank-{rank}.log", (written, written))
    words = last_words(tmp_path, since=80)
    assert words.startswith("rank-1 was the first to fail") and "ValueError: the real reason" in words
    assert last_words(tmp_path, since=200) == ""


def test_slurm_needs_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(ConfigError, match="no SLURM_JOB_NODELIST"):
        launch(tmp_path, slurm=True)


def test_hosts_print_as_lines() -> None:
    assert str(Host("gpu-1", 8)) == "gpu-1 slots=8"


def test_a_taken_port_is_stepped_over_or_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert supervisor.usable_port(taken, changeable=True) != taken
        with pytest.raises(ConfigError, match=f"port {taken} is taken on this host; choose another --port"):
            supervisor.usable_port(taken, changeable=False)
    assert supervisor.usable_port(taken, changeable=False) == taken
