"""The tensors of a file by the names inside of a network of transformers, as transformers itself would name them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mvd_ds.config import ConfigError
from mvd_ds.config.networks.hf_folder import find_folder
from mvd_ds.files import one_line
from mvd_ds.models.formats.containers import open_stored
from mvd_ds.models.formats.reading import shorten
from mvd_ds.models.formats.strict import require_fit

logger = logging.getLogger(__name__)

#: Beginnings of names beside the network of pixels: heads, decoders, text. They are left in the file, and named in the log.
BESIDE = (
    "classifier.",
    "fc_norm.",
    "pooler.",
    "predictor.",
    "decoder.",
    "decoder_pos_embed",
    "encoder_to_decoder.",
    "mask_token",
    "position_embeddings",
    "text_model.",
    "text_projection.",
    "visual_projection.",
    "logit_scale",
    "logit_bias",
    "lm_head.",
)


def read_weights(network: nn.Module, part: str, weights: str, origin: str) -> dict[str, Tensor]:
    """Return the tensors of ``weights`` by the names of ``network``, all of them and no others.

    Args:
        network: the whole class of transformers, on the meta device.
        part: the part of it that is wanted; empty: all.
        weights: a file, a folder, or a name in the user's cache.
        origin: names the setting in messages.

    Raises:
        ConfigError: in one line, if a tensor is missing, unexpected, of another shape, or not finite.
    """
    path = Path(weights).expanduser()
    try:
        stored = open_stored(path if path.is_file() else find_folder(weights)).tensors
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    found = _renamed(network, stored, f"{origin} {weights}")
    prefix = f"{part}." if part else ""
    # A name that the network has is its own, whatever it begins with.
    known = set(network.state_dict())
    beside = [name for name in found if name not in known and name.removeprefix("model.").startswith(BESIDE)]
    outside = [name for name in found if name in known and not name.startswith(prefix)]
    if beside or outside:
        logger.info("%s: left in the file: %s", origin, shorten(sorted({name.split(".")[0] for name in beside + outside})))
    left = {*beside, *outside}
    wanted = network.get_submodule(part)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name not in left}
    require_fit(wanted, tensors, f"{origin} {weights}")
    return tensors


def _renamed(network: Any, stored: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return tensors by the names of this release of transformers, which reads files of older ones by a table of its own."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    table = get_model_conversion_mapping(network)
    renamings = [row for row in table if isinstance(row, WeightRenaming)]
    converters = [row for row in table if isinstance(row, WeightConverter)]
    own = network.state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        new, pattern = rename_source_key(name, renamings, converters, network.base_model_prefix or None, own)
        if pattern is None:
            found[new] = tensor
            continue
        converter = next(row for row in converters if pattern in row.source_patterns)
        if len(converter.source_patterns) > 1:
            raise ConfigError(f"{origin}: {one_line(name)} is joined with others by transformers; save the network by it first")
        found |= _converted(converter, pattern, name, new, tensor, own, origin)
    return found


def _converted(
    converter: Any, pattern: str, name: str, new: str, tensor: Tensor, own: Mapping[str, Tensor], origin: str
) -> dict[str, Tensor]:
    """Return the tensors that transformers makes of one: a fused map of which it has two, for example."""
    values: dict[str, Any] = {pattern: tensor}
    for operation in converter.operations:
        values = operation.convert(values, converter.source_patterns, converter.target_patterns)
    first = converter.target_patterns[0]
    made = {new.replace(first, target): value for target, value in values.items()}
    if not made.keys() <= own.keys():
        raise ConfigError(f"{origin}: {one_line(name)} is converted by transformers in a way that is not known here")
    return {key: value[0] if isinstance(value, list) else value for key, value in made.items()}
