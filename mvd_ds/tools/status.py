"""This module prints where a run stands, with an exit code for launch scripts (``status``). It imports no torch."""

from __future__ import annotations

import time
from pathlib import Path

from mvd_ds.config import ConfigError
from mvd_ds.files import read_json
from mvd_ds.training.console import clock, say
from mvd_ds.training.liveness.heartbeat import Beat, is_alive, read_beats
from mvd_ds.training.run_folder import EXIT_CODES, FAILED, STILL_RUNNING, RunFolder


def show_status(run: Path) -> int:
    """Print where the run in ``run`` stands.

    Returns:
        0 finished, 75 preempted (the same command goes on), 1 failed or never begun, 3 still running.
    """
    code, text = status_of(run)
    say(f"{run}: {text}")
    return code


def status_of(run: Path) -> tuple[int, str]:
    """Return the exit code and the sentence of ``show_status``."""
    folder = RunFolder(run)
    beats = read_beats(folder)
    if not folder.status.exists():
        living = [beat for beat in beats if is_alive(beat)]
        return (STILL_RUNNING, "starting") if living else (FAILED, "holds no status.json: no run has begun here")
    try:
        values = read_json(folder.status)
        state, attempt, step, last_step = (values[key] for key in ("state", "attempts", "step", "last_step"))
        seconds = float(values.get("seconds", 0.0))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        return FAILED, f"status.json cannot be understood: {error}"
    where = f"step {step} of {last_step}, attempt {attempt}, {clock(seconds)} in all"
    if state != "running":
        reason = values.get("reason")
        return EXIT_CODES.get(state, FAILED), f"{state}{f': {reason}' if reason else ''} ({where})"
    living = [beat for beat in beats if beat.attempt == attempt and is_alive(beat)]
    if living:
        return STILL_RUNNING, f"running ({where}); {_latest(living)}"
    return FAILED, f"failed: ended without a reason ({where}); {_latest([beat for beat in beats if beat.attempt == attempt])}"


def _latest(beats: list[Beat]) -> str:
    if not beats:
        return "no process left a heartbeat"
    beat = min(beats, key=lambda beat: beat.count)
    ago = max(time.time() - beat.written, 0.0)
    return f"{beat} was {beat.doing} in step {beat.step}, last heard of {ago:.0f} s ago"
