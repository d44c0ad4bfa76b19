"""``convert IN OUT --to timm:NAME`` renames tensors of a network of timm that other code trained under its own names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from mvd_ds.config import ConfigError
from mvd_ds.files import written_aside
from mvd_ds.models.formats.containers import open_stored

TO_TIMM = "timm:"
"""Beginning of the formats that are written here."""
ORDERED = "file: a network of timm from a file that lists the same tensors in the same order under other names"
"""What they are, for people."""


def convert_in_order(source: Path, target: Path | None, name: str) -> None:
    """Write the tensors of ``source`` as the safetensors file ``target`` by the names that timm's network ``name`` has for them.

    Both list them in the order of the layers. One is taken for another only where shape and last name agree (``weight``,
    ``running_mean``, ...), for all of them.

    Raises:
        ConfigError: if timm does not know the network, or its tensors are others.
    """
    import timm

    if target is None or target.suffix != ".safetensors":
        raise ConfigError(f"convert --to {TO_TIMM}{name}: writes one file; state OUT, FILE.safetensors")
    if not timm.is_model(name):
        raise ConfigError(f"convert --to {TO_TIMM}{name}: timm has no such network; timm.list_models() names them")
    stored = dict(open_stored(source).tensors)
    with torch.device("meta"):
        wanted = timm.create_model(name).state_dict()
    if len(stored) != len(wanted):
        raise ConfigError(f"{source}: holds {len(stored)} tensors, timm's {name} has {len(wanted)}")
    for (theirs, value), (ours, place) in zip(stored.items(), wanted.items(), strict=True):
        if value.shape != place.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise ConfigError(f"{source}: {theirs} {tuple(value.shape)} is not timm's {ours} {tuple(place.shape)} of {name}")
    renamed = {ours: value.contiguous() for ours, value in zip(wanted, stored.values(), strict=True)}
    with written_aside(target) as aside:
        save_file(renamed, aside, metadata={"format": "pt"})
    print(f"wrote {target}: {len(renamed)} tensors of {source} by the names of timm's {name}")
