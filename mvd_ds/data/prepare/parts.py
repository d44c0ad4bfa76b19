"""Parts of a `prepare`, for many hosts that see one folder: each looks at and encodes every N-th video, one of them joins all.

A part keeps its results in journals of its own, and a record when it is done. The join takes the results of all parts from their
journals, those that are broken too, and packs and writes what one host would have written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mvd_ds.data.prepare.journal import Journal
from mvd_ds.files import ConfigError, counted, one_line, read_json, write_json

Item = TypeVar("Item")
_DONE = "part-*-of-*.json"


class Part(NamedTuple):
    """One of ``total`` parts; ``number`` counts from 1."""

    number: int
    total: int

    @classmethod
    def of(cls, text: str) -> Part:
        """Return the part that ``I/N`` means.

        Raises:
            ConfigError: if it is none.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        part = cls(int(found[1]), int(found[2])) if found is not None else cls(0, 0)
        if not 1 <= part.number <= part.total:
            raise ConfigError(f"--part {one_line(text, 40)}: is I/N, such as 3/8, with I from 1 to N")
        return part

    def take(self, items: Sequence[Item]) -> list[Item]:
        """Return this part's share of ``items``: every N-th, so that parts take about as long."""
        return list(items[self.number - 1 :: self.total])

    @property
    def name(self) -> str:
        """Name of the part in the names of its files."""
        return f"{self.number}-of-{self.total}"


def journal_of(work: Path, name: str, part: Part | None) -> Journal:
    """Return the journal ``name`` of a part, or of one host, which reads what the parts have done, too."""
    if part is not None:
        return Journal(work / f"{name}-{part.name}.jsonl")
    return Journal(work / f"{name}.jsonl", sorted(work.glob(f"{name}-*-of-*.jsonl")))


def is_done(work: Path, part: Part, digest: str) -> bool:
    """Return whether a part is done, with inputs of this ``digest``."""
    record = work / f"part-{part.name}.json"
    return record.exists() and _read(record).get("digest") == digest


def set_done(work: Path, part: Part, digest: str, found: int) -> None:
    """Keep that a part is done, with inputs of this ``digest``, and how many videos of it are good.

    Raises:
        OSError: if the disk refuses.
    """
    write_json(work / f"part-{part.name}.json", {"digest": digest, "good": found})


def require_all(work: Path, digest: str) -> None:
    """Refuse to join parts of which some are not done, or were of other inputs.

    Raises:
        ConfigError: naming them.
    """
    done = {path: re.findall(r"\d+", path.stem) for path in work.glob(_DONE)}
    counts = {int(count) for _, count in done.values()}
    folder = one_line(work.parent)
    if not counts:
        raise ConfigError(f"{folder}: no part is done; start `prepare --part 1/N` to `--part N/N` first")
    if len(counts) > 1:
        raise ConfigError(f"{folder}: holds parts of {' and of '.join(map(str, sorted(counts)))}; delete it, and use one N")
    count = counts.pop()
    missing = sorted(set(range(1, count + 1)) - {int(number) for number, _ in done.values()})
    if missing:
        shown = ", ".join(f"{number}/{count}" for number in missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise ConfigError(f"{folder}: {counted(len(missing), 'part')} of {count} are not done: {shown}; start them, then join")
    other = [path for path in done if _read(path).get("digest") != digest]
    if other:
        raise ConfigError(
            f"{folder}: {one_line(min(other).stem)} saw other videos, lists or class names than are there now; start it again"
        )


def _read(record: Path) -> dict[str, Any]:
    held = read_json(record)
    return held if isinstance(held, dict) else {}
