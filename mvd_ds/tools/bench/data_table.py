"""Output of ``bench data`` and ``bench start``: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mvd_ds.files import ConfigError, one_line, write_text
from mvd_ds.tools.bench.data import KINDS, DataBenchOptions, measure
from mvd_ds.tools.bench.loader_rate import EXPECTED_MS
from mvd_ds.tools.bench.sample_videos import write_videos
from mvd_ds.tools.bench.start import measure_start

TABLE_WIDTH = 120
"""Width in columns of a table that goes to a file."""


def bench_data(manifest: Path | str, overrides: list[str], options: DataBenchOptions, output: Path | None, sample: int) -> None:
    """Measure, print, and write JSON to ``output``.

    Args:
        manifest: manifest or folder.
        overrides: settings in place of the default ones.
        options: how much is measured.
        output: JSON file.
        sample: so many videos are written into the folder ``manifest`` first; 0: none.

    Raises:
        ConfigError: for a faulty manifest or setting.
    """
    if sample:
        if isinstance(manifest, str):
            raise ConfigError(f"{one_line(manifest)}: --make-sample writes into a folder of this machine")
        write_videos(manifest, sample)
    result = measure(manifest, overrides, options)
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    console.print(_stage_table(result))
    console.print(_stream_table(result))
    for line in _sentences(result):
        console.print(line, soft_wrap=True, highlight=False)
    write_result(result, output)


def bench_start(manifest: Path | str, overrides: list[str], output: Path | None) -> None:
    """Measure the time to the first batch, print it, and write JSON to ``output``.

    Raises:
        ConfigError: for a faulty manifest or setting.
    """
    result = measure_start(manifest, overrides)
    print(
        f"{result['lines']:,} lines read in {result['manifest_seconds']:.2f} s by a process of {result['manifest_peak_mib']:.0f} "
        f"MiB; first batch of {result['workers']} workers {result['start_to_first_batch_seconds']:.1f} s after the start"
    )
    write_result(result, output)


def write_result(result: dict[str, Any], output: Path | None) -> None:
    """Write JSON to ``output``, if there is one."""
    if output is not None:
        write_output(json.dumps(result, indent=1) + "\n", output)


def write_output(text: str, output: Path) -> None:
    """Write ``output``, whole or not at all, and print its path."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text)
    print(f"written to {output}")


def _stage_table(result: dict[str, Any]) -> Table:
    columns = ("open", "decode", "crop", "transport", "total")
    table = Table(title="One clip, CPU milliseconds by reader", title_justify="left")
    for name in ("reader", *columns, "clips/s per core", "open and decode over the bound"):
        table.add_column(name, justify="left" if name == "reader" else "right")
    for reader, row in result["readers"].items():
        if reader == "bound":
            continue
        if not row["clips"]:
            table.add_row(reader, "cannot")
            continue
        values = [f"{row[name]:.1f}" for name in columns]
        table.add_row(reader, *values, f"{1000 / row['total']:.1f}", f"{row['over_bound']:.2f} x")
    return table


def _stream_table(result: dict[str, Any]) -> Table:
    table = Table(title=f"Through {result['workers']} worker processes", title_justify="left")
    rows = result["streams"]
    columns = {
        "clips_per_second": ("clips/s here", ".1f"),
        "cpu_ms": ("CPU ms a clip", ".1f"),
        "clips_per_second_per_core": ("clips/s per core", ".1f"),
        "cores_needed": (f"cores for {result['options']['clips_per_second'] or 0:g} clips/s", ".1f"),
        "times_reference": ("times the reference", ".2f"),
        "times_reference_by_cpu": ("by CPU time", ".2f"),
    }
    shown = [name for name in columns if any(name in row for row in rows.values())]
    table.add_column("files")
    for name in shown:
        table.add_column(columns[name][0], justify="right")
    for kind, row in rows.items():
        table.add_row(kind, *(f"{row[name]:{columns[name][1]}}" if name in row else "" for name in shown))
    return table


def _sentences(result: dict[str, Any]) -> list[str]:
    bound, streams, wait = result["readers"]["bound"], result["streams"], result["data_wait_share"]
    plain = streams["as they are"]
    lines = [
        f"{reader} refuses {len(row['refused'])} of {result['files']['measured']} files, the first: "
        f"{': '.join(next(iter(row['refused'].items())))}"
        for reader, row in result["readers"].items()
        if row.get("refused")
    ]
    lines += [
        f"{result['limits']} limits. Bound of decoding: {bound['frames']:.0f} frames from the key frame on x "
        f"{bound['frame_ms']:.2f} ms = {bound['clip_ms']:.1f} ms.",
        f"A consumer that takes {wait['at_share_of_rate']:.0%} of what the loader gives waits {wait['share']:.1%} of its time.",
        f"Files of {result['files']['mean_mb']:.2f} MB: {plain['clips_per_second'] * result['files']['mean_mb']:.1f} MB/s are "
        "read at this rate.",
    ]
    if result["copied"]:
        lines.append(
            f"{result['copied']} of the files measured were copied out of shards, or fetched; how fast they come is not measured."
        )
    gains = [
        f"{plain['cpu_ms'] / row['cpu_ms']:.1f} x as {kind} (files of {row['mean_mb']:.2f} MB)"
        for kind, row in streams.items()
        if kind in KINDS
    ]
    if gains:
        lines.append(f"`prepare` would gain {', '.join(gains)}.")
    if "reference" in streams and "times_reference" not in plain:
        reference = streams["reference"]
        lines.append(
            f"No ratio to the reference pipeline: it took {reference['alone_ms']:.0f} ms of CPU a clip alone "
            f"({reference['cpu_ms']:.0f} through the DataLoader), not the {EXPECTED_MS[0]:.0f} to {EXPECTED_MS[1]:.0f} that it "
            "is known for on ten seconds of 340 x 256."
        )
    if result["unreadable"]:
        lines.append(
            f"{len(result['unreadable'])} of the files drawn cannot be read, the first: {next(iter(result['unreadable']))}"
        )
    return lines
