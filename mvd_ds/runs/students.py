"""``distill`` with ``students``: each is a whole run in a folder of its own; clips and the teachers' pass are common to all."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.config.reading import read_yaml
from mvd_ds.data.loader import ClipLoader
from mvd_ds.runs.building import (
    Frozen,
    Planned,
    cached_types,
    describe_teachers,
    make_targets,
    plan_student,
    plan_teachers,
    start_trainer,
)
from mvd_ds.runs.in_cluster import common_contents, is_finished_run, launched
from mvd_ds.runs.one_run import OneRun
from mvd_ds.runs.student import students_flops
from mvd_ds.runs.trainer import Trainer, describe_batches
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.console import say
from mvd_ds.training.ending import Diverged
from mvd_ds.training.liveness.attempt import Attempt, attempt_of
from mvd_ds.training.loop import Stopped
from mvd_ds.training.prefetch import DeviceBatches
from mvd_ds.training.run_folder import EXIT_CODES, FINISHED, RunFolder
from mvd_ds.training.step import TeacherTargets
from mvd_ds.training.students.attempt import CommonStop, StudentAttempt, StudentStop
from mvd_ds.training.students.shared import SharedBatches, SharedTargets, StudentBatches, StudentLoader, TeacherPass, view_of
from mvd_ds.training.students.together import Member, train_together


def train_students(recipe: TrainingRecipe, name: str) -> int:
    """Train all students of the recipe ``name`` to their ends, each from its newest checkpoint if it has one.

    Returns:
        Exit code of where the run of all stands: ``run_folder.EXIT_CODES``.

    Raises:
        ConfigError: for whatever the user can mend; on every rank, before or during training. A student whose numbers end it
            is named once the others are done.
    """
    folder = RunFolder.of(recipe, name)
    if (folder.checkpoints / "latest").exists():
        raise ConfigError(f"run.output {folder.path}: holds a run of one student; choose another run.output for several")
    alone = {key: recipe.student(key) for key in recipe.students}
    folders = {key: RunFolder.of(own, name) for key, own in alone.items()}
    left = {key: own for key, own in alone.items() if not is_finished_run(own, folders[key])}
    if not left:
        return FINISHED
    with launched(recipe) as (cluster, stop):
        loader, trainers = _build(recipe, left, folder, folders, cluster)
        _tell_changes(recipe, folder, cluster)
        last_step = max(own.schedule.last_step(loader.steps_per_epoch) for own in left.values())
        with attempt_of(recipe, folder, cluster, stop, last_step) as attempt:
            inside = {key: os.path.relpath(own.path, folder.path) for key, own in folders.items()}
            attempt.status.values["students"] = inside
            states, faults = _train(recipe, loader, trainers, attempt)
            if faults:
                raise Diverged("\n".join(faults))
            state = next((state for state in ("preempted", "stopped") if state in states), "finished")
            if cluster.is_main:
                attempt.status.write(state, attempt.status.values["step"])
            attempt.status.values["state"] = state
            return EXIT_CODES[state]


def _build(
    recipe: TrainingRecipe, alone: dict[str, TrainingRecipe], folder: RunFolder, folders: dict[str, RunFolder], cluster: Cluster
) -> tuple[ClipLoader, dict[str, Trainer]]:
    """Look at every file, say what will happen, and start the engines. Collective.

    Raises:
        ConfigError: for whatever the user can mend; on every rank.
    """
    planned: dict[str, Planned] = {}
    with cluster.together():
        given = cached_types(recipe, folder, cluster.is_main)
        blocks = max(own.drop_path_blocks for own in alone.values())
        loader = ClipLoader(recipe, blocks, cluster.rank, cluster.world, pin=cluster.device.type == "cuda")
        teachers = plan_teachers(recipe, folder, cluster.is_main)
        for key, own in alone.items():
            planned[key] = plan_student(own)
    if cluster.is_main:
        describe_teachers(recipe)
        for key, own in alone.items():
            say(f"student {key}: {describe_batches(own, cluster, loader)}")
        for line in loader.describe(recipe.schedule.last_step(loader.steps_per_epoch)):
            say(line)

    @functools.cache
    def shared() -> TeacherPass:
        source = make_targets(recipe, teachers, cluster, given)
        assert isinstance(source, TeacherTargets)
        return TeacherPass(source)

    flops, trainers = students_flops(list(alone.values())), {}
    for key, own in alone.items():
        seen = StudentLoader(loader, view_of(own.drop_path_blocks))
        frozen = Frozen(seen, lambda each: SharedTargets(each, shared()), flops)
        trainers[key] = start_trainer(planned[key], folders[key], cluster, frozen, f"student {key}: ")
    return loader, trainers


def _tell_changes(recipe: TrainingRecipe, folder: RunFolder, cluster: Cluster) -> None:
    """Say which students are new since the last start in this folder, and which are left out."""
    stored = folder.path / "recipe.yaml"
    if not cluster.is_main or not stored.is_file():
        return
    earlier = read_yaml(stored, lambda _: None).get("students") or {}
    for key in earlier.keys() - recipe.students.keys():
        say(f"student {key}: left out from here on; its run stays as it is, and goes on when it is among students again")
    for key in recipe.students.keys() - earlier.keys():
        say(f"student {key}: is new, and learns alone from its first step until it has caught up with the others")


def _train(
    recipe: TrainingRecipe, loader: ClipLoader, trainers: dict[str, Trainer], attempt: Attempt
) -> tuple[list[str], list[str]]:
    """Train all students, and return the states of those that ended well and the faults of the others, a line each. Collective.

    Raises:
        ConfigError: on every rank, for what ends them all.
    """
    cluster, stop = attempt.cluster, CommonStop(attempt.stop)
    with contextlib.ExitStack() as students:
        runs: dict[str, OneRun] = {}
        for key, trainer in trainers.items():
            own = StudentAttempt(key, trainer.recipe, trainer.folder, _last_step(trainer), attempt, stop)
            students.enter_context(_recorded(own))
            runs[key] = OneRun(trainer, own, common_contents(trainer.recipe, trainer.folder, cluster))
        attempt.stop.save_seconds = lambda: sum(run.attempt.stop.save_seconds() for run in runs.values())
        with cluster.together():
            if cluster.is_main:
                attempt.folder.open(recipe, next(iter(runs.values())).contents)
        for run in runs.values():
            run.load()
        # The furthest comes last: it knows all that the others do of broken videos.
        for run in sorted(runs.values(), key=lambda run: run.first_step):
            run.make_ready()
        try:
            members = _members(recipe, loader, runs, cluster)
            ended = train_together(members, functools.cache(lambda names: students_flops([recipe.student(n) for n in names])))
        finally:
            loader.close()
            for run in runs.values():
                run.close()
        return _finish(runs, ended)


def _members(recipe: TrainingRecipe, loader: ClipLoader, runs: dict[str, OneRun], cluster: Cluster) -> list[Member]:
    """Return the students with the micro batches that they share, from the first that any of them still has to learn from."""
    steps = recipe.batch.accumulation_steps(cluster.world)
    # One that was killed after its last step, while others went on, is here for its export alone.
    first = min((run.first_step for run in runs.values() if run.first_step < run.end), default=0)
    clips = loader.batches(first, max(run.end for run in runs.values()))
    shared = SharedBatches(DeviceBatches(clips, cluster.device), first * steps)
    members = []
    for key, run in runs.items():
        own, stop = run.trainer.recipe, run.attempt.stop
        assert isinstance(own, TrainingRecipe) and isinstance(stop, StudentStop)
        stop.next_step = run.first_step
        batches = StudentBatches(shared, run.first_step * steps, view_of(own.drop_path_blocks))
        members.append(Member(key, run.training, batches, run.first_step, run.end))
    return members


def _finish(runs: dict[str, OneRun], ended: dict[str, Stopped | Diverged]) -> tuple[list[str], list[str]]:
    """Export every student that is at its end; return states and faults as ``_train`` does. Collective."""
    states, faults = [], []
    for key, run in runs.items():
        end = ended[key]
        try:
            if isinstance(end, Diverged):
                raise end
            run.finish(end)
            states.append(str(run.attempt.status.values["state"]))
        except Diverged as fault:
            run.attempt.fail(fault)
            faults.append(f"student {key}: {fault}")
    return run.trainer.cluster.broadcast((states, faults))


def _last_step(trainer: Trainer) -> int:
    return trainer.recipe.schedule.last_step(trainer.loader.steps_per_epoch)


@contextlib.contextmanager
def _recorded(attempt: StudentAttempt) -> Iterator[None]:
    """Begin a student's part of an attempt; whatever ends it is recorded. Collective.

    Raises:
        ConfigError: as ``StudentAttempt.begin``.
    """
    attempt.begin()
    try:
        yield
    except BaseException as error:
        attempt.fail(error)
        raise
    attempt.end(str(attempt.status.values["state"]))
