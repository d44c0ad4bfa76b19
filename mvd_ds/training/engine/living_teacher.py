"""A teacher whose weights are the moving average of the student's, which lies in shards beside the optimizer's masters.

Where teacher and student are cut into the same shards, every rank copies its own and nothing travels. Otherwise parameters
are put together bucket by bucket: each rank writes the elements that it holds between zeros, and their sum is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.training.engine.engine_shards import held
from mvd_ds.training.engine.protocol import Engine

#: Elements that are put together at once: 64 MiB in bf16; a larger parameter is a bucket of its own.
BUCKET = 1 << 25


class LivingTeacher:
    """The hand of the student's average on the weights of one teacher.

    Args:
        engine: the student's.
        teacher: of ``start_teacher``: a module, an engine around one, or what replays one.
        name: name of the teacher, for messages.

    Raises:
        ConfigError: if a parameter of the teacher is not one that the student learns, or of another shape.
    """

    def __init__(self, engine: Engine, teacher: Any, name: str) -> None:
        self.parameters = dict(getattr(teacher, "module", teacher).named_parameters())
        learned = {key: parameter for key, parameter in engine.module.named_parameters() if parameter.requires_grad}
        for key, parameter in self.parameters.items():
            if key not in learned or _shape(learned[key]) != _shape(parameter):
                there = "learns none" if key not in learned else f"has it in shape {_shape(learned[key])}"
                raise ConfigError(
                    f"teachers.{name}.weights ema: its {key} is of shape {_shape(parameter)}, and the student {there}: remove "
                    "what makes the two differ (input_px, input_frames), or choose model.position=sincos3d"
                )
        self.runs = [run for run in held(engine) if run.name in self.parameters]
        self.is_replicated = engine.zero_optimization_stage() == 0
        self.is_cut_alike = all(_cut(parameter) is not None for parameter in self.parameters.values()) and all(
            _cut(parameter) == _cut(learned[key]) for key, parameter in self.parameters.items()
        )

    @torch.no_grad()
    def take(self, averages: list[Tensor]) -> None:
        """Take over the average. Collective.

        Args:
            averages: flat fp32 tensors of this rank, laid out as the optimizer's masters.
        """
        if self.is_cut_alike:
            for run in self.runs:
                self.parameters[run.name].ds_tensor.narrow(0, 0, run.size).copy_(_part(averages, run))
        else:
            for bucket in self._buckets():
                self._put_together(averages, bucket)
        if torch.cuda.is_initialized() and any(hasattr(parameter, "ds_id") for parameter in self.parameters.values()):
            # DeepSpeed gathers shards on a stream of its own, which waits for no copy.
            torch.cuda.current_stream().synchronize()
        for parameter in self.parameters.values():
            # What is kept whole between forwards, being small, is of the weights before.
            if hasattr(parameter, "ds_id") and parameter.ds_status is type(parameter.ds_status).AVAILABLE:
                parameter.partition()

    def _buckets(self) -> Iterator[dict[str, int]]:
        """Yield names of parameters with the place of their first element in a bucket."""
        bucket: dict[str, int] = {}
        size = 0
        for key, parameter in self.parameters.items():
            if bucket and size + _shape(parameter).numel() > BUCKET:
                yield bucket
                bucket, size = {}, 0
            bucket[key] = size
            size += _shape(parameter).numel()
        yield bucket

    def _put_together(self, averages: list[Tensor], bucket: dict[str, int]) -> None:
        """Make the parameters of a ``bucket`` whole on every rank, and give the teacher its part of them."""
        first = self.parameters[next(iter(bucket))]
        size = sum(_shape(self.parameters[key]).numel() for key in bucket)
        whole = torch.zeros(size, dtype=first.dtype, device=first.device)
        for run in self.runs:
            if run.name in bucket:
                whole.narrow(0, bucket[run.name] + run.first, run.size).copy_(_part(averages, run))
        if not self.is_replicated:
            dist.all_reduce(whole)
        for key, start in bucket.items():
            parameter = self.parameters[key]
            values = whole.narrow(0, start, _shape(parameter).numel())
            if not hasattr(parameter, "ds_id"):
                parameter.copy_(values.view_as(parameter))
                continue
            shard = parameter.ds_tensor
            own = values[shard.ds_numel * parameter.ds_zero_partition_rank :][: shard.ds_numel]
            shard.narrow(0, 0, len(own)).copy_(own)


def _shape(parameter: Any) -> torch.Size:
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _cut(parameter: Any) -> tuple[int, int] | None:
    """Return the size of a rank's shard of a parameter and the number of shards; None for one that is whole."""
    if not hasattr(parameter, "ds_id"):
        return None
    return parameter.ds_tensor.ds_numel, parameter.ds_zero_partition_world_size


def _part(averages: list[Tensor], run: Any) -> Tensor:
    return averages[run.flat].detach().view(-1).narrow(0, run.offset, run.size)
