"""Numbers as a reader wants them: percent, points with a sign, counts with their word."""

from __future__ import annotations

PERCENT = "\N{NO-BREAK SPACE}%"
MISSING = "\N{EN DASH}"


def percent(share: float | None, digits: int = 1) -> str:
    """``share`` in [0, 1] as percent; a dash for None."""
    return MISSING if share is None else f"{100 * share:.{digits}f}{PERCENT}"


def span(low: float, high: float) -> str:
    """Two shares as one range of percent, without the sign of percent."""
    return f"{100 * low:.1f}\N{EN DASH}{100 * high:.1f}"


def points(share: float) -> str:
    """A share as percentage points, without a plus."""
    return proper_minus(f"{100 * share:.1f}")


def signed(share: float) -> str:
    """A difference of shares as percentage points with its sign."""
    return proper_minus(f"{100 * share:+.1f}")


def proper_minus(number: str) -> str:
    """A number whose hyphen is a minus sign."""
    return number.replace("-", "\N{MINUS SIGN}")


def count(number: int, word: str) -> str:
    """``1 line``, ``2,000 lines``."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def times(number: int) -> str:
    """once, twice, 3 times."""
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def join_words(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
