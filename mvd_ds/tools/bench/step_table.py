"""Output of ``bench step``: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mvd_ds.config import ConfigError
from mvd_ds.tools.bench.data_table import TABLE_WIDTH, write_result
from mvd_ds.tools.bench.step import StepBenchOptions, measure_step
from mvd_ds.tools.bench.step_variants import FP8, recipe_of_step
from mvd_ds.tools.bench.students_step import measure_students
from mvd_ds.training.cluster import launched_rank

_ALONE = "ours: the modules of `distill` in plain torch; DeepSpeed's engine is left out, so that one process holds all variants."
_GROUP = "ours: `distill` under DeepSpeed's engine, {engine}; yardsticks under DistributedDataParallel. The slowest counts."
_MEANINGS = (
    "P0: the usual step: Conv3d over all patches, attention weights in memory, bool masks, the host waits after every step.",
    "P1: the same with a linear patch embedding. P2: with fused attention, too, and no waiting.",
    "Random weights, drop path off, learning rate 0: every step starts from equal weights.",
)


def bench_step(recipe: str, overrides: list[str], options: StepBenchOptions, output: Path | None) -> int:
    """Measure, print, and write JSON to ``output``.

    Returns:
        Exit code: 1 if the variants do not compute the same.

    Raises:
        ConfigError: for a faulty setting, or a recipe that has no yardstick.
    """
    if recipe_of_step(recipe, overrides).students:
        return _bench_students(recipe, overrides, options, output)
    result = measure_step(recipe, overrides, options)
    code = 0 if result["gate"]["equal"] else 1
    if launched_rank() > 0:
        return code
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    console.print(_speed_table(result))
    console.print(_parts_table(result))
    ours = _ALONE if result["engine"] is None else _GROUP.format(engine=result["engine"])
    for line in [*_MEANINGS, ours, *_sentences(result)]:
        console.print(line, soft_wrap=True, highlight=False)
    write_result(result, output)
    return code


def _bench_students(recipe: str, overrides: list[str], options: StepBenchOptions, output: Path | None) -> int:
    """Measure several students, print, and write JSON; return as ``bench_step`` does.

    Raises:
        ConfigError: as ``bench_step``, or for options of one student.
    """
    if options.profile is not None:
        raise ConfigError("bench step --profile is for a recipe of one student")
    result = measure_students(recipe, overrides, options)
    code = 0 if result["gate"]["equal"] else 1
    if launched_rank() > 0:
        return code
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    table = Table(title=f"A step of the students of {result['recipe']} on {result['label']}", title_justify="left")
    table.add_column("student")
    for name in ("ms", "least-most", "clips/s", "GFLOPs a clip"):
        table.add_column(name, justify="right")
    for name, row in result["students"].items():
        least, most = row["step_ms_least_and_most"]
        count = f"{result['gflops_per_clip'][name]:.4g}"
        table.add_row(name, f"{row['step_ms']:.4g}", f"{least:.4g}-{most:.4g}", f"{row['clips_per_second']:.4g}", count)
    console.print(table)
    worst = f"{result['gate']['worst_relative_difference']:.1e}"
    sentence = f"No ratio: first losses or gradient norms differ from those of the students alone by {worst}."
    if not code:
        sentence = (
            f"Together: {result['time_over_alone']:.3f} of the time of the students alone, "
            f"{result['operations_over_alone']:.3f} of their operations; first losses and gradient norms agree within {worst}."
        )
    console.print(sentence, soft_wrap=True, highlight=False)
    write_result(result, output)
    return code


def _speed_table(result: dict[str, Any]) -> Table:
    table = Table(title=f"A step of {result['recipe']} on {result['label']}", title_justify="left")
    table.add_column("variant")
    columns = ("ms", "least-most", "clips/s", "student samples/s", "of matrix rate", "of datasheet", "peak GiB", "ours is")
    for name in columns:
        table.add_column(name, justify="right")
    times = result.get("times", {})
    for name, row in result["variants"].items():
        least, most = row["step_ms_least_and_most"]
        table.add_row(
            name,
            f"{row['step_ms']:.4g}",
            f"{least:.4g}-{most:.4g}",
            f"{row['clips_per_second']:.4g}",
            f"{row['student_samples_per_second']:.4g}",
            f"{row['mfu_of_matrix_rate']:.1%}",
            _or_dash(row["mfu_of_datasheet"], ".1%"),
            _or_dash(row["peak_gib"], ".2f"),
            f"{times[name]:.2f} x" if name in times else "",
        )
    return table


def _parts_table(result: dict[str, Any]) -> Table:
    table = Table(title="Milliseconds by part", title_justify="left")
    parts = list(result["variants"]["ours"]["parts_ms"])
    table.add_column("variant")
    for part in parts:
        table.add_column(part, justify="right")
    for name, row in result["variants"].items():
        table.add_row(name, *(f"{row['parts_ms'][part]:.4g}" for part in parts))
    return table


def _sentences(result: dict[str, Any]) -> list[str]:
    gate = result["gate"]
    lines = [f"Matrix rate measured in this run: {result['matrix_tflops']:.3g} TFLOP/s."]
    if not gate["equal"]:
        seen = ", ".join(f"{name} {loss:.6g} / {gate['gradient_norms'][name]:.6g}" for name, loss in gate["losses"].items())
        lines.append(
            f"No ratio: first losses or gradient norms differ by {gate['worst_relative_difference']:.2g}, more than "
            f"{gate['tolerance']:g}: {seen}."
        )
        return lines
    if result.get("times"):
        lines.append(f"First losses and gradient norms of all variants agree within {gate['worst_relative_difference']:.1e}.")
    if "fp8" in result:
        seen = ", ".join(f"{name} {value:.5f}" for name, value in result["variants"][FP8]["fp8_similarity"].items())
        lines.append(
            f"FP8 teachers: {result['fp8']:.2f} x the speed of ours; MFU counts operations as bf16. Cosine with bf16 features "
            f"at the 1st percentile of tokens (random weights and clips; a run judges by its own): {seen}."
        )
    compiled = result["variants"]["ours"]["compiled"]
    lines += [f"{where} is NOT compiled: {fault}" for where, fault in compiled.items() if fault != "yes"]
    lines.append("Blocks are compiled." if compiled else "Blocks are not compiled (engine.compile).")
    if "decoders" in result:
        decoders = result["decoders"]
        lines.append(
            f"Cross-attention decoders: {decoders['times']:.2f} x the speed of self-attention decoders of the same sizes; "
            f"{decoders['by_count_of_operations']:.2f} x by the count of operations."
        )
    if "masks" in result:
        masks = result["masks"]
        times = ", ".join(f"{masks[f'samples_times_{name}']:.2f} x those of {name}" for name in result["times"])
        lines.append(
            f"{result['geometry']['masks_per_clip']} masks: {masks['samples_times_one_mask']:.2f} x the student samples/s of "
            f"one, {masks['share']:.0%} of the {masks['by_count_of_operations']:.2f} x that the count of operations gives; "
            f"{times}."
        )
    return lines


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
