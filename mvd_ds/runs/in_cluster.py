"""Training runs in the processes of the launcher: joined, unless the run is finished already, and left with an exit code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NoReturn

import torch

from mvd_ds.config import ConfigError, LearningRecipe
from mvd_ds.runs.inputs import contents_with_videos
from mvd_ds.runs.one_run import OneRun
from mvd_ds.runs.results_folder import require_no_results
from mvd_ds.runs.trainer import Trainer
from mvd_ds.training.cluster import Cluster, launched_rank
from mvd_ds.training.console import say
from mvd_ds.training.contents import Contents, is_finished
from mvd_ds.training.engine.deepspeed_engine import joined_cluster
from mvd_ds.training.engine.elasticity import leave_out_surplus
from mvd_ds.training.liveness.attempt import attempt_of
from mvd_ds.training.liveness.launcher import LauncherWatch
from mvd_ds.training.liveness.stop import StopRequests
from mvd_ds.training.reporting.writers.table import require_writers
from mvd_ds.training.run_folder import EXIT_CODES, FINISHED, RunFolder


def run_in_cluster(recipe: LearningRecipe, name: str, build: Callable[[RunFolder, Cluster], Trainer]) -> int:
    """Train what ``build`` gives in the processes of the launcher, unless the folder of recipe ``name`` holds the finished run.

    Returns:
        Exit code of where the run stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training.
    """
    folder = RunFolder.of(recipe, name)
    if is_finished_run(recipe, folder):
        return FINISHED
    with launched(recipe) as (cluster, stop):
        trainer = build(folder, cluster)
        last_step = recipe.schedule.last_step(trainer.loader.steps_per_epoch)
        with attempt_of(recipe, folder, cluster, stop, last_step) as attempt:
            run = OneRun(trainer, attempt, common_contents(recipe, folder, cluster))
            run.load()
            run.make_ready()
            try:
                stopped = run.training.run(run.first_step, run.end)
            finally:
                run.close()
            run.finish(stopped)
            return EXIT_CODES[cluster.broadcast(attempt.status.values["state"])]


@contextlib.contextmanager
def launched(recipe: LearningRecipe) -> Iterator[tuple[Cluster, StopRequests]]:
    """Join the processes of the launcher; inside, requests to stop are heard.

    Raises:
        ConfigError: for writers that are not here, or processes that do not find each other.
    """
    require_writers(recipe.run.writers)
    leave_out_surplus(recipe.batch)
    stop = StopRequests()
    with (
        LauncherWatch(stop, speaks=launched_rank() == 0),
        joined_cluster(recipe.engine.timeout_minutes, recipe.run.device) as cluster,
        stop,  # from here on; a process that still waits for the others ends at a signal as any does
    ):
        torch.use_deterministic_algorithms(recipe.run.deterministic)
        yield cluster, stop


def common_contents(recipe: LearningRecipe, folder: RunFolder, cluster: Cluster) -> Contents:
    """Return the digests of a run's inputs, read by rank 0, on every rank. Collective.

    Raises:
        ConfigError: on every rank, if one cannot be read.
    """
    with cluster.together():
        read = contents_with_videos(recipe, folder.digests) if cluster.is_main else None
    contents: Contents = cluster.broadcast(read)
    return contents


def fail_in_cluster(recipe: LearningRecipe, fault: ConfigError) -> NoReturn:
    """Raise on every rank what this rank met before it joined the others, who may have met nothing: rank 0 speaks for all.

    Raises:
        ConfigError: the fault.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with joined_cluster(recipe.engine.timeout_minutes, recipe.run.device) as cluster, cluster.together():
            raise fault
    raise fault


def is_finished_run(recipe: LearningRecipe, folder: RunFolder) -> bool:
    """Return whether the run is at its end already, and say so.

    Raises:
        ConfigError: if ``run.resume`` is never and the folder holds a run, or if it holds results of another command.
    """
    require_no_results(folder, recipe)
    if recipe.run.resume == "never" and (folder.checkpoints / "latest").exists():
        raise ConfigError(f"run.resume never: {folder.path} holds a run; choose another run.output or remove it")
    finished = is_finished(folder, recipe, folder.model.name, contents_with_videos)
    if finished and launched_rank() == 0:
        say(f"{folder.path} is finished; nothing to do")
    return finished
