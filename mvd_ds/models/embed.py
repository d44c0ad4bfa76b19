"""Embeddings that turn pixels into tokens: patch embedding, fixed position tables, learned single tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ConfigError, Grid
from mvd_ds.files import one_line
from mvd_ds.models.blocks.rotary import ROTATIONS


class PatchEmbed(nn.Module):
    """Every tubelet of patches times one matrix, computed for visible tubelets only.

    The weight has the shape of a ``Conv3d`` with kernel = stride, (D, C, tubelet, patch, patch), as in published
    checkpoints. It is applied as unfold and matrix product: convolutions of this form have been 10-20 times slower in
    bf16 on some torch and cuDNN versions. Embedding all tubelets would be 12 % of a base encoder at 90 % masking.

    Args:
        width: D, width of a token.
        grid: (t, h, w) token grid.
        tubelet_frames: frames of a tubelet.
        patch_px: side of a patch.
        xavier: start from Xavier-uniform weights over (D, C * tubelet * patch * patch), as MAE, not from those of
            ``Conv3d``, as VideoMAE and MVD.
        channels: C.
    """

    def __init__(
        self, width: int, grid: Grid, tubelet_frames: int, patch_px: int, xavier: bool = False, channels: int = 3
    ) -> None:
        super().__init__()
        self.grid = grid
        self.xavier = xavier
        self.weight = nn.Parameter(torch.empty(width, channels, tubelet_frames, patch_px, patch_px))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights."""
        if self.xavier:
            nn.init.xavier_uniform_(self.weight.flatten(1), generator=generator)
        else:
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5), generator=generator)
        limit = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.bias, -limit, limit, generator=generator)

    def forward(self, clip: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the embedded patches.

        Args:
            clip: (B, C, T, H, W) normalised.
            visible: (B, K, V) token indices, or None for all tokens and K = 1.

        Returns:
            (B * K, V, D), or (B, N, D) without ``visible``.

        Raises:
            ConfigError: if the clip does not have the geometry or type this was built for, or indices are of other clips.
        """
        _, channels, *patch = self.weight.shape
        expected = (channels, *(count * side for count, side in zip(self.grid, patch, strict=True)))
        if tuple(clip.shape[1:]) != expected:
            raise ConfigError(f"clip of shape {tuple(clip.shape)}: (C, T, H, W) must be {expected}")
        self._check_types(clip, visible)
        patches = unfold(clip, patch)
        if visible is not None:
            clips = torch.arange(len(clip), device=clip.device)[:, None, None]
            patches = patches[clips, visible].flatten(0, 1)
        return F.linear(patches, self.weight.flatten(1), self.bias)

    def _check_types(self, clip: Tensor, visible: Tensor | None) -> None:
        """Refuse clips and indices that torch would compute something else with, or answer with an error of its own."""
        is_mixed = torch.is_autocast_enabled(clip.device.type)
        if not clip.is_floating_point() or (clip.dtype != self.weight.dtype and not is_mixed):
            wanted, got = short_name(self.weight.dtype), short_name(clip.dtype)
            raise ConfigError(f"a clip is normalised and has the type of the weights, {wanted}; got {got}")
        if visible is not None and (visible.dtype != torch.int64 or visible.ndim != 3 or len(visible) != len(clip)):
            raise ConfigError(
                f"visible tokens of {len(clip)} clips are a bool mask, True = masked, or int64 indices (B, K, V); "
                f"got {short_name(visible.dtype)} {tuple(visible.shape)}"
            )


def short_name(dtype: torch.dtype) -> str:
    """Return ``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def unfold(clip: Tensor, patch: list[int]) -> Tensor:
    """Map (B, C, T, H, W) to (B, N, C * frames * rows * columns) in the order of a ``Conv3d`` weight.

    Args:
        clip: (B, C, T, H, W).
        patch: (frames, rows, columns) of a tubelet.
    """
    frames, rows, columns = patch
    blocks = clip.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(2, (-1, frames))
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def split_mask(mask: Tensor, clips: int | None = None, tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the ascending indices of visible and of masked tokens.

    Args:
        mask: (B, N) or (B, K, N) bool, True = masked; as many in every row.
        clips: B, where it is known.
        tokens: N, where it is known.

    Returns:
        (B, K, V) and (B, K, M) int64; K = 1 for (B, N).

    Raises:
        ConfigError: if it is no such mask.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim not in (2, 3):
        got = f"{short_name(mask.dtype)} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ConfigError(f"a mask is a bool tensor (B, N) or (B, K, N), True = masked; got {got}")
    mask = mask.unsqueeze(1) if mask.ndim == 2 else mask
    for length, wanted, what in ((len(mask), clips, "clips"), (mask.shape[-1], tokens, "tokens of a clip")):
        if wanted is not None and length != wanted:
            raise ConfigError(f"the mask is of {length} {what}, there are {wanted}")
    if not mask.numel():
        raise ConfigError(f"the mask {tuple(mask.shape)} is empty")
    counts = mask.sum(dim=-1)
    count = int(counts.flatten()[0])
    if (counts != count).any():
        raise ConfigError(f"every row of a mask hides as many tokens; got {one_line(counts.unique().tolist(), 80)}")
    order = mask.long().argsort(dim=-1, stable=True)
    return order[..., : mask.shape[-1] - count], order[..., mask.shape[-1] - count :]


class LearnedToken(nn.Module):
    """One learned token, the class token of an encoder or the mask token of a decoder, or several: its registers.

    Args:
        width: D.
        std: standard deviation of the normal distribution it starts from.
        truncate: redraw initial values beyond one standard deviation.
        tokens: how many there are.
    """

    def __init__(self, width: int, std: float, truncate: bool = False, tokens: int = 1) -> None:
        super().__init__()
        self.std = std
        self.truncate = truncate
        self.weight = nn.Parameter(torch.empty(1, tokens, width))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights."""
        if self.truncate:
            nn.init.trunc_normal_(self.weight, std=self.std, a=-self.std, b=self.std, generator=generator)
        else:
            nn.init.normal_(self.weight, std=self.std, generator=generator)

    def forward(self, batch: int, count: int) -> Tensor:
        """Return (batch, count, D): the same token everywhere, or all of several."""
        return self.weight.expand(batch, count, -1)


class Position(nn.Module):
    """A table of positions, added to tokens; nothing is added where positions are rotary, see ``blocks.rotary``.

    A fixed table is a non-persistent buffer, not a frozen parameter: it belongs to a geometry, not to a checkpoint, and is
    rebuilt for the grid at hand (a patch-14 teacher at 196 px thus has positions 0..13, as published). A learned one is a weight.

    Args:
        kind: ``sincos3d``, ``sinusoid1d``, ``sincos2d``, ``learned``, or a rotary one.
        grid: (t, h, w) token grid.
        width: D.
        has_cls: a learned table has a row for the class token; fixed ones leave it without a position.
    """

    table: Tensor

    def __init__(self, kind: str, grid: Grid, width: int, has_cls: bool = False) -> None:
        super().__init__()
        self.cls: nn.Parameter | None = None
        self.is_added = kind not in ROTATIONS
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(math.prod(grid), width))
            self.cls = nn.Parameter(torch.empty(1, width)) if has_cls else None
            self.reset_parameters()
            return
        if not self.is_added:
            return
        # numpy, because ZeRO's construction context changes type and device of what torch's factories make.
        table = torch.from_numpy(POSITION_TABLES[kind](grid, width).astype(np.float32))
        self.register_buffer("table", table, persistent=False)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights of a learned table. Source: timm, VideoMAE, std 0.02."""
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    def forward(self, tokens: Tensor, index: Tensor | None = None, cls: Tensor | None = None) -> Tensor:
        """Return the tokens with their positions added, in the type of the tokens.

        Args:
            tokens: (B, V, D).
            index: (B, V) token index of every token, or None if they are all N tokens in order.
            cls: (B, 1 or 0, D) class tokens to put in front, or None.
        """
        if self.is_added:
            table = self.table.to(tokens.dtype)
            tokens = tokens + (table if index is None else table[index])
        if cls is None:
            return tokens
        if self.cls is not None:
            cls = cls + self.cls.to(cls.dtype)
        return torch.cat((cls.to(tokens.dtype), tokens), dim=1)


def sincos_1d(positions: np.ndarray, width: int) -> np.ndarray:
    """Map (n,) positions to (n, width): all sines, then all cosines, with frequencies 10000^(-2i / width)."""
    angles = np.outer(positions, 1.0 / 10000.0 ** (np.arange(width // 2) / (width / 2.0)))
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1)


def sincos_2d(grid: Grid, width: int) -> np.ndarray:
    """Return (N, width): half of the channels from the column, half from the row, the same in every slot.

    Source: MAE, which puts the column first.
    """
    slots, rows, columns = grid
    row, column = np.divmod(np.arange(rows * columns), columns)
    frame = np.concatenate((sincos_1d(column, width // 2), sincos_1d(row, width // 2)), axis=1)
    return np.tile(frame, (slots, 1))


def sincos_3d(grid: Grid, width: int) -> np.ndarray:
    """Return (N, width): a quarter of the channels from the slot in time, the rest as ``sincos_2d``. Source: MVD."""
    slots, rows, columns = grid
    time = np.repeat(sincos_1d(np.arange(slots), width // 4), rows * columns, axis=0)
    return np.concatenate((time, sincos_2d(grid, width - width // 4)), axis=1)


def sinusoid_1d(grid: Grid, width: int) -> np.ndarray:
    """Return (N, width) of the flat token index, sines in even channels, cosines in odd. Source: VideoMAE."""
    # Divided, not multiplied by the inverse, so that the table equals the published one to the last bit.
    angles = np.arange(math.prod(grid))[:, None] / np.power(10000, 2 * np.arange(width // 2) / width)
    return np.stack((np.sin(angles), np.cos(angles)), axis=2).reshape(-1, width)


POSITION_TABLES: dict[str, Callable[[Grid, int], np.ndarray]] = {
    "sincos3d": sincos_3d,
    "sincos2d": sincos_2d,
    "sinusoid1d": sinusoid_1d,
}
