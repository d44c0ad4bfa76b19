"""Measurements of a step of several processes under DeepSpeed's engine, each with its own clips.

Run as a module, it is one of the processes; rank 0 prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from itertools import cycle
from typing import Any

import torch

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.tools.bench.clock import Clock, clock_of
from mvd_ds.tools.bench.product_step import EngineStep
from mvd_ds.tools.bench.step_variants import rank_batches, step_recipe
from mvd_ds.tools.machine.matmul import matrix_rate
from mvd_ds.tools.plan.memory import student_states
from mvd_ds.tools.plan.sizes import recipe_sizes
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.engine.deepspeed_start import zero_faults
from mvd_ds.training.engine.engine_config import Place, student_config

WARM_UP = 2
"""Untimed steps: the first makes the optimizer's states."""


def measure_ranks(
    name: str, overrides: list[str], counts: tuple[int, ...], device: torch.device, steps: int
) -> list[dict[str, Any]]:
    """Return milliseconds of the slowest process and GiB of state for every number of processes that this host can have.

    Raises:
        ConfigError: if a group of processes fails.
    """
    rows = []
    for count in counts:
        if device.type == "cuda" and count > torch.cuda.device_count():
            break
        specification = json.dumps({"recipe": name, "overrides": overrides, "device": device.type, "steps": steps})
        rows.append(_group(count, specification, device))
    return rows


def _group(count: int, specification: str, device: torch.device) -> dict[str, Any]:
    port = str(random.SystemRandom().randrange(20000, 32000))
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if device.type == "cpu":
        shared |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-Wignore", "-m", __name__, specification]
    processes = [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise ConfigError(f"growth: a group of {count} processes failed; their messages are above")
    row: dict[str, Any] = json.loads(next(line for line in said[0].splitlines() if line.startswith("{")))
    return row


def _measure(recipe: TrainingRecipe, cluster: Cluster, steps: int) -> dict[str, Any]:
    step, batches = EngineStep(recipe, cluster), cycle(rank_batches(recipe, cluster.rank))
    clock, rates = clock_of(cluster.device), []
    own, wall = [], []
    for number in range(WARM_UP + steps):
        if number >= WARM_UP:
            # Around every step, as in one process.
            rates.append(matrix_rate(cluster.device, clock))
        started, began = clock(), time.monotonic()
        step.backward(step.loss(next(batches), Clock(cluster.device)))
        step.update()
        if cluster.device.type == "cuda":
            torch.cuda.synchronize(cluster.device)
        own.append(clock() - started)
        wall.append(time.monotonic() - began)
    rates.append(matrix_rate(cluster.device, clock))
    sizes = recipe_sizes(recipe)
    config = student_config(recipe, Place(cluster.world, cluster.world), sizes.student.thresholds, zero_faults)
    is_bf16 = recipe.engine.precision == "bf16"
    planned = student_states(sizes.student, config, cluster.world, is_bf16).total
    planned += sum((2 if is_bf16 else 4) * teacher.parameters for teacher in sizes.teachers.values())
    return {
        "processes": cluster.world,
        "milliseconds": 1e3 * max(cluster.gather(statistics.median(own[WARM_UP:]))),
        "matrix_tflops": min(cluster.gather(statistics.mean(rates))),
        "wall_milliseconds": 1e3 * max(cluster.gather(statistics.median(wall[WARM_UP:]))),
        "state_gib": max(cluster.gather(step.held_bytes())) / 2**30,
        "planned_state_gib": planned / 2**30,
        "engine": {"zero_optimization": config["zero_optimization"]},
    }


def main() -> None:
    """Measure as one process of a group."""
    asked = json.loads(sys.argv[1])
    with joined_cluster(10, asked["device"]) as cluster:
        recipe = step_recipe(asked["recipe"], asked["overrides"], "recipe", cluster.device, cluster.world)
        row = _measure(recipe, cluster, asked["steps"])
        if cluster.is_main:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
