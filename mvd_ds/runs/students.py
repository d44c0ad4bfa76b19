"""``distill`` with ``students``: each is a whole run in a folder of its own; clips and the teachers' pass are common to all."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.config.reading import read_yaml
from mvd_ds.data.loader import ClipLoader
from mvd_ds.runs.building import (
    Frozen,
    Planned,
    ask_teachers,
    cached_types,
    describe_teachers,
    make_targets,
    plan_student,
    plan_teachers,
    start_trainer,
)
from mvd_ds.runs.in_cluster import common_contents, is_finished_run, launched
from mvd_ds.runs.one_run import OneRun
from mvd_ds.runs.placed_students import Placed, gathered, train_by_rounds
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
from mvd_ds.training.students.groups import Agreed, GroupStop, OwnLoader
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
        placed = Placed(recipe, left, cluster)
        _build(placed, folder, folders)
        _tell_changes(recipe, folder, cluster)
        last_step = max(own.schedule.last_step(placed.loader.steps_per_epoch) for own in left.values())
        with attempt_of(recipe, folder, cluster, stop, last_step) as attempt:
            inside = {key: os.path.relpath(own.path, folder.path) for key, own in folders.items()}
            attempt.status.values["students"] = inside
            states, faults = _train(placed, attempt)
            if faults:
                raise Diverged("\n".join(faults))
            state = next((state for state in ("preempted", "stopped") if state in states), "finished")
            if cluster.is_main:
                attempt.status.write(state, attempt.status.values["step"])
            attempt.status.values["state"] = state
            return EXIT_CODES[state]


def _build(placed: Placed, folder: RunFolder, folders: dict[str, RunFolder]) -> None:
    """Look at every file, say what will happen, and start the engines. Collective.

    Raises:
        ConfigError: for whatever the user can mend; on every rank.
    """
    recipe, alone, cluster = placed.recipe, placed.alone, placed.cluster
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
            its = dataclasses.replace(cluster, world=len(placed.owners[key]))
            where = f"ranks {own_ranks}, " if (own_ranks := recipe.students[key].ranks) else ""
            say(f"student {key}: {where}{describe_batches(own, its, loader)}")
        for line in loader.describe(recipe.schedule.last_step(loader.steps_per_epoch)):
            say(line)

    @functools.cache
    def shared() -> TeacherPass:
        if placed.asking is None:
            source = make_targets(recipe, teachers, cluster, given)
            assert isinstance(source, TeacherTargets)
            return TeacherPass(source)
        with cluster.together(), placed.asking.inside() as own:
            return TeacherPass(ask_teachers(recipe, teachers, own), placed.asking.inside)

    placed.loader, placed.agreed, placed.shared = loader, Agreed(loader), shared
    flops = students_flops(list(alone.values()))

    def start(key: str, own: Cluster) -> None:
        view = view_of(alone[key].drop_path_blocks)
        its = OwnLoader(loader.of(own.rank, own.world), placed.agreed, view) if placed.is_owned else StudentLoader(loader, view)
        frozen = Frozen(its, lambda each: SharedTargets(each, shared()), flops)
        placed.trainers[key] = start_trainer(planned[key], folders[key], own, frozen, f"student {key}: ")

    placed.each(alone, start)


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


def _train(placed: Placed, attempt: Attempt) -> tuple[list[str], list[str]]:
    """Train all students, and return the states of those that ended well and the faults of the others, a line each. Collective.

    Raises:
        ConfigError: on every rank, for what ends them all.
    """
    cluster = attempt.cluster
    stop = GroupStop(attempt.stop) if placed.is_owned else CommonStop(attempt.stop)
    with contextlib.ExitStack() as students:
        runs: dict[str, OneRun] = {}

        def begin(key: str, own: Cluster) -> None:
            trainer, its = placed.trainers[key], own if placed.is_owned else None
            if own.is_main:
                attempt.log.speak()
            part = StudentAttempt(key, trainer.recipe, trainer.folder, _last_step(trainer), attempt, stop, its)
            students.enter_context(_recorded(part))
            runs[key] = OneRun(trainer, part, common_contents(trainer.recipe, trainer.folder, own))

        placed.each(placed.alone, begin)
        attempt.stop.save_seconds = lambda: sum(run.attempt.stop.save_seconds() for run in runs.values())
        known = [run.contents for run in runs.values()]
        contents = next(found[0] for found in cluster.gather(known) if found)
        with cluster.together():
            if cluster.is_main:
                attempt.folder.open(placed.recipe, contents)
        placed.each(placed.alone, lambda key, _: runs[key].load())
        placed.shared()
        spans = gathered(cluster, {key: (run.first_step, run.end) for key, run in runs.items()})
        # The furthest comes last: it knows all that the others do of broken videos.
        placed.each(sorted(spans, key=lambda key: spans[key][0]), lambda key, _: runs[key].make_ready())
        try:
            flops = functools.cache(lambda names: students_flops([placed.recipe.student(name) for name in names]))
            if isinstance(stop, GroupStop):
                ended = train_by_rounds(placed, runs, spans, attempt, stop, flops)
            else:
                ended = train_together(_members(placed.recipe, placed.loader, runs, cluster), flops)
        finally:
            placed.loader.close()
            for run in runs.values():
                run.close()
        return _finish(placed, runs, ended)


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


def _finish(placed: Placed, runs: dict[str, OneRun], ended: dict[str, Stopped | Diverged]) -> tuple[list[str], list[str]]:
    """Export every student that is at its end; return states and faults as ``_train`` does. Collective."""
    states: dict[str, str] = {}
    faults: dict[str, str] = {}

    def finish(key: str, own: Cluster) -> None:
        run, end = runs[key], ended[key]
        try:
            if isinstance(end, Diverged):
                raise end
            run.finish(end)
            told, line = states, str(run.attempt.status.values["state"])
        except Diverged as fault:
            run.attempt.fail(fault)
            told, line = faults, f"student {key}: {fault}"
        if own.is_main:
            told[key] = line

    placed.each(placed.alone, finish)
    states, faults = gathered(placed.cluster, states), gathered(placed.cluster, faults)
    return list(states.values()), list(faults.values())


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
