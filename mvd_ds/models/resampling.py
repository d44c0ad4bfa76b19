"""Clips and features on other grids: frames repeated or mixed, tokens resized in space and read at other times."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvd_ds.config import Grid


def resize_grid(tokens: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """Resize (B, N, D) on ``grid`` to (B, N', D) on ``wanted``: linear along every axis, in fp32, centres aligned."""
    if grid == wanted:
        return tokens
    volume = tokens.float().transpose(1, 2).unflatten(2, grid)
    volume = F.interpolate(volume, size=wanted, mode="trilinear", align_corners=False)
    return volume.flatten(2).transpose(1, 2).to(tokens.dtype)


def resample_frames(clip: Tensor, frames: int, how: str) -> Tensor:
    """Return (B, C, frames, H, W) that lasts as long as ``clip``, whose frames are repeated or left out, or mixed.

    Args:
        clip: (B, C, T, H, W).
        frames: frames that are wanted.
        how: nearest or linear.
    """
    if clip.shape[2] == frames:
        return clip
    if how == "nearest":
        middles = (torch.arange(frames, device=clip.device) + 0.5) * (clip.shape[2] / frames)
        return clip[:, :, middles.long()]
    return F.interpolate(clip, size=(frames, *clip.shape[3:]), mode="trilinear", align_corners=False)


def slot_weights(slots: int, tubelet: int, wanted_slots: int, wanted_tubelet: int, step: float, device: torch.device) -> Tensor:
    """Return the weights (wanted_slots, slots) that read slots of tokens at the middles of others, linear in time.

    Both clips have the same middle. Outside of the first and the last middle the nearest slot counts.

    Args:
        slots: slots that are read.
        tubelet: frames of each.
        wanted_slots: slots that are wanted.
        wanted_tubelet: frames of each.
        step: time from one frame to the next of the clip that is read, in that of the other.
        device: where the weights are wanted; they are computed there, so that nothing waits for a copy.
    """

    def middles(count: int, frames: int) -> Tensor:
        return (torch.arange(count, dtype=torch.float32, device=device) - (count - 1) / 2) * frames

    places = middles(wanted_slots, wanted_tubelet) / (step * tubelet) + (slots - 1) / 2
    distance = (places.clamp(0, slots - 1)[:, None] - torch.arange(slots, device=device)).abs()
    return (1 - distance).clamp(min=0)


def read_slots(tokens: Tensor, weights: Tensor) -> Tensor:
    """Return (B, t' * n, D) out of (B, t * n, D), n tokens to a slot, by ``weights`` (t', t); summed in fp32."""
    slots = tokens.unflatten(1, (weights.shape[1], -1)).float()
    return torch.einsum("st,btnd->bsnd", weights, slots).flatten(1, 2).to(tokens.dtype)
