"""The shard files of a ZeRO checkpoint as parameters by name: fp32 masters, moments and moving average, any part of them.

No DeepSpeed is needed and no pickled code runs. Files are mapped, not read: a part of a parameter costs its own bytes.

Under stages 1 and 2 the ranks' partitions of a parameter group, end to end, are the group: parameters in order, each
followed by its alignment. Under stage 3 every rank has an equal part of every parameter, padded, in the order of all
groups, cut into flat tensors between parameters. Under stage 0 (fp32) rank 0 writes every parameter whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.containers import load_pickled

MASTER, MOMENTS, AVERAGE = "master", ("exp_avg", "exp_avg_sq"), "ema"
#: Key of our values beside DeepSpeed's in a file of model states.
OURS = "mvd_ds"


class _Value:
    """Stands for a class of DeepSpeed's whose values are not needed: built, never used."""

    def __new__(cls, *_values: Any) -> _Value:
        return object.__new__(cls)


class _Stage(int):
    """Stands for DeepSpeed's enumeration of ZeRO stages."""


#: All classes that checkpoints of DeepSpeed 0.19.8 name beside torch's own (fragment_address: stages 1 and 2, an int pair of
#: which nothing is taken); none of DeepSpeed's is imported or run.
HARMLESS = (
    (_Stage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Value, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Value, "deepspeed.utils.tensor_fragment.fragment_address"),
)


class _Run(NamedTuple):
    """Elements of a flattened parameter from ``first`` on, and where they are: flat tensor ``flat`` of ``rank`` at ``offset``."""

    first: int
    size: int
    rank: int
    flat: int
    offset: int


class ZeroShards:
    """The state of a run at one step, by parameter name.

    Attributes:
        shapes: shape of every trained parameter.
        stage, world: the ZeRO stage and number of ranks that wrote it.
        adam_steps: optimizer steps applied, as Adam counts them.
    """

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        """Open the shard files among ``files`` of ``folder`` and look whether they fit each other.

        Raises:
            ConfigError: naming the file that cannot be read, is refused, or does not fit.
        """
        self.folder = folder
        model_files, optimizer_files = (_of_kind(files, kind) for kind in ("model_states", "optim_states"))
        if not model_files:
            raise ConfigError(f"{folder}: has no file of model states")
        try:
            model = _open(folder / model_files[0])
            if optimizer_files:
                self._read_zero(model, [_open(folder / name)["optimizer_state_dict"] for name in optimizer_files])
            else:
                self._read_plain(model)
            averages = [_open(folder / name)["averages"] for name in _of_kind(files, "ema_rank")]
            if averages:
                self._values[AVERAGE] = averages
            self._check()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{folder}: its shards do not fit each other: {_one_line(error)}") from None

    @property
    def kinds(self) -> tuple[str, ...]:
        """``master``, the moments ``exp_avg`` and ``exp_avg_sq`` after a first step, and ``ema`` where there is an average."""
        return tuple(self._values)

    def part(self, kind: str, name: str, first: int, count: int) -> Tensor:
        """Return the elements ``first`` to ``first + count - 1`` of a flattened parameter, fp32 (count,), copied."""
        parts = []
        for run in self._runs[name]:
            begin, end = max(first, run.first), min(first + count, run.first + run.size)
            if begin < end:
                flat = self._values[kind][run.rank][run.flat].detach().flatten()
                parts.append(flat.narrow(0, run.offset + begin - run.first, end - begin))
        joined = torch.cat(parts) if parts else torch.empty(0)
        if len(joined) != count:
            raise ConfigError(f"{self.folder}: its shards do not fit each other: {name} has {len(joined)} of {count} elements")
        return joined.float()

    def whole(self, kind: str, name: str) -> Tensor:
        """Return a whole parameter, in its shape."""
        shape = self.shapes[name]
        return self.part(kind, name, 0, math.prod(shape)).reshape(shape)

    def _read_zero(self, model: dict[str, Any], shards: list[dict[str, Any]]) -> None:
        groups = [_shapes(group) for group in model["param_shapes"]]
        self.shapes = {name: shape for group in groups for name, shape in group.items()}
        self.stage, self.world = int(shards[0].get("zero_stage", 1)), _world(shards[0]["partition_count"])
        if self.world != len(shards):
            raise ConfigError(f"{self.folder}: {len(shards)} of {self.world} optimizer shards are there")
        flats, state = ("fp32_flat_groups", "optimizer_state_dict")
        if self.stage < 3:
            flats, state = ("single_partition_of_fp32_groups", "base_optimizer_state")
        self._values = {MASTER: [list(shard[flats]) for shard in shards]}
        self._read_moments([_states(shard.get(state), len(shard[flats])) for shard in shards])
        self._runs = (
            _runs_of_parts(groups, self._values[MASTER])
            if self.stage == 3
            else _runs_of_groups(groups, self._values[MASTER], shards)
        )

    def _read_plain(self, model: dict[str, Any]) -> None:
        """Read a checkpoint of stage 0: the optimizer's parameters are the model's, in the order of the groups."""
        names = [str(name) for name in model[OURS]["parameter_names"]]
        self.stage, self.world = 0, 1
        self.shapes = {name: tuple(model["module"][name].shape) for name in names}
        self._values = {MASTER: [[model["module"][name] for name in names]]}
        self._read_moments([_states(model["optimizer"], len(names))])
        self._runs = {name: [_Run(0, math.prod(shape), 0, index, 0)] for index, (name, shape) in enumerate(self.shapes.items())}

    def _read_moments(self, states: list[list[dict[str, Any]]]) -> None:
        for kind in MOMENTS:
            if all(kind in state for rank in states for state in rank):
                self._values[kind] = [[state[kind] for state in rank] for rank in states]
        steps = {float(state["step"]) for rank in states for state in rank if "step" in state}
        if len(steps) > 1:
            raise ConfigError(f"{self.folder}: its shards do not fit each other: Adam's steps are {sorted(steps)}")
        self.adam_steps = steps.pop() if steps else 0.0

    def _check(self) -> None:
        """Check that every flat tensor is fp32 and as long as the masters beside it, or longer by padding."""
        for kind, ranks in self._values.items():
            if len(ranks) != len(self._values[MASTER]):
                raise ValueError(f"{len(ranks)} ranks have {kind}, {len(self._values[MASTER])} are there")
            for masters, flats in zip(self._values[MASTER], ranks, strict=True):
                if len(flats) != len(masters):
                    raise ValueError(f"{len(flats)} flat tensors of {kind}, {len(masters)} of masters")
                for master, flat in zip(masters, flats, strict=True):
                    if not isinstance(flat, Tensor) or flat.dtype != torch.float32 or flat.numel() < master.numel():
                        raise ValueError(f"a flat tensor of {kind} is no fp32 tensor of {master.numel()} elements")
        for name, runs in self._runs.items():
            if sum(run.size for run in runs) != math.prod(self.shapes[name]):
                raise ValueError(f"{name} is not whole")


