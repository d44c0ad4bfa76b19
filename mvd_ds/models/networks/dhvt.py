"""DHVT: a Vision Transformer with convolutions and head tokens, under the names of its published weights.

An image becomes patches by overlapping convolutions; attention also sees one token for each head, made of the mean of all
tokens; the MLP is a depthwise convolution of the patches, whose mean scales the class token. It needs the whole grid: it teaches
unmasked and is no student. Source: Lu et al. 2022 (arXiv 2210.05958), inference alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Affine(nn.Module):
    """A factor and a term for every channel of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, picture: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        return picture * self.alpha + self.beta


class Patches(nn.Module):
    """Convolutions of stride 2 in place of a patch embedding: as many as halve a patch to one cell, twice as wide each."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        widths = [3, *(width >> step for step in range(halvings - 1, -1, -1))]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            halved = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(halved, nn.BatchNorm2d(outputs)), nn.GELU()]
        # A single convolution keeps the GELU behind it.
        self.proj = nn.Sequential(*(layers if halvings == 1 else layers[:-1]))
        self.pre_affine, self.post_affine = Affine(3), Affine(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, D, h, w)."""
        return self.post_affine(self.proj(self.pre_affine(frames)))


class HeadTokenAttention(nn.Module):
    """Self-attention of class and patch tokens and of one token for each head, whose outputs go to the class token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ht_proj, self.ht_norm = nn.Linear(width // heads, width), nn.LayerNorm(width // heads)
        self.pos_embed = nn.Parameter(torch.empty(1, heads, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, 1 + N, D) to (B, 1 + N, D)."""
        means = tokens.mean(dim=1).unflatten(-1, (self.heads, -1))
        parts = F.gelu(self.ht_norm(self.ht_proj(means).unflatten(-1, (self.heads, -1))))
        joined = torch.cat((tokens, parts.flatten(-2) + self.pos_embed), dim=1)
        query, key, value = self.qkv(joined).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2))
        cls, patches, ofs = mixed.split((1, tokens.shape[1] - 1, self.heads), dim=1)
        return torch.cat((cls + ofs.mean(dim=1, keepdim=True), patches), dim=1)


class DepthwiseMlp(nn.Module):
    """1 x 1, depthwise 3 x 3 and 1 x 1 convolutions of the patches; their mean, squeezed and excited, scales the class token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = nn.Conv2d(hidden, width, 1), nn.BatchNorm2d(width)
        self.compress, self.excitation = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map (B, 1 + h * w, D) to (B, 1 + h * w, D)."""
        cls, patches = tokens.tensor_split((1,), dim=1)
        wide = F.gelu(self.bn1(self.conv1(patches.transpose(1, 2).unflatten(2, grid))))
        picture = self.bn3(self.conv3(wide + F.gelu(self.bn2(self.conv2(wide)))))
        factor = self.excitation(F.gelu(self.compress(picture.mean(dim=(2, 3))))).unsqueeze(1)
        return torch.cat((cls * factor, picture.flatten(2).transpose(1, 2)), dim=1)


class DhvtBlock(nn.Module):
    """Attention with head tokens, then the depthwise MLP, each behind a norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = LayerNorm(width), HeadTokenAttention(width, heads)
        self.norm2, self.mlp = LayerNorm(width), DepthwiseMlp(width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map (B, 1 + h * w, D) to (B, 1 + h * w, D)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens), grid)


class Dhvt(nn.Module):
    """The network without its class head.

    Args:
        embed_dim: D.
        depth: number of blocks.
        num_heads: attention heads, and head tokens.
        patch_px: side of a patch: a power of 2.
    """

    def __init__(self, embed_dim: int, depth: int, num_heads: int, patch_px: int) -> None:
        super().__init__()
        self.patch_embed = Patches(embed_dim, patch_px)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.blocks = nn.ModuleList(DhvtBlock(embed_dim, num_heads) for _ in range(depth))
        self.norm: nn.Module = LayerNorm(embed_dim)

    def forward(self, frames: Tensor, blocks: Collection[int]) -> list[tuple[Tensor, Tensor]]:
        """Return patch tokens (B, h * w, D) and the class token (B, D) after the named ``blocks``, for frames (B, 3, H, W)."""
        picture, found = self.patch_embed(frames), []
        tokens = torch.cat((self.cls_token.expand(len(frames), -1, -1), picture.flatten(2).transpose(1, 2)), dim=1)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, tuple(picture.shape[2:]))
            if index in blocks:
                found.append((tokens[:, 1:], tokens[:, 0]))
        return found

    def summarise(self, tokens: Tensor, cls: Tensor) -> Tensor:
        """Return the summary (B, D) of a block: the class token behind the last norm."""
        return self.norm(cls)
