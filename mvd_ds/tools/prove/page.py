"""The page of ``prove``: one HTML file that says what passed, what failed, what could not be tried, and what was measured."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from mvd_ds.files import write_text
from mvd_ds.tools.prove.parts import PARTS

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; }
.passed { color: #1a7f37; } .failed, .crashed { color: #cf222e; font-weight: 600; }
"""


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the page of ``result``, the JSON of ``prove``, to ``path``."""
    sections = "".join(_section(name, part) for name, part in result["parts"].items())
    device = result["machine"].get("device") or result["machine"].get("devices") or "CPU"
    body = f"<h1>What this machine was proven to do</h1><p>{_text(device)}</p>{sections}"
    write_text(path, f'<!doctype html><meta charset="utf-8"><title>prove</title><style>{_STYLE}</style><body>{body}</body>\n')


def _section(name: str, part: dict[str, Any]) -> str:
    title = PARTS[name].title if name in PARTS else name
    seconds = f", {part['seconds']:.0f} s" if "seconds" in part else ""
    head = f'<h2>{_text(title)}</h2><p><span class="{_text(part["state"])}">{_text(part["state"])}</span>{seconds}'
    head += f": {_text(part['note'])}</p>" if part.get("note") else "</p>"
    checks = [
        (check["name"], "passed" if check["passed"] else "failed", _number(check.get("value")), _number(check.get("bound")))
        for check in part.get("checks", [])
    ]
    skipped = [(what, why) for what, why in part.get("skipped", {}).items()]
    measured = list(_flat(part.get("measured", {})))
    return (
        head
        + _table(("check", "", "value", "bound"), checks)
        + _table(("measured", ""), measured)
        + _table(("could not be tried here", "why"), skipped)
    )


def _table(titles: tuple[str, ...], rows: list[Any]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    lines = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _cell(value: Any) -> str:
    mark = f' class="{value}"' if value in ("passed", "failed") else ""
    return f"<td{mark}>{_text(value)}</td>"


def _flat(values: dict[str, Any], prefix: str = "") -> Any:
    """Yield name and value of every leaf of nested dictionaries."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} / ")
        else:
            yield f"{prefix}{key}", _number(value)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
