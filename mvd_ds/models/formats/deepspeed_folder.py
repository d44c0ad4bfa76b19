"""DeepSpeed ZeRO-1, 2 and 3 checkpoint folders of ours: fp32 masters put together on the CPU, without DeepSpeed.

Under stages 1 and 2 the ranks' partitions of a parameter group, end to end, are the group: parameters in order, each
followed by its alignment. Under stage 3 every rank has an equal part of every parameter, padded, in the order of all groups.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.containers import Stored, load_pickled, read_json

MANIFEST_NAME = "manifest.json"


class _Value:
    """Stands for a class of DeepSpeed's whose values are not needed: built, never used."""

    def __new__(cls, *_values: Any) -> _Value:
        return object.__new__(cls)


class _Stage(int):
    """Stands for DeepSpeed's enumeration of ZeRO stages."""


#: All classes that checkpoints of DeepSpeed 0.19 name beside torch's own; none of DeepSpeed's is imported or run.
HARMLESS = (
    (_Stage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Value, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Value, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Value, "deepspeed.utils.tensor_fragment.fragment_address"),
)


def find_checkpoint(path: Path) -> Path | None:
    """The folder of a step, given itself, its run or the run's ``checkpoints`` (then the latest); None if it is none of them."""
    for folder in (path, path / "checkpoints"):
        if (folder / "latest").is_file():
            return folder / (folder / "latest").read_text(encoding="utf-8").strip()
    return path if (path / MANIFEST_NAME).is_file() else None


def read_checkpoint_folder(folder: Path) -> Stored:
    """fp32 weights of a checkpoint, and its recipe as ``config``.

    Raises:
        ConfigError: if files are missing or have another size, or do not fit each other.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    for name, size in manifest.get("files", {}).items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise ConfigError(f"{folder / name}: is missing or has another size than written ({size} bytes)")
    shards = [_load(path)["optimizer_state_dict"] for path in _ordered(folder, "*_optim_states.pt")]
    model = _load(_ordered(folder, "*_model_states.pt")[0])
    groups: list[dict[str, Any]] = model["param_shapes"]
    stage = int(shards[0]["zero_stage"])
    world = shards[0]["partition_count"]
    world = max(world) if isinstance(world, list) else world
    if world != len(shards):
        raise ConfigError(f"{folder}: {len(shards)} of {world} optimizer shards are there")
    try:
        tensors = _join_stage_3(shards, groups) if stage == 3 else _join_groups(shards, groups)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"{folder}: its shards do not fit each other: {error}") from None
    config = {"format": "mvd_ds", "version": 1, "recipe": manifest["recipe"], "step": manifest["step"]}
    note = f"put together the fp32 masters of step {manifest['step']} from {world} ranks of ZeRO-{stage}"
    return Stored(tensors, config, [note])


def _load(path: Path) -> dict[str, Any]:
    content = load_pickled(path, HARMLESS)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: is not a DeepSpeed checkpoint")
    return dict(content)


def _ordered(folder: Path, pattern: str) -> list[Path]:
    """Files in the order of their ranks."""
    files = sorted(folder.glob(pattern), key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    if not files:
        raise ConfigError(f"{folder}: has no {pattern}")
    return files


def _join_groups(shards: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stages 1 and 2."""
    tensors = {}
    for index, shapes in enumerate(groups):
        flat = torch.cat([shard["single_partition_of_fp32_groups"][index] for shard in shards])
        paddings = (shards[0].get("param_alignment_paddings") or {index: [0] * len(shapes)})[index]
        offset = 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            count = math.prod(shape)
            tensors[name] = flat[offset : offset + count].reshape(tuple(shape)).clone()
            offset += count + padding
        if not 0 <= len(flat) - offset < 2 * len(shards) + len(shards) * max(1, 2 * len(shards)):
            raise ValueError(f"group {index} has {len(flat)} elements, its parameters {offset}")
    return tensors


def _join_stage_3(shards: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, Tensor]:
    parts = [torch.cat([group.flatten() for group in shard["fp32_flat_groups"]]) for shard in shards]
    tensors, offset = {}, 0
    for shapes in groups:
        for name, shape in shapes.items():
            count = math.prod(shape)
            share = math.ceil(count / len(shards))
            whole = torch.cat([part[offset : offset + share] for part in parts])
            tensors[name] = whole[:count].reshape(tuple(shape)).clone()
            offset += share
    if any(len(part) != offset for part in parts):
        raise ValueError(f"ranks have {[len(part) for part in parts]} elements, the parameters {offset} a rank")
    return tensors
