"""The encoder of DALL-E's discrete VAE: tokens are logits of 8,192 codes. Source: Ramesh et al. 2021 (arXiv 2102.12092).

Convolutions on pixels mapped to 0.8 x + 0.1: one of 7 x 7, four groups of two residual blocks of 256, 512, 1,024 and 2,048
channels with a maximum over 2 x 2 cells between them, one of 1 x 1 to the codes. A frame of 112 px has 14 x 14 codes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError
from mvd_ds.models.formats.containers import load_pickled, open_stored

GROUPS, BLOCKS_OF_GROUP, FIRST_WIDTH = 4, 2, 256
#: Classes that the published pickle of the whole network names; what it holds of them is taken as plain values.
PICKLED = (
    *("dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock", "dall_e.utils.Conv2d", "torch.nn.modules.container.Sequential"),
    *("torch.nn.modules.activation.ReLU", "torch.nn.modules.pooling.MaxPool2d", "torch.nn.modules.linear.Identity"),
)


class Convolution(nn.Module):
    """A convolution that keeps the size of a picture, under the names of the published weights.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        side: side of the kernel.
    """

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(outputs, inputs, side, side))
        self.b = nn.Parameter(torch.empty(outputs))
        nn.init.normal_(self.w, std=(inputs * side**2) ** -0.5)
        nn.init.zeros_(self.b)

    def forward(self, picture: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        return F.conv2d(picture, self.w, self.b, padding=(self.w.shape[-1] - 1) // 2)


class ResidualBlock(nn.Module):
    """Four convolutions, each behind a ReLU, added with a gain of 1 / (number of all blocks)^2 to what came in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = outputs // 4
        widths = [(inputs, inner, 3), (inner, inner, 3), (inner, inner, 3), (inner, outputs, 1)]
        self.id_path = Convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.res_path = nn.ModuleDict({f"conv_{place}": Convolution(*sizes) for place, sizes in enumerate(widths, 1)})

    def forward(self, picture: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        inner = picture
        for convolution in self.res_path.values():
            inner = convolution(F.relu(inner))
        return self.id_path(picture) + inner / (GROUPS * BLOCKS_OF_GROUP) ** 2


class DvaeEncoder(nn.Module):
    """The encoder, as the one block of a network of frames.

    Args:
        embed_dim: number of codes.
        depth: 1.
        num_heads: 1.
        patch: side of the patch of a code, 8 px.
    """

    def __init__(self, embed_dim: int, depth: int, num_heads: int, patch: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(input=Convolution(3, FIRST_WIDTH, 7))
        width = FIRST_WIDTH
        for group in range(GROUPS):
            wider = FIRST_WIDTH << group
            blocks = {
                f"block_{place + 1}": ResidualBlock(width if place == 0 else wider, wider) for place in range(BLOCKS_OF_GROUP)
            }
            layers[f"group_{group + 1}"] = nn.ModuleDict(blocks)
            width = wider
        layers["output"] = nn.ModuleDict({"conv": Convolution(width, embed_dim, 1)})
        self.encoder = nn.ModuleDict(layers)
        self.blocks, self.norm = nn.ModuleList(), nn.Identity()

    @staticmethod
    def summarise(tokens: Tensor, cls: Tensor | None) -> Tensor:
        """Return the mean (B, codes) of the logits (B, h*w, codes) of a frame."""
        return tokens.mean(dim=1)

    def forward(self, frames: Tensor, blocks: Collection[int]) -> list[tuple[Tensor, None]]:
        """Return the logits (B, h*w, codes) of frames (B, 3, H, W), once for each of ``blocks``, with no class token."""
        picture = self.encoder["input"](frames)
        for group in range(GROUPS):
            for block in self.encoder[f"group_{group + 1}"].children():
                picture = block(picture)
            if group < GROUPS - 1:
                picture = F.max_pool2d(picture, 2)
        logits = self.encoder["output"].get_submodule("conv")(F.relu(picture))
        return [(logits.flatten(2).transpose(1, 2), None) for _ in blocks]


class _Plain:
    """The attributes that a pickled module holds, without the module."""


def read_dvae(path: Path) -> dict[str, Tensor]:
    """Return the weights in a published file, by our names: a state dict, or the pickle of the whole network.

    Of the pickle, attributes alone are taken; no code of it, of the package that it names, or of its modules runs.

    Raises:
        ConfigError: if there is no such file, or it holds something else.
    """
    content = None
    if path.is_file() and path.suffix != ".safetensors":
        content = load_pickled(path, tuple((_Plain, name) for name in PICKLED))
    found = dict(_tensors(content)) if isinstance(content, _Plain) else open_stored(path).tensors
    if not found or not all(name.startswith("blocks.") for name in found):
        raise ConfigError(f"{path}: is no encoder of DALL-E's discrete VAE, whose tensors are named blocks.*")
    return {f"encoder.{name.removeprefix('blocks.')}": value for name, value in found.items()}


def _tensors(module: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    """Return the parameters of a pickled module and of those inside it, by dotted name."""
    values = vars(module)
    found = [
        (f"{prefix}{name}", value.detach()) for name, value in values.get("_parameters", {}).items() if isinstance(value, Tensor)
    ]
    for name, inner in values.get("_modules", {}).items():
        found += _tensors(inner, f"{prefix}{name}.") if isinstance(inner, _Plain) else []
    return found
