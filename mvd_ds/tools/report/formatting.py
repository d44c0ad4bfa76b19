"""Numbers as a reader wants them: percent, points with a sign, counts with their word."""

from __future__ import annotations

from collections.abc import Iterable

from mvd_ds.files import counted

PERCENT = "\N{NO-BREAK SPACE}%"
MISSING = "\N{EN DASH}"
FEW_CLIPS = 50
"""Fewer held-out clips than this tell too little: at 50, the 95 % interval of one half is 27 points wide."""


def percent(share: float | None, digits: int = 1) -> str:
    """Return ``share`` in [0, 1] as percent; a dash for None."""
    return MISSING if share is None else f"{100 * share:.{digits}f}{PERCENT}"


def span(low: float, high: float) -> str:
    """Return two shares as one range of percent, without the sign of percent."""
    return f"{100 * low:.1f}\N{EN DASH}{100 * high:.1f}"


def points(share: float) -> str:
    """Return a share as percentage points, without a plus."""
    return proper_minus(f"{100 * share:.1f}")


def signed(share: float) -> str:
    """Return a difference of shares as percentage points with its sign."""
    return proper_minus(f"{100 * share:+.1f}")


def ratio(value: float) -> str:
    """Return how many times one value is another: 0.42, 7.20, 1,250."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def proper_minus(number: str) -> str:
    """Return ``number`` with a minus sign in place of the hyphen."""
    return number.replace("-", "\N{MINUS SIGN}")


def memory_unit(gib: Iterable[float]) -> tuple[str, float]:
    """Return the one unit for these sizes and how many of it a GiB has: MiB if all are below 1 GiB."""
    return ("MiB", 1024.0) if max(gib, default=0.0) < 1 else ("GiB", 1.0)


def memory_size(gib: float | None, unit: tuple[str, float]) -> str:
    """Return a size in a unit of ``memory_unit``, to three digits below 1,000; a dash for None."""
    if gib is None:
        return MISSING
    size = gib * unit[1]
    return f"{size:,.{0 if size >= 99.95 or size == 0 else 1 if size >= 9.995 else 2}f}"


def times(number: int) -> str:
    """Return ``once``, ``twice`` or ``3 times``."""
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def join_words(words: list[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def wilson_interval(share: float, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was measured on ``samples`` samples; it stays honest at 0, at 1 and on few.

    Source: Wilson 1927, the score interval.
    """
    if not samples:
        return 0.0, 1.0
    z = 1.96
    shrunk = share + z**2 / (2 * samples)
    width = z * (share * (1 - share) / samples + z**2 / (4 * samples**2)) ** 0.5
    low, high = ((shrunk + sign * width) / (1 + z**2 / samples) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def few_clips(number: int, word: str) -> str:
    """Return a warning that ``number`` held-out samples are too few."""
    if not number:
        return f"No {word}, so nothing is known of the accuracy."
    return (
        f"Only {counted(number, word)}: each moves a share by {100 / number:.1f} points. Fewer than about {FEW_CLIPS} are too "
        "few to tell models apart."
    )
