"""Kill a run where it hurts, and see that nothing is left of it and nothing of what it saved is lost."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from mvd_ds.files import read_json
from mvd_ds.training.checkpoint.files import read_checkpoint_manifest, verify
from mvd_ds.training.liveness.heartbeat import Beat, read_beats
from mvd_ds.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
MARK = "MVD_DS_SOAK"
#: Everything of a run is gone within this after a kill: the launcher's own patience with the other ranks, and the watch's.
END_SECONDS = 45.0
#: How long a kill waits for its place.
START_SECONDS = 600.0
#: Share of the kills without a place of their own that come while the run starts.
STARTING = 0.25
#: What a rank does before its run says where it goes on.
BEFORE_IT_SPEAKS = ("before its first sign of life", "starting", "resuming", "ready")
#: What a rank says that it is doing inside of a place.
INSIDE = {"save": "saving", "resume": "resuming"}


class Kill(NamedTuple):
    """What was killed, and what came of it."""

    kind: str
    victim: str
    doing: str
    """Of the victim, or of rank 0."""
    step: int
    """Where it was."""
    saved_before: int
    saved_after: int
    """Step of the newest checkpoint, whole to the digest."""
    resumed: int | None
    """Step from which this start went on (0: the beginning); None if it was killed before it said so."""
    passed_over: int
    """Damaged checkpoints that this start met."""
    end_seconds: float
    """Until the last process was gone."""
    message: str
    """The line that names what died."""
    is_over: bool
    """The run had said before that it was finished: it lost nothing, and there was nobody left to name the victim."""


class Life:
    """One start of a run through the ``deepspeed`` launcher, in a process group of its own.

    Args:
        arguments: of ``python -m mvd_ds``.
    """

    def __init__(self, folder: Path, processes: int, arguments: list[str]) -> None:
        self.folder, self.processes = RunFolder(folder), processes
        self.mark, self.ranks = secrets.token_hex(8), set[int]()
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.parent.glob(f"{folder.name}.life-*")))
        self.log = folder.parent / f"{folder.name}.life-{number:03}"
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", MARK: self.mark}
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--log_level", "critical"]
        port = str(random.SystemRandom().randrange(20000, 60000))
        command = [*launcher, "--num_accelerators", str(processes), "--master_port", port, "--module", "mvd_ds", *arguments]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, f"run.output={folder}"], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def members(self) -> list[psutil.Process]:
        """All living processes of this start: launcher, ranks, and what they started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def rank(self, rank: int) -> psutil.Process | None:
        """The process of ``rank``, once there is one."""
        for process in self.members():
            try:
                if process.environ().get("RANK") == str(rank) and "mvd_ds" in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        return None

    def beat(self, rank: int) -> Beat | None:
        """The last sign of life of ``rank`` of this start."""
        for beat in read_beats(self.folder):
            if beat.process.is_alive() is not False:
                self.ranks.add(beat.process.pid)
                if beat.rank == rank:
                    return beat
        return None

    def wait_until(self, reached: Callable[[], object], what: str) -> bool:
        """Wait for ``reached``; False if the run ended before.

        Every 2 ms once a rank was seen alive, and rarely before that: looking takes a core from those that start.
        """
        began = time.monotonic()
        while not reached():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() - began < START_SECONDS, f"{what} was not reached; see {self.log}"
            time.sleep(0.002 if self.ranks else 0.02)
        return True

    def finish(self) -> int:
        """Wait for a good end; its exit code."""
        code = self.process.wait(timeout=600)
        self.end_seconds()
        return code

    def end_seconds(self) -> float:
        """Seconds until nothing of this start is left."""
        began = time.monotonic()
        while left := self.members():
            waited = time.monotonic() - began
            assert waited < END_SECONDS, f"left after {waited:.0f} s: {[(p.pid, p.cmdline()[:6]) for p in left]}; see {self.log}"
            time.sleep(0.1)
        self.process.wait(timeout=END_SECONDS)
        return time.monotonic() - began

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running, whatever went wrong."""
        for process in self.members():
            process.kill()

    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")


def saved_step(folder: Path) -> int:
    """Step of the checkpoint that ``latest`` names, which is whole to the digest; 0 without one."""
    latest = folder / "checkpoints" / "latest"
    if not latest.exists():
        return 0
    path = latest.parent / latest.read_text().strip()
    manifest = read_checkpoint_manifest(path)
    verify(path, manifest["files"], list(manifest["files"]))
    return int(manifest["step"])


def is_over(folder: RunFolder) -> bool:
    """Whether the run has said that it is finished."""
    return folder.status.exists() and read_json(folder.status)["state"] == "finished"


def kill(life: Life, kind: str, chance: random.Random) -> Kill | None:
    """Kill by ``kind``; None if the run ended before. Where the run was past its place already, the kind is any.

    save, resume: a rank inside of it. rank 0, any: a rank at any moment, while starting too. launcher, command: deepspeed's
    launcher, and the ``deepspeed`` command above it. group: all at once. Moments are told by the run's progress, not by a
    clock, so that they fall alike on a machine that is busy.
    """
    rank = 0 if kind == "rank 0" else chance.randrange(life.processes)
    before = saved_step(life.folder.path)
    if kind in INSIDE:
        target = before + chance.randint(1, 3)

        def inside() -> bool:
            beat = life.beat(rank)
            return beat is not None and beat.doing == INSIDE[kind] and (kind == "resume" or beat.step >= target)

        if not life.wait_until(inside, kind):
            return None
        time.sleep(chance.uniform(0, 0.08 if kind == "save" else 0.02))
    elif chance.random() < STARTING:
        if not life.wait_until(lambda: life.rank(rank), "the start of a rank"):
            return None
        time.sleep(chance.uniform(0, 10))
    else:
        target = before + chance.randint(1, 5)
        if not life.wait_until(lambda: (beat := life.beat(rank)) is not None and beat.step >= target, f"step {target}"):
            return None
        time.sleep(chance.uniform(0, 2))
    return strike(life, kind, rank, before)


def strike(life: Life, kind: str, rank: int, before: int) -> Kill | None:
    """The kill itself, and what came of it."""
    life.beat(rank)
    victims = _victims(life, kind, rank)
    if not victims or life.process.poll() is not None:
        return None
    gone = 0
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            gone += 1  # of a group some do not live long anyway
    if gone == len(victims):
        return None
    seconds = life.end_seconds()
    beat = next((beat for beat in read_beats(life.folder) if beat.process.pid in life.ranks and beat.rank == rank), None)
    names = {"launcher": f"launcher {victims[0].pid}", "command": f"command {victims[0].pid}", "group": "all"}
    message = next((line for line in life.said().splitlines() if re.search(r"\bdied\b", line)), "")
    doing = beat.doing if beat else BEFORE_IT_SPEAKS[0]
    is_missed = kind in INSIDE and doing != INSIDE[kind]
    spoken = resumed_step(life)
    return Kill(
        kind="any" if is_missed else kind,
        victim=names.get(kind, f"rank {rank}"),
        doing=doing,
        step=beat.step if beat else 0,
        saved_before=before,
        saved_after=saved_step(life.folder.path),
        resumed=None if doing in BEFORE_IT_SPEAKS and not spoken else spoken,
        passed_over=life.said().count("taking the checkpoint before it"),
        end_seconds=round(seconds, 2),
        message=message,
        is_over=is_over(life.folder),
    )


def check(found: Kill) -> None:
    """What must hold after every kill.

    Raises:
        AssertionError: if it does not.
    """
    assert found.saved_after >= found.saved_before, found
    assert found.resumed in (None, found.saved_before) and not found.passed_over, found
    if found.kind == "save":
        # run.save_every_steps is 1: the save that was cut, or the one before it.
        assert found.saved_after >= found.step - 1, found
    if found.doing not in BEFORE_IT_SPEAKS[:2] and found.victim != "all" and not found.is_over:
        who = "the launcher" if found.kind in ("launcher", "command") else f"{found.victim} (process"
        assert who in found.message, found


def resumed_step(life: Life) -> int:
    """Where a start says that it goes on; 0 at the beginning."""
    match = re.search(r"resuming from the checkpoint of step (\d+)", life.said())
    return int(match.group(1)) if match else 0


def _victims(life: Life, kind: str, rank: int) -> list[psutil.Process]:
    if kind == "group":
        return life.members()
    if kind == "command":
        return [psutil.Process(life.process.pid)]
    if kind == "launcher":
        return [process for process in life.members() if _is_launcher(process)][:1]
    beat = life.beat(rank)
    found = psutil.Process(beat.process.pid) if beat else life.rank(rank)
    return [found] if found else []


def _is_launcher(process: psutil.Process) -> bool:
    try:
        return "deepspeed.launcher.launch" in process.cmdline()
    except psutil.Error:  # it ended just now
        return False


def trace(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of every line of metrics.jsonl that has one."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss/total"]) for line in lines if "loss/total" in line]
