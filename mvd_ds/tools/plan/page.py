"""The page and the plot of a plan."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mvd_ds.config import ConfigError
from mvd_ds.tools.machine.devices import Machine
from mvd_ds.tools.plan.case import Case, Change, Plan

GIB = 2**30


def print_plan(plan: Plan, machine: Machine) -> None:
    """Print the page on standard output."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    device = machine.device
    console.print(
        f"{plan.name} on {plan.gpus} x {device.name}, {machine.gpus_per_node} a node, "
        f"network {machine.network * 8 / 1e9:,.0f} Gb/s a node. Assumed, not measured: arithmetic at "
        f"{machine.efficiency:.0%} of {device.matrix_tflops:.0f} TFLOP/s"
    )
    for note in plan.notes:
        console.print(note)
    if plan.case is None:
        nearest = " and ".join(map(str, plan.nearest))
        console.print(
            Text(f"no micro batch divides the global batch on {plan.gpus} GPUs; one does on {nearest}", style="bold red")
        )
    else:
        if plan.smaller_micro:
            console.print(
                f"batch.micro {plan.smaller_micro} is meant: the recipe's does not divide batch.global on {plan.gpus} GPUs"
            )
        _print_case(console, plan, plan.case)
    console.print(_table("every engine config on this number of GPUs, the best first", plan.configs, by_config=True))
    console.print(_table("more and fewer GPUs", plan.scaling, by_config=False))
    shown = ", ".join(map(str, plan.admissible)) or "none"
    console.print(f"\nGPUs on which micro batches as asked divide the global batch: {shown}")


def _print_case(console: Console, plan: Plan, case: Case) -> None:
    console.print(_parts("one GPU", case.memory.device, case.memory.device_bytes, case.machine.device.memory_gib, case.fits))
    console.print(_parts("host memory of a node", case.memory.host, case.memory.host_bytes, case.machine.device.host_memory_gib))
    console.print(_times(case))
    console.print(
        f"\n{case.clips_per_second:,.0f} clips/s, MFU {case.mfu:.1%}; {case.steps:,} steps: {case.hours:,.1f} hours, "
        f"{case.hours * case.gpus:,.0f} GPU-hours; loaders need {case.cores_per_node:,.0f} cores of a node's "
        f"{case.machine.cores_per_node} to keep up"
    )
    if not case.fits and plan.change is None:
        console.print(Text("it does not fit, and no setting known here makes it", style="bold red"))
    if plan.larger_micro is not None:
        _print_larger_micro(console, case, plan.larger_micro)
    if plan.change is None:
        return
    changed = plan.change.case
    settings = " ".join(plan.change.overrides)
    if case.fits:
        console.print(f"faster, and fits: {settings}")
    else:
        console.print(Text(f"it does not fit; the cheapest way that does: {settings}", style="bold red"))
    console.print(
        f"  {changed.memory.device_bytes / GIB:.1f} GiB, {changed.time.total / case.time.total:.2f} times the time of a step"
    )


def _print_larger_micro(console: Console, case: Case, larger: Change) -> None:
    steps, fewer = [found.recipe.batch.accumulation_steps(found.gpus) for found in (case, larger.case)]
    idle = f"{case.memory.device_bytes / GIB:.1f} of {case.machine.device.memory_gib:,.1f} GiB"
    filled = f"{larger.case.memory.device_bytes / GIB:.1f} GiB, {fewer} in place of {steps} micro batches a step"
    console.print(f"memory is idle ({idle}): {' '.join(larger.overrides)}")
    ratio = larger.case.time.total / case.time.total
    console.print(f"  {filled}; {ratio:.2f} times the time of a step, not counting that larger kernels are more efficient")


def _parts(title: str, parts: dict[str, float], total: float, limit_gib: float, fits: bool | None = None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"\n{title}", title_justify="left", show_header=False)
    table.add_column("part")
    table.add_column("GiB", justify="right")
    for name, size in parts.items():
        table.add_row(name, f"{size / GIB:.2f}")
    too_much = total > limit_gib * GIB if fits is None else not fits
    table.add_row(Text(f"all, of {limit_gib:,.1f}", style="bold red" if too_much else "bold"), f"{total / GIB:.2f}")
    return table


