"""The command ``plan``: compute memory, time and cost of a recipe before anything is started."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mvd_ds.tools.parser import above_zero, add_recipe, positive

SUMMARY = "compute memory, time and cost of a recipe on a number of GPUs, before anything is started"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``plan`` to its parser."""
    add_recipe(parser)
    add = parser.add_argument
    add("--gpus", type=positive, default=8, metavar="COUNT", help="number of devices (default %(default)s)")
    add("--gpu", default="h200", metavar="NAME", help="kind of device, or cpu (default %(default)s)")
    add("--network", metavar="RATE", help="400Gb/s: one adapter a GPU; 2x200Gb/s: the adapters of a node")
    add("--gpus-per-node", type=positive, metavar="COUNT", help="devices of a node")
    add("--cores-per-node", type=positive, metavar="COUNT", help="CPU cores of a node")
    add("--clips", type=positive, metavar="COUNT", help="clips of an epoch (default: the manifest's)")
    decode = "CPU milliseconds to load a clip (default %(default)s: 340 x 256 H.264; prepared files: 27)"
    add("--decode", type=above_zero, default=65.0, metavar="MS", help=decode)
    efficiency = "share of the device's matrix rate that a step reaches (default: the device's; 0.45 for GPUs is an assumption)"
    add("--efficiency", type=above_zero, metavar="SHARE", help=efficiency)
    add("--measured", type=Path, metavar="FILE", help="results of `prove` on that device: its matrix rate and efficiency")
    add("--cache", action="store_true", help="also plan a cache of its targets: bytes, time to fill, epochs until it has paid")
    add("--json", type=Path, metavar="FILE", help="write every number")
    add("--plot", type=Path, metavar="FILE", help="draw speed and cost over 1 to 1,024 GPUs")


def run(options: argparse.Namespace) -> int:
    """Compute the plan and print it; the exit code is 1 if the recipe does not fit."""
    # A plan starts no engine; DeepSpeed would look for a device and warn of none.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from mvd_ds.tools.machine.devices import find_machine
    from mvd_ds.tools.plan.cache import plan_cache, print_cache
    from mvd_ds.tools.plan.measured import as_measured
    from mvd_ds.tools.plan.plan import Planner, write_plan

    machine = find_machine(options.gpu, options.network, options.gpus_per_node, options.cores_per_node, options.efficiency)
    if options.measured is not None:
        machine = as_measured(machine, options.measured)
    planner = Planner(options.recipe, options.overrides, machine, options.clips, options.decode)
    plan, cache = planner.plan(options.gpus), plan_cache(planner, options.gpus) if options.cache else None
    code = write_plan(plan, machine, options.json, options.plot, None if cache is None else {"cache": cache.as_json()})
    if cache is not None:
        print_cache(cache)
    return code
