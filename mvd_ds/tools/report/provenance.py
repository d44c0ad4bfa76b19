"""The origin of runs: settings that differ between them, and what their attempts were started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvd_ds.config import leaves
from mvd_ds.files import read_json
from mvd_ds.tools.report.formatting import MISSING
from mvd_ds.tools.report.run_records import RunRecord
from mvd_ds.tools.report.templating import Cell, Row, Table, cells

ALWAYS_DIFFERENT = ("run.output",)
"""Settings that differ between any two runs and say nothing."""


def recipe_differences(runs: list[RunRecord]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the values that runs of one objective do not share, as objective -> setting -> run -> value."""
    found = {}
    for objective in dict.fromkeys(run.objective for run in runs):
        trees = {run.name: leaves(run.recipe) for run in runs if run.objective == objective}
        names = dict.fromkeys(name for tree in trees.values() for name in tree if name not in ALWAYS_DIFFERENT)
        rows = {name: {run: tree.get(name, MISSING) for run, tree in trees.items()} for name in names}
        differing = {name: row for name, row in rows.items() if len({str(value) for value in row.values()}) > 1}
        if differing:
            found[objective] = differing
    return found


def difference_tables(runs: list[RunRecord]) -> list[tuple[str, Table]]:
    """Return a table of them by objective; none if runs of one objective agree in everything."""
    tables = []
    for objective, settings in recipe_differences(runs).items():
        names = [run.name for run in runs if run.objective == objective]
        rows = [Row(key, cells(*(str(values[name]) for name in names)), is_code=True) for key, values in settings.items()]
        tables.append((objective.replace("_", " "), Table(["setting", *names], rows, "words")))
    return tables


def attempt_of(run: Path) -> dict[str, Any]:
    """Return the provenance of the newest attempt at a run; empty if none was written.

    Raises:
        ConfigError: if it cannot be read.
    """
    attempts = sorted((run / "attempts").glob("attempt-*.json"))
    return read_json(attempts[-1]) if attempts else {}


def origin_table(runs: list[RunRecord]) -> Table | None:
    """Return commit, versions and devices of the newest attempt at every run; None if none was written."""
    rows = []
    for run in runs:
        attempt = attempt_of(run.path)
        if attempt:
            versions = dict(attempt.get("versions", {}))
            commit = Cell(str(versions.pop("commit", MISSING)), is_code=True)
            packages = ", ".join(f"{name} {version}" for name, version in versions.items())
            began = str(attempt.get("began", MISSING))[:16].replace("T", " ")
            rows.append(Row(run.name, cells(began, commit, _devices(attempt), packages)))
    return Table(["run", "newest attempt began (UTC)", "commit", "devices", "versions"], rows, "words") if rows else None


def _devices(attempt: dict[str, Any]) -> str:
    """Return the number of processes by device and host."""
    ranks = [(str(rank.get("device", "")), str(rank.get("host", ""))) for rank in attempt.get("ranks", [])]
    devices = {device: [host for name, host in ranks if name == device] for device in dict.fromkeys(name for name, _ in ranks)}
    processor = attempt.get("machine", {}).get("processor", "")
    words = []
    for device, hosts in devices.items():
        places = f" on {len(set(hosts))} hosts" if len(set(hosts)) > 1 else ""
        words.append(f"{len(hosts)} x {f'cpu ({processor})' if device == 'cpu' and processor else device}{places}")
    return ", ".join(words) or MISSING
