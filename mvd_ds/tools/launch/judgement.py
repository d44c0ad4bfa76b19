"""The outcome of an attempt: ``status.json`` decides, because a killed launcher may well leave exit code 0."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvd_ds.training.run_folder import EXIT_CODES, FAILED, FINISHED, PREEMPTED

#: Beginning of the reason that ``training/liveness/launcher.py`` gives.
LAUNCHER_DIED = "the launcher ("
#: Exit code of ranks when a person must mend something; another start would fail alike.
USER_FAULT = 2


@dataclass(frozen=True)
class Standing:
    """The state of a run, read from its folder."""

    state: str
    """State in status.json; ``none`` without that file."""
    step: int
    reason: str
    """Reason that the run gave for its end."""
    checkpoint: str
    """Name in ``checkpoints/latest``; empty without that file."""
    changed: float
    """Modification time of status.json, seconds."""

    @classmethod
    def of(cls, run: Path) -> Standing:
        """Return the standing of the run in a folder; an unreadable status counts as none."""
        path, values, changed = run / "status.json", {}, 0.0
        try:
            changed = path.stat().st_mtime
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
        state, reason = str(values.get("state", "none")), str(values.get("reason", ""))
        return cls(state, _integer(values.get("step")), reason, _latest(run), changed)


def judge(code: int, before: Standing, after: Standing, survivors: int) -> int:
    """Return the outcome of an attempt: FINISHED, PREEMPTED, USER_FAULT or FAILED.

    Args:
        code: exit code of the launcher, negative for a signal.
        survivors: processes that outlived the launcher; after a good run there are none.
    """
    spoke = after.changed != before.changed
    said = EXIT_CODES.get(after.state, FAILED)
    if said == FINISHED and (spoke or (code == 0 and not survivors)):
        return FINISHED
    # Ranks that saved and ended because their launcher was killed were not asked to: a failure, which restarts.
    if said == PREEMPTED and spoke and not after.reason.startswith(LAUNCHER_DIED):
        return PREEMPTED
    return USER_FAULT if code == USER_FAULT else FAILED


def _latest(run: Path) -> str:
    try:
        return (run / "checkpoints" / "latest").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _integer(value: Any) -> int:
    return value if isinstance(value, int) else 0
