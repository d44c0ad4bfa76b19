"""Low-rank adaptation: small trained products beside the linear maps of a frozen encoder, and their merge into these.

The maps keep their names and weights; each gets a child ``low_rank``, whose output a forward hook adds to its own. A hook, so
that neither the maps nor the published names of their weights know of it. Source: LoRA, Hu et al. 2021 (arXiv 2106.09685).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import AdaptationSettings, ConfigError

#: Maps of a block by the names in ``adaptation.parts``; those that a block has not are left out.
PARTS = {
    "qkv": ("attention.qkv",),
    "projection": ("attention.projection",),
    "mlp": ("mlp.gate", "mlp.expand", "mlp.contract"),
}
CHILD = "low_rank"


class LowRank(nn.Module):
    """The product of two small matrices, scaled; zero at first.

    Args:
        width: inputs.
        outputs: outputs.
        rank: inner width.
        factor: the output is multiplied by it.
    """

    def __init__(self, width: int, outputs: int, rank: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.empty(outputs, rank))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw ``down`` as torch draws a Linear, and set ``up`` to zero. Source: LoRA's code."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.up)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., width) to (..., outputs)."""
        return F.linear(F.linear(tokens, self.down), self.up) * self.factor


def add_low_rank(encoder: nn.Module, settings: AdaptationSettings) -> list[str]:
    """Give the maps of an encoder's blocks their products; return the names of these below the encoder.

    Raises:
        ConfigError: if there is no such block.
    """
    blocks = encoder.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    chosen = range(len(blocks)) if settings.layers is None else settings.layers
    if any(layer >= len(blocks) for layer in chosen):
        raise ConfigError(f"adaptation.layers {list(chosen)}: the encoder has blocks 0 to {len(blocks) - 1}")
    names = []
    for layer in chosen:
        for path in (path for part in settings.parts for path in PARTS[part]):
            owner, _, leaf = path.rpartition(".")
            target = getattr(blocks[layer].get_submodule(owner), leaf, None)
            if target is None:
                continue
            outputs, width = target.weight.shape
            target.add_module(CHILD, LowRank(width, outputs, settings.rank, settings.alpha / settings.rank))
            target.register_forward_hook(_add)
            names.append(f"blocks.{layer}.{path}.{CHILD}")
    return names


def _add(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Add the product beside a map to its output."""
    return output + module.get_submodule(CHILD)(arguments[0])


def merged(weights: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Return ``weights`` of a network with every product added to its map, under the names that it has without them.

    Args:
        weights: by name, products among them or not.
        factor: ``alpha / rank``.
    """
    found = {name: value for name, value in weights.items() if f".{CHILD}." not in name}
    for name in low_rank_maps(weights):
        up, down = (weights[f"{name}.{CHILD}.{part}"] for part in ("up", "down"))
        found[f"{name}.weight"] = found[f"{name}.weight"] + factor * (up @ down)
    return found


def low_rank_maps(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the maps that have a product among ``weights``."""
    ending = f".{CHILD}.up"
    return [name.removesuffix(ending) for name in weights if name.endswith(ending)]
