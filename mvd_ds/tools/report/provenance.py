"""Where runs come from: what sets their recipes apart, and what their attempts were started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvd_ds.config import leaves
from mvd_ds.files import read_json
from mvd_ds.tools.report.formatting import MISSING
from mvd_ds.tools.report.markup import Html, element, table
from mvd_ds.tools.report.run_records import RunRecord

#: Differ between any two runs and say nothing.
ALWAYS_DIFFERENT = ("run.output",)


def recipe_differences(runs: list[RunRecord]) -> dict[str, dict[str, dict[str, Any]]]:
    """Objective -> setting -> run -> value, of settings that runs of one objective do not share."""
    found = {}
    for objective in dict.fromkeys(run.objective for run in runs):
        trees = {run.name: leaves(run.recipe) for run in runs if run.objective == objective}
        names = dict.fromkeys(name for tree in trees.values() for name in tree if name not in ALWAYS_DIFFERENT)
        rows = {name: {run: tree.get(name, MISSING) for run, tree in trees.items()} for name in names}
        differing = {name: row for name, row in rows.items() if len({str(value) for value in row.values()}) > 1}
        if differing:
            found[objective] = differing
    return found


def differences_section(runs: list[RunRecord]) -> Html | None:
    """A table of them for each objective; None where runs of one objective agree in everything."""
    tables = []
    for objective, rows in recipe_differences(runs).items():
        names = [run.name for run in runs if run.objective == objective]
        lines = [
            element("tr", element("td", element("code", key)), *(element("td", _shown(values[name])) for name in names))
            for key, values in rows.items()
        ]
        tables += [element("h3", objective.replace("_", " ")), table(["setting", *names], lines, class_="words")]
    return element("section", element("h2", "What sets these runs apart"), *tables) if tables else None


def attempt_of(run: Path) -> dict[str, Any]:
    """Provenance of the newest attempt at a run; empty where none was written.

    Raises:
        ConfigError: if it cannot be read.
    """
    attempts = sorted((run / "attempts").glob("attempt-*.json"))
    return read_json(attempts[-1]) if attempts else {}


def origin_table(runs: list[RunRecord]) -> Html | None:
    """Commit, versions and devices of the newest attempt at every run; None where none was written."""
    lines = []
    for run in runs:
        attempt = attempt_of(run.path)
        if attempt:
            versions = dict(attempt.get("versions", {}))
            commit = versions.pop("commit", MISSING)
            packages = ", ".join(f"{name} {version}" for name, version in versions.items())
            began = str(attempt.get("began", MISSING))[:16].replace("T", " ")
            cells = (began, element("code", commit), _devices(attempt), packages)
            lines.append(element("tr", element("td", run.name), *(element("td", cell) for cell in cells)))
    if not lines:
        return None
    return table(["run", "newest attempt began (UTC)", "commit", "devices", "versions"], lines, class_="words")


def _devices(attempt: dict[str, Any]) -> str:
    """Processes by device and host."""
    ranks = [(str(rank.get("device", "")), str(rank.get("host", ""))) for rank in attempt.get("ranks", [])]
    devices = {device: [host for name, host in ranks if name == device] for device in dict.fromkeys(name for name, _ in ranks)}
    processor = attempt.get("machine", {}).get("processor", "")
    words = []
    for device, hosts in devices.items():
        places = f" on {len(set(hosts))} hosts" if len(set(hosts)) > 1 else ""
        words.append(f"{len(hosts)} x {f'cpu ({processor})' if device == 'cpu' and processor else device}{places}")
    return ", ".join(words) or MISSING


def _shown(value: Any) -> str:
    return MISSING if value == MISSING else str(value)
