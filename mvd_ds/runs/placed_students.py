"""Students with the processes that they learn on: all those of a run, or ranks that some own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.data.loader import ClipLoader
from mvd_ds.runs.one_run import OneRun
from mvd_ds.runs.trainer import Trainer
from mvd_ds.training.cluster import Cluster
from mvd_ds.training.ending import Diverged
from mvd_ds.training.engine.deepspeed_groups import RankGroup
from mvd_ds.training.liveness.attempt import Attempt
from mvd_ds.training.loop import Stopped
from mvd_ds.training.prefetch import DeviceBatches
from mvd_ds.training.students.groups import Agreed, GroupStop, OwnBatches, OwnLoader, OwnMember, Rounds
from mvd_ds.training.students.handing import HandOver, Owner
from mvd_ds.training.students.shared import TeacherPass, view_of


class Placed:
    """Students with their processes: all those of the run, or some that a student owns.

    Attributes:
        loader: of this process's share of all clips.
        agreed: what the processes know of broken videos.
        shared: returns the pass of the teachers.
        trainers: of the students that this process learns with.
        asking: processes over which sharded teachers are spread, this one among them; None: all, or none are sharded.
    """

    loader: ClipLoader
    agreed: Agreed
    shared: Callable[[], TeacherPass]

    def __init__(self, recipe: TrainingRecipe, alone: dict[str, TrainingRecipe], cluster: Cluster) -> None:
        """Make the groups of processes for ``alone``, the students' own recipes. Collective.

        Raises:
            ConfigError: on every rank, for processes that are not there, or do not divide the batch.
        """
        self.recipe, self.alone, self.cluster = recipe, alone, cluster
        self.owners = {key: recipe.students[key].owners(cluster.world) for key in alone}
        self.trainers: dict[str, Trainer] = {}
        with cluster.together():
            for key, ranks in self.owners.items():
                if ranks.stop > cluster.world:
                    stated = f"students.{key}.ranks {recipe.students[key].ranks}"
                    raise ConfigError(f"{stated}: this run has {cluster.world} processes, of which the first is 0")
                alone[key].batch.accumulation_steps(len(ranks))
        minutes = recipe.engine.timeout_minutes
        self.groups = {key: RankGroup(ranks, cluster, minutes) for key, ranks in self.owners.items()}
        self.is_owned = any(recipe.students[key].ranks is not None for key in alone)
        is_sharded = any(teacher.placement != "replicated" for teacher in recipe.asked_teachers.values())
        self.asking = self._learn_alike(minutes) if self.is_owned and is_sharded else None

    def _learn_alike(self, timeout_minutes: float) -> RankGroup:
        """Return the processes that learn with the same students as this one. Collective.

        A teacher that is spread over those can be asked by all processes of the run, and by all of one student alone, for its
        pictures, or where its step was not finite.
        """
        alike: dict[tuple[str, ...], list[int]] = {}
        for rank in range(self.cluster.world):
            alike.setdefault(tuple(key for key, own in self.owners.items() if rank in own), []).append(rank)
        groups = [RankGroup(ranks, self.cluster, timeout_minutes) for ranks in alike.values()]
        return next(group for group in groups if group.cluster is not None)

    def each(self, names: Iterable[str], do: Callable[[str, Cluster], None]) -> None:
        """Call ``do`` of the students that this process learns with, on their processes as if there were no others. Collective.

        Raises:
            ConfigError: on every rank of the run, for what one raised.
        """
        for key in names:
            with self.cluster.together():
                if self.groups[key].cluster is not None:
                    with self.groups[key].inside() as own:
                        do(key, own)


def gathered(cluster: Cluster, mine: dict[str, Any]) -> dict[str, Any]:
    """Return what the processes say of their students, by name. Collective."""
    return {key: value for part in cluster.gather(mine) for key, value in part.items()}


def train_by_rounds(
    placed: Placed,
    runs: dict[str, OneRun],
    spans: dict[str, tuple[int, int]],
    attempt: Attempt,
    stop: GroupStop,
    flops: Callable[[tuple[str, ...]], float],
) -> dict[str, Stopped | Diverged]:
    """Train students of which some own ranks, from their first steps to their ends, and return how each ended. Collective.

    Raises:
        ConfigError: on every rank, for what ends them all.
    """
    recipe, cluster, loader, shared = placed.recipe, placed.cluster, placed.loader, placed.shared()
    states = gathered(cluster, {key: cast(OwnLoader, run.trainer.loader).restored for key, run in runs.items()})
    loader.restore(states[max(spans, key=lambda key: spans[key][0])])
    placed.agreed.state = loader.state()
    first = min((start for start, end in spans.values() if start < end), default=0)
    last = max(end for _, end in spans.values())
    per_round = recipe.batch.accumulation_steps(cluster.world)
    each = per_round * cluster.world
    owners = {key: Owner(placed.owners[key], each * start, each * end) for key, (start, end) in spans.items()}
    members = {}
    for key, run in runs.items():
        own = run.trainer.recipe
        assert isinstance(own, TrainingRecipe)
        batches = OwnBatches(shared, view_of(own.drop_path_blocks))
        steps = run.training.steps(run.first_step, run.end, batches)
        members[key] = OwnMember(key, run.training, batches, run.end, steps, placed.groups[key].inside)
    seen = {recipe.data.clip.size_px}
    hand_over = HandOver(cluster, set(shared.source.views.values()) - seen)
    clips = DeviceBatches(loader.batches(first, last), cluster.device)
    rounds = Rounds(attempt, clips, per_round, shared, placed.agreed, stop, hand_over, owners, members, flops)
    return rounds.run(first, last)
