"""The page of ``prove``: one HTML file that says what passed, what failed, what could not be tried, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mvd_ds.files import write_text
from mvd_ds.tools.prove.parts import PARTS
from mvd_ds.tools.report.templating import Row, Table, cells, render


class Section(NamedTuple):
    """The findings of one part."""

    title: str
    outcome: str
    tables: list[Table]


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the page of ``result``, the JSON of ``prove``, to ``path``."""
    device = result["machine"].get("device") or result["machine"].get("devices") or "CPU"
    sections = [_section(name, part) for name, part in result["parts"].items()]
    title = "What this machine was proven to do"
    write_text(path, render("prove", title=title, subtitle=str(device), sections=sections))


def _section(name: str, part: dict[str, Any]) -> Section:
    seconds = f", {part['seconds']:.0f} s" if "seconds" in part else ""
    note = f": {part['note']}" if part.get("note") else ""
    checks = [
        (check["name"], "passed" if check["passed"] else "failed", _number(check.get("value")), _number(check.get("bound")))
        for check in part.get("checks", [])
    ]
    tables = [
        _table(("check", "", "value", "bound"), checks),
        _table(("measured", "value"), list(_leaves(part.get("measured", {})))),
        _table(("could not be tried here", "why"), list(part.get("skipped", {}).items())),
    ]
    title = PARTS[name].title if name in PARTS else name
    return Section(title, f"{part['state']}{seconds}{note}", [table for table in tables if table.rows])


def _table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(list(head), [Row(name, cells(*rest)) for name, *rest in rows], "words")


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of every leaf of nested dictionaries."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key} / ")
        else:
            yield f"{prefix}{key}", _number(value)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
