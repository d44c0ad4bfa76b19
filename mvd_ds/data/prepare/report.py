"""The report of `prepare`: ``report.json`` for programs, ``report.txt`` for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvd_ds.data.manifests.listings import Listing
from mvd_ds.data.prepare.options import Found, PrepareOptions
from mvd_ds.files import one_line, write_json, write_text


def write_report(
    output: Path, source: Path | str, listing: Listing, found: Sequence[Found], faults: dict[str, str], options: PrepareOptions
) -> dict[str, Any]:
    """Write both files into ``output`` and return the content of the JSON file.

    Raises:
        OSError: if the disk refuses.
    """
    facts = [one.facts for one in found]
    seconds = sum(fact["frames"] / fact["fps"] for fact in facts if fact["fps"])
    report = {
        "source": str(source),
        "verified": options.verify,
        "encoded": options.encoding._asdict() if options.encoding is not None else None,
        "videos": len(listing.entries) + len(listing.missing),
        "good": len(found),
        "broken": faults,
        "notes": listing.notes,
        "frames": sum(fact["frames"] for fact in facts),
        "hours": round(seconds / 3600, 3),
        "edit_list": sum(fact["edit_list"] for fact in facts),
        "uneven": sum(fact["uneven"] for fact in facts),
        "rotated": sum(bool(fact["rotation"]) for fact in facts),
        "codec": _count(fact["codec"] for fact in facts),
        "size": _count(f"{fact['width']}x{fact['height']}" for fact in facts),
        "fps": _count(f"{fact['fps']:g}" for fact in facts),
        "not_for_decord": _count(fact["decord"] for fact in facts if fact["decord"] != "yes"),
        "labels": {name: len({one.entry.labels[index] for one in found}) for index, name in enumerate(listing.label_names)},
    }
    write_json(output / "report.json", report)
    write_text(output / "report.txt", "\n".join(report_lines(report)) + "\n")
    return report


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return the report as printable lines."""
    lines = [
        f"{report['good']} of {report['videos']} videos of {one_line(report['source'])} are good"
        + (", every frame decoded" if report["verified"] else ""),
        f"{report['frames']} frames, {report['hours']:g} hours",
        f"edit lists {report['edit_list']}, variable frame rate {report['uneven']}, rotated {report['rotated']}",
    ]
    for name in ("codec", "size", "fps", "not_for_decord"):
        if report[name]:
            most = list(report[name].items())[:8]
            rest = len(report[name]) - len(most)
            lines.append(
                f"{name}: " + ", ".join(f"{value} {count}" for value, count in most) + (f", {rest} more" if rest else "")
            )
    lines += report["notes"]
    if report["broken"]:
        lines.append(f"broken, left out of the manifest: {len(report['broken'])}")
        lines += [f"  {one_line(name)}: {reason}" for name, reason in report["broken"].items()]
    return lines


def _count(values: Any) -> dict[str, int]:
    return dict(Counter(map(str, values)).most_common())
