"""Shard files as DeepSpeed 0.19.8 writes them, its classes included, without its engine; tests/distributed has real runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def groups_of(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Matrices and vectors."""
    matrices = {name: value for name, value in state.items() if value.ndim > 1}
    return [matrices, {name: value for name, value in state.items() if value.ndim <= 1}]


def flats_of(stage: int, world: int, groups: list[dict[str, Tensor]]) -> list[list[Tensor]]:
    """Flat tensors by rank, as ZeRO cuts groups; the last rank's padding is not saved under stages 1 and 2."""
    ranks: list[list[Tensor]] = [[] for _ in range(world)]
    for group in groups:
        if stage == 3:
            for rank in range(world):
                parts = []
                for value in group.values():
                    share = math.ceil(value.numel() / world)
                    padded = torch.zeros(share * world)
                    padded[: value.numel()] = value.flatten()
                    parts.append(padded[rank * share : (rank + 1) * share])
                ranks[rank].append(torch.cat(parts))
        else:
            flat = torch.cat([value.flatten() for value in group.values()])
            size = math.ceil(len(flat) / (2 * world)) * 2
            for rank in range(world):
                ranks[rank].append(flat[rank * size : (rank + 1) * size].clone())
    return ranks


def write_shards(
    folder: Path, stage: int, world: int, state: dict[str, Tensor], moments: dict[str, dict[str, Tensor]], steps: float = 4.0
) -> list[str]:
    """Model and optimizer states of every rank; their names.

    Args:
        state: masters by parameter name.
        moments: ``exp_avg`` and ``exp_avg_sq``, by parameter name.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    folder.mkdir(parents=True, exist_ok=True)
    groups = groups_of(state)
    masters = flats_of(stage, world, groups)
    cut = {
        key: flats_of(stage, world, [{name: value[name] for name in group} for group in groups]) for key, value in moments.items()
    }
    for rank, flats in enumerate(masters):
        states = {
            index: {"step": torch.tensor(steps), **{key: ranks[rank][index] for key, ranks in cut.items()}}
            for index in range(len(flats))
        }
        adam = {"state": states, "param_groups": [{"lr": 0.1, "params": [index]} for index in states]}
        shard: dict[str, Any] = {"zero_stage": ZeroStageEnum(stage), "loss_scaler": LossScaler(1), "overflow": False}
        if stage == 3:
            shard |= {"partition_count": world, "fp32_flat_groups": flats, "optimizer_state_dict": adam}
        else:
            shard |= {"partition_count": [world] * len(flats), "single_partition_of_fp32_groups": flats}
            shard |= {"base_optimizer_state": adam, "param_slice_mappings": [{"a": fragment_address(3, 0)}]}
        torch.save({"optimizer_state_dict": shard}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    shapes = [{name: value.shape for name, value in group.items()} for group in groups]
    torch.save({"module": {}, "param_shapes": shapes}, folder / "mp_rank_00_model_states.pt")
    return sorted(path.name for path in folder.glob("*.pt"))


def write_sizes(folder: Path, step: int, recipe: dict[str, Any]) -> None:
    """A manifest as far as whoever only reads weights looks at it."""
    sizes = {path.name: {"size": path.stat().st_size} for path in folder.glob("*.pt")}
    (folder / "manifest.json").write_text(json.dumps({"step": step, "recipe": recipe, "files": sizes}))
