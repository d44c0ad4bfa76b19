"""Measured results of the nightly launches, kept in the repository: ``MVD_DS_RECORD=1 bash launchers/test.sh --nightly``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from mvd_ds.files import write_json

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "cluster" / "last_nightly.json"


def record(group: str, case: str, values: dict[str, Any]) -> None:
    """Keep what ``case`` measured, with date and commit, if ``MVD_DS_RECORD`` is set."""
    if not os.environ.get("MVD_DS_RECORD"):
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    kept.setdefault(group, {})[case] = values | {"commit": commit, "date": time.strftime("%Y-%m-%d")}
    write_json(FILE, kept)
