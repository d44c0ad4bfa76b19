"""Whether an attempt has finished its run: ``status.json`` says so; a killed launcher may well leave exit code 0."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvd_ds.training.run_folder import EXIT_CODES, FAILED, FINISHED, PREEMPTED

#: How ``training/liveness/launcher.py`` begins its reason.
LAUNCHER_DIED = "the launcher ("
#: Ranks end with it when a person must mend something; another start would fail alike.
USER_FAULT = 2


@dataclass(frozen=True)
class Standing:
    """Where a run stands, read from its folder."""

    state: str
    """Of status.json; none where there is none."""
    step: int
    reason: str
    """Why it ended, in its own words."""
    checkpoint: str
    """What ``checkpoints/latest`` names."""
    changed: float
    """Modification time of status.json, seconds."""

    @classmethod
    def of(cls, run: Path) -> Standing:
        """Standing of the run in a folder; an unreadable status counts as none."""
        path, values, changed = run / "status.json", {}, 0.0
        try:
            changed = path.stat().st_mtime
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
        state, reason = str(values.get("state", "none")), str(values.get("reason", ""))
        return cls(state, _integer(values.get("step")), reason, _latest(run), changed)


def judge(code: int, before: Standing, after: Standing, survivors: int) -> int:
    """FINISHED, PREEMPTED, USER_FAULT or FAILED.

    Args:
        code: exit code of the launcher, negative for a signal.
        survivors: processes that outlived the launcher; after a good run there are none.
    """
    spoke = after.changed != before.changed
    said = EXIT_CODES.get(after.state, FAILED)
    if said == FINISHED and (spoke or (code == 0 and not survivors)):
        return FINISHED
    # Ranks that saved and ended because their launcher was killed were not asked to: that is a fault, and they start again.
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
