"""What this rank's optimizer holds: its fp32 masters, and which elements of which parameter they are.

DeepSpeed 0.19.8 keeps the masters of a rank as a few flat tensors, whatever the ZeRO stage; moments and moving averages
lie beside them element by element. Only here is it known where a stage keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Where each of DeepSpeed's optimizers keeps its masters: ZeRO-3; ZeRO-1 and 2; ZeRO-1 in bf16 with fp32 accumulation.
MASTERS = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")


class Held(NamedTuple):
    """A run of elements of one parameter in a flat tensor of this rank.

    Attributes:
        name: the parameter's.
        first: its first element, counted in the flattened parameter.
        size: elements.
        flat: which flat tensor.
        offset: where in it.
    """

    name: str
    first: int
    size: int
    flat: int
    offset: int


def masters(engine: Any) -> list[Tensor]:
    """The flat fp32 masters of this rank; at stage 0 (fp32 only) the parameters themselves, whole, on every rank."""
    for attribute in MASTERS:
        if hasattr(engine.optimizer, attribute):
            return list(getattr(engine.optimizer, attribute))
    return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]


def held(engine: Any) -> Iterator[Held]:
    """Every run of elements that this rank holds, without padding."""
    optimizer = engine.optimizer
    whole = {id(parameter): index for index, parameter in enumerate(masters(engine))}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):
            flat, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
            first = size * optimizer._get_param_partition_rank(parameter)
            # The last ranks' parts of a parameter are padded, or nothing but padding.
            size = min(size, parameter.ds_numel - first)
        elif hasattr(parameter, "_hp_mapping"):
            if (place := parameter._hp_mapping) is None:
                continue
            first, size = place.lp_fragment_address.start, place.lp_fragment_address.numel
            flat, offset = place.param_group_index, place.hp_fragment_address.start
        else:
            first, size, flat, offset = 0, parameter.numel(), whole[id(parameter)], 0
        if size > 0:
            yield Held(name, first, size, flat, offset)


def adam(engine: Any) -> torch.optim.Optimizer:
    """torch's optimizer under DeepSpeed's; its ``state`` has one entry per flat tensor."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


@torch.no_grad()
def spread_masters(engine: Any) -> None:
    """Make the weights that the network computes with from the masters, as after an optimizer step. Collective."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        for index in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(index)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()


def parameter_names(engine: Any) -> list[str]:
    """Names in the order of the optimizer's parameters; at stage 0 nothing else in a checkpoint tells it, else empty."""
    if engine.zero_optimization_stage():
        return []
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    return [names[id(parameter)] for parameter in masters(engine)]
