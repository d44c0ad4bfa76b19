"""The labels of a line as they are written: a class (``3``), several (``3,7,12``; ``-`` for none) or a real number (``0.37``).

Columns of single classes become numbers at once. Of a column that holds anything else only the place in the text is kept, and
those who are told what it means (``answers``) read it there.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mvd_ds.files import one_line

#: A field that is meant as a label, rightly or wrongly written, in a line that blanks separate.
LABEL_LIKE = rb"(?i:[0-9.,+-][0-9.,e+-]*|[+-]?(?:nan|inf))"
_CLASS_DIGITS = 18  # of int64
_CLASS = re.compile(rb"-?[0-9]{1,%d}" % _CLASS_DIGITS)
_SEVERAL = re.compile(rb"-|[0-9]{1,9}(?:,[0-9]{1,9})+")
_REAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


class WrittenLabels(NamedTuple):
    """The places of the labels of all lines of a manifest, of which a column holds more than single classes."""

    names: tuple[str, ...]
    """Names of all columns of labels, in their order."""
    odd: tuple[str, ...]
    """Those of them that hold more than single classes."""
    spans: np.ndarray
    """int64 (n, 2), start and end of the labels of each video in the text."""

    def part(self, rows: np.ndarray) -> WrittenLabels:
        """Return the labels of the videos ``rows``, int64 (k,)."""
        return self._replace(spans=self.spans[rows])

    def field(self, text: bytes, index: int, name: str) -> bytes:
        """Return the label ``name`` of video ``index`` as it is written in ``text``."""
        start, end = self.spans[index]
        return text[start:end].split()[self.names.index(name)]


def is_class(field: bytes) -> bool:
    """Return whether a field is a single class."""
    return _CLASS.fullmatch(field) is not None


def is_several(field: bytes) -> bool:
    """Return whether a field is several classes, or none of them."""
    return _SEVERAL.fullmatch(field) is not None


def label_fault(field: bytes) -> str:
    """Return what is wrong with a field of a line, '' if it is a class, several, or a finite real number."""
    if is_class(field) or is_several(field) or (_REAL.fullmatch(field) and math.isfinite(float(field))):
        return ""
    shown = one_line(field[:80].decode(errors="replace"), 60)
    return f"label '{shown}' is none: a label is a class (3), several (3,7,12), none of them (-) or a real number (0.37)"


class LabelColumns:
    """Collects the labels of the lines of a manifest, every line with as many."""

    def __init__(self) -> None:
        self.count = -1
        self._first = 0
        self._numbers, self._spans = array("q"), array("q")
        self._odd: set[int] = set()

    def add(self, fields: Sequence[bytes], start: int, end: int, number: int) -> str:
        """Take the labels of line ``number``, which stand from ``start`` to ``end`` in the text; return a fault, or nothing."""
        if self.count < 0:
            self.count, self._first = len(fields), number
        if len(fields) != self.count:
            return f"{len(fields)} labels, but {self.count} in line {self._first}; all lines need the same"
        for column, field in enumerate(fields):
            single = (field.isdigit() and len(field) <= _CLASS_DIGITS) or is_class(field)
            if not single:
                self._odd.add(column)
            self._numbers.append(int(field) if single else 0)
        self._spans.extend((start, end))
        return ""

    def numbers(self, lines: int) -> np.ndarray:
        """Return int64 (n, L) of all columns, 0 where a field is no single class."""
        return np.array(self._numbers, np.int64).reshape(lines, self.count)

    def plain(self) -> list[int]:
        """Return the columns of single classes alone."""
        return [column for column in range(self.count) if column not in self._odd]

    def written(self, names: tuple[str, ...]) -> WrittenLabels | None:
        """Return where all labels are written, if a column holds more than single classes."""
        odd = tuple(names[column] for column in sorted(self._odd))
        return WrittenLabels(names, odd, np.array(self._spans, np.int64).reshape(-1, 2)) if odd else None
