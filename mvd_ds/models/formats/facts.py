"""The settings that the tensors of a file and its layout determine, before anything is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.files import one_line
from mvd_ds.models.formats.foreign import LARGEST_DEPTH
from mvd_ds.models.formats.reading import Checkpoint
from mvd_ds.models.formats.rules import hidden_ratio


def encoder_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the encoder settings that the file determines.

    Raises:
        ConfigError: if it has no patch embedding or no blocks.
    """
    state, origin = checkpoint.state, checkpoint.origin
    patch = state.get("encoder.patch_embed.weight")
    if patch is None or patch.ndim != 5:
        shape = None if patch is None else tuple(patch.shape)
        raise ConfigError(f"{origin}: its patch embedding is {shape or 'missing'}, not (D, 3, frames, side, side)")
    if not all(patch.shape) or patch.shape[3] != patch.shape[4]:
        raise ConfigError(f"{origin}: its patch embedding is {tuple(patch.shape)}: sizes have to be above 0 and patches square")
    width = patch.shape[0]
    facts: dict[str, Any] = {
        "embed_dim": width,
        "depth": depth_of(checkpoint, "encoder"),
        "mlp_ratio": mlp_ratio_of(checkpoint, "encoder", width),
        "tubelet_frames": patch.shape[2],
        "patch_px": patch.shape[3],
        "cls_token": "encoder.cls_token.weight" in state,
        **_style_facts(state, width),
    }
    # What the layout or a config says goes before what the tensors suggest, so that a tensor that is lost is missed.
    facts |= checkpoint.layout.implied | checkpoint.stated.get("encoder", {})
    return facts | ({"position": "learned"} if "encoder.position.table" in state else {})


def _style_facts(state: Mapping[str, Tensor], width: int) -> dict[str, Any]:
    """Return the choices of the blocks of an encoder, as the tensors of its first block suggest them."""
    first = "encoder.blocks.0."
    registers, normed = state.get("encoder.registers.weight"), state.get(f"{first}attention.norm_query.weight")
    return {
        "registers": 0 if registers is None or registers.ndim != 3 else registers.shape[1],
        "norm": "layernorm" if f"{first}norm_attention.bias" in state else "rmsnorm",
        "mlp": "swiglu" if f"{first}mlp.gate.weight" in state else "gelu",
        "qk_norm": "none" if normed is None else "width" if len(normed) == width else "head",
        "layer_scale": 1e-5 if f"{first}scale_attention.weight" in state else None,
    }


def depth_of(checkpoint: Checkpoint, part: str) -> int:
    """Return the number of blocks of one part of a model.

    Raises:
        ConfigError: if a block has a number that none has.
    """
    start = f"{part}.blocks."
    numbers = {name[len(start) :].split(".")[0] for name in checkpoint.state if name.startswith(start)}
    wrong = [number for number in numbers if not number.isdecimal() or len(number) > 4 or int(number) >= LARGEST_DEPTH]
    if wrong:
        raise ConfigError(
            f"{checkpoint.origin}: {part}: a block numbered {one_line(min(wrong), 40)}; 0 to {LARGEST_DEPTH - 1} are read"
        )
    return max(map(int, numbers), default=-1) + 1


def mlp_ratio_of(checkpoint: Checkpoint, part: str, width: int) -> float:
    """Return the hidden width of most blocks over D, such that ``int(D * ratio)`` gives it back.

    Raises:
        ConfigError: if the part has no block with an MLP.
    """
    widths = Counter(
        tensor.shape[0]
        for name, tensor in checkpoint.state.items()
        if name.startswith(f"{part}.blocks.") and name.endswith("mlp.expand.bias")
    )
    if not widths:
        raise ConfigError(f"{checkpoint.origin}: {part} has no blocks with an MLP")
    return hidden_ratio(widths.most_common(1)[0][0], width)
