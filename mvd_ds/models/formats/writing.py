"""Files for others: a state dict of ours in another layout, with what that layout has beside the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.files import counted, written_aside
from mvd_ds.models.formats.describe import Network
from mvd_ds.models.formats.reading import table_rows
from mvd_ds.models.formats.rules import Layout

#: Reasons why a layout cannot hold a setting.
REASONS = {
    "position": "that format has no place for a position table, its readers compute their own",
    "kind": "that format is for the other kind of encoder",
    "qkv_bias": "that format has no place for these biases",
    "final_norm": "that format says otherwise about the norm after the last block",
    "cls_token": "that format says otherwise about the class token",
}
OTHER_REASON = "that format has no place for another"


def to_layout(layout: Layout, state: Mapping[str, Tensor], network: Network, origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under the names of a layout, with position tables, and our names that were left out.

    Args:
        layout: the layout.
        state: state dict of a model here.
        network: the model that it is of.
        origin: names the source in messages.

    Raises:
        ConfigError: if the layout cannot hold this model; every part and setting that it cannot hold is named.
    """
    left_out: list[str] = []
    if layout.model == "encoder":
        left_out = [name for name in state if not name.startswith("encoder.")]
        state = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    tensors, homeless = layout.rename({name: tensor for name, tensor in state.items() if ".position." not in name})
    wrong = [*_misfits(layout, network), *(f"it has no place for {part}" for part in parts_of(homeless))]
    if wrong:
        raise ConfigError(f"{origin}: '{layout.name}' cannot hold this model: {'; '.join(wrong)}")
    for table in layout.tables:
        norm = state.get(f"{table.prefix}patch_embed.bias", state.get(f"{table.prefix}mask_token.weight"))
        learned = state.get(f"{table.prefix}position.table")
        if learned is not None:
            rows = learned if not table.has_cls else torch.cat((state[f"{table.prefix}position.cls"], learned))
            tensors[table.theirs] = rows.unsqueeze(0)
        elif table.is_written and norm is not None:
            tensors[table.theirs] = torch.from_numpy(table_rows(table, network.grid, norm.shape[-1])).float().unsqueeze(0)
    return tensors, left_out


def _misfits(layout: Layout, network: Network) -> list[str]:
    """Return the settings of encoder, decoders and class head that files of a layout cannot have, each with the reason."""
    wrong = []
    for key, value in layout.implied.items():
        have = getattr(network.encoder, key)
        if key == "position" and have == "learned" and layout.tables:
            continue
        if have != value:
            wrong.append(f"{key} is {have} and would have to be {value} ({REASONS.get(key, OTHER_REASON)})")
    if layout.model == "encoder":
        return wrong
    if network.decoder is not None and network.decoder.attention != "self":
        wrong.append(f"decoder.attention is {network.decoder.attention} and would have to be self ({OTHER_REASON})")
    pooling = (network.classifier or {}).get("pooling", {}).get("kind", "mean")
    if pooling != "mean":
        wrong.append(f"pooling.kind is {pooling} and would have to be mean ({OTHER_REASON})")
    return wrong


def parts_of(names: Iterable[str]) -> list[str]:
    """Return the parts of a model that tensors of these names belong to, with their number, in the words of a recipe."""
    counts = Counter(_part(name) for name in names)
    return [f"{part} ({counted(number, 'tensor')})" for part, number in counts.items()]


def _part(name: str) -> str:
    first, _, inside = name.partition(".")
    inside, _, rest = inside.partition(".")
    if first == "decoders":
        return f"the decoder of '{inside}'"
    if first != "encoder":
        return f"the class head's {first}"
    if inside == "blocks":
        return f"{rest.partition('.')[2].rpartition('.')[0] or rest.partition('.')[2]} in the encoder's blocks"
    return f"the encoder's {inside}"


def write_pickled(path: Path, tensors: dict[str, Tensor], wrappers: tuple[str, ...] = ("model",), prefix: str = "") -> None:
    """Write ``{"model": tensors}`` as published PyTorch files are, aside, then renamed.

    Args:
        path: the file.
        tensors: by name.
        wrappers: keys under each of which the tensors are found.
        prefix: put before every name.

    Raises:
        ConfigError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            # Clones: a view would take its whole storage into the file.
            held = {prefix + name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
            torch.save(dict.fromkeys(wrappers, held), aside)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from None