def _runs_of_parts(groups: list[dict[str, tuple[int, ...]]], flats: list[list[Tensor]]) -> dict[str, list[_Run]]:
    """Return where the elements of every parameter are under stage 3."""
    runs: dict[str, list[_Run]] = {}
    world, flat, offset = len(flats), 0, 0
    for name, shape in (item for group in groups for item in group.items()):
        share = math.ceil(math.prod(shape) / world)
        if offset == flats[0][flat].numel():
            flat, offset = flat + 1, 0
        shares = [(rank, min(share, math.prod(shape) - rank * share)) for rank in range(world)]
        runs[name] = [_Run(rank * share, count, rank, flat, offset) for rank, count in shares if count > 0]
        offset += share
        if any(rank[flat].numel() < offset for rank in flats):
            raise ValueError(f"{name} does not fit into the flat tensors of every rank")
    if flat != len(flats[0]) - 1 or any(rank[flat].numel() != offset for rank in flats):
        raise ValueError(
            f"ranks hold {[sum(part.numel() for part in rank) for rank in flats]} elements, more than the parameters"
        )
    return runs


def _runs_of_groups(
    groups: list[dict[str, tuple[int, ...]]], flats: list[list[Tensor]], shards: list[dict[str, Any]]
) -> dict[str, list[_Run]]:
    """Return where the elements of every parameter are under stages 1 and 2."""
    runs: dict[str, list[_Run]] = {}
    for index, shapes in enumerate(groups):
        paddings = (shards[0].get("param_alignment_paddings") or {index: [0] * len(shapes)})[index]
        # The partition of the last rank is saved without its padding; all others are of one size.
        size = flats[0][index].numel()
        begin = 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            end = begin + math.prod(shape)
            runs[name] = [
                _Run(max(begin, rank * size) - begin, count, rank, index, max(begin - rank * size, 0))
                for rank in range(len(flats))
                if (count := min(end, (rank + 1) * size) - max(begin, rank * size)) > 0
            ]
            if any(run.offset + run.size > flats[run.rank][index].numel() for run in runs[name]):
                raise ValueError(f"{name} does not fit into the flat tensors of group {index}")
            begin = end + padding
        held = sum(rank[index].numel() for rank in flats)
        if not 0 <= held - begin < 4 * len(flats) * (len(flats) + 1):
            raise ValueError(f"group {index} has {held} elements, its parameters {begin}")
    return runs


def _of_kind(files: Iterable[str], kind: str) -> list[str]:
    """Return the names of one kind in the order of their ranks."""
    chosen = [name for name in files if re.fullmatch(rf"\w*{kind}\w*\.pt", name)]
    return sorted(chosen, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _open(path: Path) -> dict[str, Any]:
    content = load_pickled(path, HARMLESS, mapped=True)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: is not a shard of a checkpoint")
    return dict(content)


def _shapes(group: Any) -> dict[str, tuple[int, ...]]:
    shapes = {str(name): tuple(int(size) for size in shape) for name, shape in group.items()}
    if any(size < 0 for shape in shapes.values() for size in shape):
        raise ValueError("a parameter of negative size")
    return shapes


def _world(partition_count: Any) -> int:
    return int(max(partition_count) if isinstance(partition_count, list) else partition_count)


def _states(optimizer: Any, count: int) -> list[dict[str, Any]]:
    """Return Adam's state of every flat tensor; empty ones before its first step."""
    states = (optimizer or {}).get("state") or {}
    return [dict(states.get(index) or {}) for index in range(count)]


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:300]
