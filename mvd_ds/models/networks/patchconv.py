"""PatchConvNet: a convolutional trunk of one resolution and a query that gathers it, under the names of its published weights.

Source: Touvron et al. 2021 (arXiv 2112.13692), the single-query variant, inference alone. Differs: the summary is there after
the last block of the trunk alone, from the one aggregating block; it is no student, for its convolutions need the whole grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LayerNorm = partial(nn.LayerNorm, eps=1e-6)
#: First values of LayerScale: deeper and wider networks start smaller.
FIRST_SCALE = {(384, 60): 1e-4}
OTHER_FIRST_SCALE = 1e-6


class SqueezeExcite(nn.Module):
    """Every channel times a factor that is computed of the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, channels // 4, 1)
        self.conv_expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        means = picture.mean(dim=(2, 3), keepdim=True)
        return picture * self.conv_expand(F.relu(self.conv_reduce(means))).sigmoid()


class Convolutions(nn.Module):
    """1 x 1, depthwise 3 x 3, squeeze and excitation, 1 x 1; GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv_pos = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.GELU(),
            SqueezeExcite(width),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map tokens (B, h * w, D) to (B, h * w, D)."""
        return self.qkv_pos(tokens.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)


class TrunkBlock(nn.Module):
    """Convolutions behind a norm, scaled and added."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm1, self.attn = LayerNorm(width), Convolutions(width)
        self.gamma_1 = nn.Parameter(torch.full((width,), scale))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map tokens (B, h * w, D) to (B, h * w, D)."""
        return tokens + self.gamma_1 * self.attn(self.norm1(tokens), grid)


class Gathering(nn.Module):
    """Attention in one head of the class token to itself and to all patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, 1 + N, D) to (B, 1, D)."""
        return self.proj(F.scaled_dot_product_attention(self.q(tokens[:, :1]), self.k(tokens), self.v(tokens)))


class Mlp(nn.Module):
    """Linear, GELU, Linear, under the names of its published weights."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, 1, D) to (B, 1, D)."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class GatheringBlock(nn.Module):
    """Attention of the class token, then its MLP, scaled and added."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm1, self.attn = LayerNorm(width), Gathering(width)
        self.norm2, self.mlp = LayerNorm(width), Mlp(width, 3 * width)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((width,), scale)) for _ in range(2))

    def forward(self, tokens: Tensor, cls: Tensor) -> Tensor:
        """Map patch tokens (B, N, D) and the class token (B, 1, D) to (B, 1, D)."""
        cls = cls + self.gamma_1 * self.attn(self.norm1(torch.cat((cls, tokens), dim=1)))
        return cls + self.gamma_2 * self.mlp(self.norm2(cls))


class PatchEmbed(nn.Module):
    """Four convolutions of stride 2 without biases, GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [3, width // 8, width // 4, width // 2, width]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, D, h, w)."""
        return self.proj(frames)


class PatchConvNet(nn.Module):
    """The network without its class head.

    Args:
        embed_dim: D.
        depth: number of blocks of the trunk.
        num_heads: heads of the query: 1.
        patch_px: side of a patch: 16.
    """

    def __init__(self, embed_dim: int, depth: int, num_heads: int = 1, patch_px: int = 16) -> None:
        super().__init__()
        assert (num_heads, patch_px) == (1, 16), "as published"
        scale = FIRST_SCALE.get((embed_dim, depth), OTHER_FIRST_SCALE)
        self.patch_embed = PatchEmbed(embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.blocks = nn.ModuleList(TrunkBlock(embed_dim, scale) for _ in range(depth))
        self.blocks_token_only = nn.ModuleList([GatheringBlock(embed_dim, scale)])
        self.norm: nn.Module = LayerNorm(embed_dim)

    def forward(self, frames: Tensor, blocks: Collection[int]) -> list[tuple[Tensor, Tensor]]:
        """Return tokens (B, h * w, D) after the named ``blocks`` of the trunk, and the class token (B, D) at its start."""
        picture, found = self.patch_embed(frames), []
        tokens, cls = picture.flatten(2).transpose(1, 2), self.cls_token[:, 0].expand(len(frames), -1)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, tuple(picture.shape[2:]))
            if index in blocks:
                found.append((tokens, cls))
        return found

    def summarise(self, tokens: Tensor, cls: Tensor) -> Tensor:
        """Return the summary (B, D) of tokens (B, h * w, D): what the class token gathers of them, normed."""
        (gather,) = self.blocks_token_only
        return self.norm(gather(tokens, cls.unsqueeze(1)))[:, 0]
