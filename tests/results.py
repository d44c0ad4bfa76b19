"""Results of nightly tests, kept in the repository beside the commit and the machine they come from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from launching import ROOT

FOLDER = ROOT / "tests" / "nightly_results"


def keep(name: str, values: dict[str, Any]) -> Path:
    """Write ``nightly_results/NAME.json``: ``values`` under ``result``, with commit, versions and machine."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    record = {
        "commit": commit.stdout.strip(),
        "machine": {"cpus": os.cpu_count(), "memory_gib": round(memory, 1), "python": platform.python_version()},
        "versions": {package: version(package) for package in ("torch", "deepspeed")},
        "result": values,
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
