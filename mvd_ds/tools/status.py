"""This module prints where a run stands, with an exit code for launch scripts (``status``). It imports no torch."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from mvd_ds.config import ConfigError
from mvd_ds.files import read_json
from mvd_ds.training.console import clock, say
from mvd_ds.training.liveness.heartbeat import Beat, is_alive, read_beats
from mvd_ds.training.run_folder import EXIT_CODES, FAILED, STILL_RUNNING, RunFolder

_EPOCHS = "data/epochs_"
_TAIL_BYTES = 1 << 16
"""End of the metrics in which the newest are looked for."""


def show_status(run: Path) -> int:
    """Print where the run in ``run`` stands.

    Returns:
        0 finished, 75 preempted (the same command goes on), 1 failed or never begun, 3 still running.
    """
    code, text = status_of(run)
    say(f"{run}: {text}")
    if epochs := _epochs_of(RunFolder(run)):
        say(f"  epochs of each source: {epochs}")
    with contextlib.suppress(ConfigError):  # a damaged file is said already
        for name, folder in RunFolder(run).students.items():
            say(f"  {name}: {status_of(folder)[1]}")
    return code


def status_of(run: Path) -> tuple[int, str]:
    """Return the exit code and the sentence of ``show_status``."""
    folder = RunFolder(run)
    beats = read_beats(folder)
    if not folder.status.exists():
        living = [beat for beat in beats if is_alive(beat)]
        return (STILL_RUNNING, "starting") if living else (FAILED, _of_no_run(run))
    try:
        values = read_json(folder.status)
        state, attempt, step, last_step = (values[key] for key in ("state", "attempts", "step", "last_step"))
        seconds = float(values.get("seconds", 0.0))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        return FAILED, f"status.json cannot be understood: {error}"
    if state == "running":
        return _of_running(folder, [beat for beat in beats if beat.attempt == attempt], step, last_step, attempt, seconds)
    reason = values.get("reason")
    where = f"step {step} of {last_step}, attempt {attempt}, {clock(seconds)} in all"
    return EXIT_CODES.get(state, FAILED), f"{state}{f': {reason}' if reason else ''} ({where})"


def _of_no_run(path: Path) -> str:
    below = ", ".join(str(status.parent) for status in sorted(path.glob("*/status.json")))
    return "holds no status.json: no run has begun here" + (f"; runs are in {below}" if below else "")


def _of_running(
    folder: RunFolder, beats: list[Beat], saved: int, last_step: int, attempt: int, seconds: float
) -> tuple[int, str]:
    """Return exit code and sentence of a run that says it is running: where it is now comes from its living ranks.

    Args:
        folder: the run's folder.
        beats: signs of life of its last attempt.
        saved: step of the last save, at which ``status.json`` was written.
        last_step: step at which the run ends.
        attempt: number of its last attempt.
        seconds: time of all attempts up to that save.
    """
    kept = f"step {saved} is saved" if saved else "nothing is saved yet"
    living = [beat for beat in beats if is_alive(beat)]
    if not living:
        where = f"{kept}, of {last_step} steps, attempt {attempt}, {clock(seconds)} up to there"
        return FAILED, f"failed: ended without a reason ({where}); {_latest(beats)}"
    slowest = min(living, key=lambda beat: beat.count)
    seconds += max(time.time() - folder.status.stat().st_mtime, 0.0)
    now = f"running step {slowest.step} of {last_step}" if slowest.step else f"running, of {last_step} steps"
    return STILL_RUNNING, f"{now} ({kept}, attempt {attempt}, {clock(seconds)} in all); {_latest(living)}"


def _epochs_of(folder: RunFolder) -> str:
    """Return how often each of several manifests has been seen by the newest metrics, or nothing where there is one."""
    if not folder.metrics.exists():
        return ""
    with open(folder.metrics, "rb") as file:
        file.seek(max(file.seek(0, 2) - _TAIL_BYTES, 0))
        lines = file.read().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, AttributeError):  # cut off
            found = {key.removeprefix(_EPOCHS): value for key, value in json.loads(line).items() if key.startswith(_EPOCHS)}
            if found:
                return ", ".join(f"{key} {value:.2f}" for key, value in found.items())
    return ""


def _latest(beats: list[Beat]) -> str:
    if not beats:
        return "no process left a heartbeat"
    beat = min(beats, key=lambda beat: beat.count)
    ago = max(time.time() - beat.written, 0.0)
    return f"{beat} was {beat.doing}{f' in step {beat.step}' if beat.step else ''}, last heard of {ago:.0f} s ago"
