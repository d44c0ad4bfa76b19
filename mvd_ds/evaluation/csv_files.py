"""Tables of any names as CSV that no spreadsheet computes, and that comes back as it was."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from mvd_ds.files import ConfigError, one_line

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return ``rows`` as CSV. Text that a spreadsheet would compute gets a ``'`` in front, which ``read_csv`` takes off."""
    lines = []
    for row in rows:
        line = io.StringIO(newline="")
        # This line end makes the writer quote both of its letters inside of a cell.
        csv.writer(line, lineterminator="\r\n").writerow([_quoted(cell) for cell in row])
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _quoted(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of ``csv_text`` by the names in its first row.

    Raises:
        ConfigError: in one line, if the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            names, *rows = ([_unquoted(cell) for cell in row] for row in csv.reader(file))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: is not CSV: {one_line(error, 100)}") from None
    return [dict(zip(names, row, strict=False)) for row in rows]