def _times(case: Case) -> Table:
    """Return a table of the seconds of a step, and of those that are hidden behind others."""
    time = case.time
    table = Table(box=None, padding=(0, 2, 0, 0), title="\na step", title_justify="left")
    for name in ("part", "seconds", "of it hidden"):
        table.add_column(name, justify="left" if name == "part" else "right")
    behind = time.student + time.recomputation if time.overlaps else 0.0
    rows = {
        "teachers": (time.teachers, 0.0),
        "student, forward and backward": (time.student, 0.0),
        "recomputation": (time.recomputation, 0.0),
        "optimizer": (time.optimizer + time.offload, 0.0),
        "gathering teachers": (time.teacher_communication, min(time.teacher_communication, time.teachers)),
        "weights and gradients, each micro batch": (time.student_communication, min(time.student_communication, behind)),
        "weights and gradients, each step": (time.step_communication, 0.0),
        "clips to the device": (time.copies, 0.0),
        "loading and decoding": (time.data, min(time.data, time.device)),
    }
    for name, (seconds, hidden) in rows.items():
        if seconds:
            table.add_row(name, f"{seconds:.4f}", f"{hidden:.4f}" if hidden else "")
    table.add_row(Text("a step", style="bold"), f"{time.total:.4f}", "")
    return table


def _table(title: str, cases: list[Case], by_config: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"\n{title}", title_justify="left")
    table.add_column("engine config" if by_config else "GPUs")
    for name in ("batch", "GiB", "step s", "waits", "clips/s", "MFU", "hours", "GPU-hours", "cores a node"):
        table.add_column(name, justify="right")
    for case in cases:
        time, batch = case.time, case.recipe.batch
        waits = (time.visible_communication + time.visible_data) / time.total
        table.add_row(
            case.recipe.engine.config if by_config else str(case.gpus),
            f"{batch.micro} x {batch.accumulation_steps(case.gpus)}",
            Text(f"{case.memory.device_bytes / GIB:.1f}", style="" if case.fits else "bold red"),
            f"{time.total:.3f}",
            f"{waits:.0%}",
            f"{case.clips_per_second:,.0f}",
            f"{case.mfu:.0%}",
            f"{case.hours:,.1f}",
            f"{case.hours * case.gpus:,.0f}",
            Text(f"{case.cores_per_node:.0f}", style="red" if case.cores_per_node > case.machine.cores_per_node else ""),
        )
    return table


def plot_scaling(plan: Plan, machine: Machine, path: Path) -> None:
    """Draw clips/s and GPU-hours against the number of GPUs; the file's extension says the format.

    Raises:
        ConfigError: if that is not one of a picture.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    counts = [case.gpus for case in plan.scaling]
    figure, (speed, cost) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    if path.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise ConfigError(f"--plot {path}: '{path.suffix}' is no format of a picture; write plan.png, plan.svg or plan.pdf")
    speed.loglog(counts, [case.clips_per_second for case in plan.scaling], "o-", label="planned")
    first = plan.scaling[0]
    speed.loglog(counts, [first.clips_per_second / first.gpus * count for count in counts], ":", label="in proportion")
    cost.loglog(counts, [case.hours * case.gpus for case in plan.scaling], "o-", label="GPU-hours")
    cost.loglog(counts, [case.hours for case in plan.scaling], "s-", label="hours")
    too_large = [case for case in plan.scaling if not case.fits]
    if too_large:
        places, speeds = [case.gpus for case in too_large], [case.clips_per_second for case in too_large]
        speed.loglog(places, speeds, "x", color="red", label="does not fit")
    for axes, name in ((speed, "clips/s"), (cost, "hours")):
        axes.set(xlabel="GPUs", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{plan.name} on {machine.device.name}, planned")
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    figure.savefig(aside)
    os.replace(aside, path)
    pyplot.close(figure)
