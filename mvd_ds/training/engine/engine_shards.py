"""The layout of this rank's optimizer: its fp32 masters, and which elements of which parameter they are.

DeepSpeed 0.19.8 keeps the masters of a rank as a few flat tensors, whatever the ZeRO stage; moments and moving averages
lie beside them element by element. Only here is it known where a stage keeps them. With the optimizer on NVMe a flat
tensor has no memory between steps; its files are mapped, so that they can be read and written as the tensor they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvd_ds.training.engine.protocol import Engine

#: Where each of DeepSpeed's optimizers keeps its masters: ZeRO-3; ZeRO-1 and 2; ZeRO-1 in bf16 with fp32 accumulation.
MASTERS = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")


#: The key of a flat tensor's own values in ``on_nvme``.
MASTER = "master"


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


def masters(engine: Engine) -> list[Tensor]:
    """Return the values of this rank's flat fp32 masters, mapped from their files where they are on NVMe."""
    return [(on_nvme(engine, flat) or {MASTER: flat})[MASTER] for flat in flats(engine)]


@torch.no_grad()
def set_masters(engine: Engine, values: Iterable[tuple[str, Tensor]]) -> None:
    """Write whole fp32 values of parameters, by name, into the parts of the masters that this rank holds.

    DeepSpeed's own ``safe_set_full_fp32_param`` fails under ZeRO-3 for sizes that the ranks do not divide.
    """
    places, parts = list(held(engine)), masters(engine)
    for name, value in values:
        for place in (place for place in places if place.name == name):
            part = value.flatten()[place.first : place.first + place.size]
            parts[place.flat][place.offset : place.offset + place.size].copy_(part)


def flats(engine: Engine) -> list[Tensor]:
    """Return the flat fp32 masters as the optimizer knows them; at stage 0 (fp32 only) the parameters themselves."""
    for attribute in MASTERS:
        if hasattr(engine.optimizer, attribute):
            return list(getattr(engine.optimizer, attribute))
    return [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]


def on_nvme(engine: Engine, flat: Any) -> dict[str, Tensor]:
    """Return the files of a flat tensor as tensors, by ``master`` and names of moments; empty if it is in memory.

    The tensors are those files: what is written to them is there when DeepSpeed reads them next, before a step.
    """
    swapper = getattr(engine.optimizer, "optimizer_swapper", None)
    info = swapper.swap_params_info.get(flat.ds_id) if swapper is not None else None
    if swapper is None or info is None:
        return {}
    found = {}
    for kept in info.tensors:
        name = kept.compute_tensor.ds_id
        size = swapper._io_aligned_numel(info.numel())
        values = torch.from_file(kept.swap_path, shared=True, size=size, dtype=torch.float32)
        found[MASTER if name == flat.ds_id else name.removesuffix(f"-{flat.ds_id}")] = values[: info.numel()]
    return found


def new_moments(engine: Engine, flat: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Give the optimizer new moments of a flat tensor, zeros in memory or in files on NVMe, and return them by name."""
    state = adam(engine).state[flat]
    if not (kept := on_nvme(engine, flat)):
        state.update({name: torch.zeros_like(flat) for name in names})
        return {name: state[name] for name in names}
    state.update({name: torch.empty_like(kept[MASTER]) for name in names})
    # The swapper takes note of them; then their memory, which nothing has touched, is given back.
    engine.optimizer.optimizer_swapper._get_param_swap_info(flat).release_memory()
    return {name: values.zero_() for name, values in on_nvme(engine, flat).items() if name in names}


def with_nvme(engine: Engine, content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint file's content, with masters and moments from NVMe in place of tensors without memory."""
    saved = content.get("optimizer_state_dict")
    kept = [on_nvme(engine, flat) for flat in flats(engine)]
    if not any(kept) or not isinstance(saved, dict):
        return content
    # torch numbers the states in the order of its groups, in which the flat tensors are, too.
    states = dict(saved["optimizer_state_dict"]["state"])
    for index, found in enumerate(kept):
        if index in states:
            states[index] = states[index] | {name: value for name, value in found.items() if name != MASTER}
    adam_state = saved["optimizer_state_dict"] | {"state": states}
    own = {"fp32_flat_groups": masters(engine), "optimizer_state_dict": adam_state}
    return content | {"optimizer_state_dict": saved | own}


def held(engine: Engine) -> Iterator[Held]:
    """Yield every run of elements that this rank holds, without padding."""
    optimizer = engine.optimizer
    whole = {id(parameter): index for index, parameter in enumerate(flats(engine))}
    named: Iterable[tuple[str, Any]] = engine.module.named_parameters()
    for name, parameter in named:
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


def adam(engine: Engine) -> torch.optim.Optimizer:
    """Return torch's optimizer under DeepSpeed's; its ``state`` has one entry per flat tensor."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


@torch.no_grad()
def spread_masters(engine: Engine) -> None:
    """Make the weights that the network computes with from the masters, as after an optimizer step. Collective."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        for index, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            is_swapped = bool(on_nvme(engine, flat))
            if is_swapped:
                optimizer._optimizer_states_and_gradient_swap_in(index)
            optimizer._reassign_or_swap_out_partitioned_parameters(index)
            if is_swapped:
                optimizer._release_swap_buffers(index)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()


def parameter_names(engine: Engine) -> list[str]:
    """Return the optimizer's parameter names in its order at stage 0, where a checkpoint does not tell it; else none."""
    if engine.zero_optimization_stage():
        return []
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    return [names[id(parameter)] for parameter in flats(engine)]
