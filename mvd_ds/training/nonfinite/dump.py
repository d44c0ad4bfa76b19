"""A step kept to be run again: clips, masks and keys of all ranks, the student as it was, and the settings. No pickle.

``dumps/step-NNN/``: ``rank-R.safetensors`` micro batches · ``student.safetensors`` fp32 weights · ``statistics.safetensors`` of
targets that have any · ``ema.safetensors`` their moving average, where a teacher is it · ``dump.json``, written last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mvd_ds.config import LearningRecipe, OwnClip, dump
from mvd_ds.files import write_json, written_aside
from mvd_ds.training.cluster import Cluster

STATISTICS_NAME, AVERAGE_NAME = "statistics.safetensors", "ema.safetensors"


def write_dump(
    path: Path,
    step: int,
    recipe: LearningRecipe,
    cluster: Cluster,
    weights: dict[str, Tensor],
    batches: list[Any],
    ranks: list[dict[str, Any]],
    statistics: dict[str, Tensor],
    average: dict[str, Tensor] | None = None,
) -> None:
    """Write the dump of ``step`` into the folder ``path``. Collective.

    Args:
        weights: the whole student on rank 0.
        batches: this rank's micro batches, NamedTuples of tensors, dicts of tensors and lists of text.
        ranks: what every rank found.
        statistics: state of the statistics of targets, the same on all ranks.
        average: the moving average of ``weights``, where a teacher is it.

    Raises:
        ConfigError: on every rank, if any cannot write.
    """
    with cluster.together():
        path.mkdir(parents=True, exist_ok=True)
        tensors = {f"{number}.{name}": value for number, batch in enumerate(batches) for name, value in flat(batch).items()}
        with written_aside(path / f"rank-{cluster.number}.safetensors", sync=False) as aside:
            save_file(tensors, aside, metadata={"format": "pt"})
        if cluster.is_main:
            files = {"student.safetensors": weights, STATISTICS_NAME: statistics, AVERAGE_NAME: average}
            for name, held in files.items():
                if held:
                    with written_aside(path / name, sync=False) as aside:
                        save_file({key: value.contiguous() for key, value in held.items()}, aside)
    with cluster.together():
        if cluster.is_main:
            kind = type(batches[0]).__name__
            values = {"step": step, "world": cluster.world, "batch": kind, "recipe": dump(recipe), "ranks": _readable(ranks)}
            write_json(path / "dump.json", values)


def flat(batch: Any) -> dict[str, Tensor]:
    """Return the tensors of a NamedTuple by name; those in dicts have the key behind a dot."""
    tensors: dict[str, Tensor] = {}
    for name, value in batch._asdict().items():
        if isinstance(value, Tensor):
            tensors[name] = value.contiguous()
        elif isinstance(value, dict):
            tensors |= {f"{name}.{_text(key)}": inner.contiguous() for key, inner in value.items() if isinstance(inner, Tensor)}
    return tensors


def nested(tensors: dict[str, Tensor], kind: Any) -> Any:
    """Return the NamedTuple ``kind`` that ``flat`` took apart; fields that are no tensors are empty."""
    values: dict[str, Any] = {}
    for field in kind._fields:
        inside = {name.removeprefix(f"{field}."): value for name, value in tensors.items() if name.startswith(f"{field}.")}
        if field in tensors:
            values[field] = tensors[field]
        elif inside:
            values[field] = {_key(text): value for text, value in inside.items()}
        elif field not in kind._field_defaults:
            values[field] = []
    return kind(**values)


def _text(key: Any) -> str:
    """Return the key of a dict of tensors as text: a name, or a view, a side in pixels or the numbers of an ``OwnClip``."""
    return " ".join(map(str, key)) if isinstance(key, OwnClip) else str(key)


def _key(text: str) -> Any:
    """Return the key that ``_text`` wrote."""
    parts = text.split(" ")
    if len(parts) == len(OwnClip._fields):
        return OwnClip(int(parts[0]), int(parts[1]), float(parts[2]))
    return int(text) if text.isdigit() else text


def _readable(value: Any) -> Any:
    """Return ``value`` with the numbers that JSON does not know as text."""
    if isinstance(value, dict):
        return {key: _readable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return str(value) if isinstance(value, float) and not torch.isfinite(torch.tensor(value)) else value
