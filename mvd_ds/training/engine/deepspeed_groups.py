"""The third pane of the window: processes of a run that are by themselves for a while, as if nobody else were there.

DeepSpeed 0.19 asks torch for the default process group in a hundred places: its barriers of a save, the sources of its broadcasts
and the names of its shards do so whatever group an engine was given. So inside a ``RankGroup`` the default group *is* the smaller
one; ranks count from 0 there, and an engine is that of a run of its own on so many processes.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch.distributed as dist

from mvd_ds.training.cluster import Cluster
from mvd_ds.training.engine.deepspeed_engine import LATER_MINUTES, import_deepspeed


class RankGroup:
    """Some processes of a run, or all of them; made by all, in the same order.

    Args:
        ranks: its processes as the run counts them.
        cluster: the processes of the run.
        timeout_minutes: as of ``join_cluster``.

    Attributes:
        cluster: its processes as they count themselves, on those that are in it; elsewhere None.
    """

    def __init__(self, ranks: Sequence[int], cluster: Cluster, timeout_minutes: float) -> None:
        self.ranks, self.cluster = ranks, cluster if cluster.rank in ranks else None
        self._group: Any = None
        self._environment: dict[str, str] = {}
        self._known: dict[str, Any] = {}
        self._counts = (0, 0)
        if len(ranks) == cluster.world:
            return
        timeout = datetime.timedelta(minutes=timeout_minutes + LATER_MINUTES)
        group = dist.new_group(list(ranks), timeout=timeout)
        hosts = dist.new_group(list(ranks), timeout=timeout, backend="gloo") if cluster.hosts is not None else None
        # The first process of each one's host tells who share a host.
        firsts = cluster.gather(cluster.rank - int(os.environ["LOCAL_RANK"]))
        if self.cluster is not None:
            self._group = group
            self.cluster = Cluster(ranks.index(cluster.rank), len(ranks), cluster.device, hosts, ranks[0])
            beside = sum(firsts[rank] == firsts[cluster.rank] for rank in ranks)
            numbers = {"RANK": self.cluster.rank, "WORLD_SIZE": self.cluster.world, "LOCAL_WORLD_SIZE": beside}
            self._environment = {name: str(number) for name, number in numbers.items()}

    @contextlib.contextmanager
    def inside(self) -> Iterator[Cluster]:
        """Leave the other processes of the run aside; only for those of the group."""
        assert self.cluster is not None, "this process is not of the group"
        if self._group is None:
            yield self.cluster
            return
        import_deepspeed()
        from deepspeed.utils import groups

        run, theirs, counts = dist.GroupMember.WORLD, _kept(groups), _count_from(self._counts)
        # ``_known`` is empty at first: the engines of a group make their own of DeepSpeed's groups, which it keeps for all.
        _keep(groups, self._known)
        dist.GroupMember.WORLD = self._group
        try:
            with _environment(self._environment):
                yield self.cluster
        finally:
            dist.GroupMember.WORLD = run
            self._known = _kept(groups)
            _keep(groups, theirs)
            self._counts = _count_from(counts)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables as a launcher of these processes alone would have: ``zero.Init`` compares them with the group."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _kept(groups: ModuleType) -> dict[str, Any]:
    """Return the process groups that DeepSpeed keeps for the life of a process, by the name of its variable."""
    found: dict[str, Any] = {}
    for name, value in vars(groups).items():
        if isinstance(value, dist.ProcessGroup):
            found[name] = value
        elif isinstance(value, dict) and "_GROUP" in name and value:
            found[name] = dict(value)
    return found


def _keep(groups: ModuleType, known: dict[str, Any]) -> None:
    """Make ``known`` what DeepSpeed keeps."""
    for name, value in _kept(groups).items():
        if isinstance(value, dict):
            vars(groups)[name].clear()
        else:
            setattr(groups, name, None)
    for name, value in known.items():
        if isinstance(value, dict):
            vars(groups)[name].update(value)
        else:
            setattr(groups, name, value)


def _count_from(counts: tuple[int, int]) -> tuple[int, int]:
    """Make DeepSpeed number parameters and modules of engines from ``counts`` on; return where it was.

    It numbers those of all ZeRO-3 engines of a process through, and stops where ranks of one have unlike numbers.
    """
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
    from deepspeed.runtime.zero.partition_parameters import Init

    modules = DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0]
    before = Init.param_id, modules[0]
    Init.param_id, modules[0] = counts
    return before
