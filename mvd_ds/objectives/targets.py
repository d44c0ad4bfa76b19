"""Targets: pixels of patches in stage one, features of teachers in stage two, both at masked tokens only."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import PixelSettings

STABILISER = 1e-6
"""Keeps a flat patch or a constant token from dividing by zero. Source: VideoMAE, MAE and MVD, all three 1e-6."""


def patchify(clip: Tensor, tubelet_frames: int, patch_px: int) -> Tensor:
    """The pixels of every token's patch as one vector.

    Args:
        clip: (B, C, T, H, W).
        tubelet_frames: frames of a patch; divides T.
        patch_px: side of a patch; divides H and W.

    Returns:
        (B, N, P) with N = t*h*w, t-major then h then w, and P = tubelet_frames * patch_px**2 * C in the order
        (tubelet frame, patch row, patch column, colour).
    """
    return rearrange(
        clip,
        "b c (t frame) (h row) (w column) -> b (t h w) (frame row column c)",
        frame=tubelet_frames,
        row=patch_px,
        column=patch_px,
    )


def pixel_targets(clip: Tensor, tubelet_frames: int, patch_px: int, settings: PixelSettings) -> Tensor:
    """Pixels of every patch, normalised as ``settings.normalise`` says.

    | normalise   | mean and unbiased variance over    | divided by               | source   |
    |-------------|------------------------------------|--------------------------|----------|
    | per_channel | the patch's pixels, each colour    | sqrt(var + floor) + 1e-6 | VideoMAE |
    | joint       | the patch's pixels and colours     | sqrt(var + floor + 1e-6) | MAE      |
    | none        | -                                  | 1                        | -        |

    MAE takes its pixels from the image standardised by ImageNet's mean and deviation, VideoMAE from the one in [0, 1]: the
    caller hands over the right one, and ``variance_floor`` is in its units.

    Args:
        clip: (B, C, T, H, W), standardised for ``joint``, in [0, 1] otherwise; any float type.
        tubelet_frames: frames of a patch; divides T.
        patch_px: side of a patch; divides H and W.
        settings: the normalisation and its ``variance_floor``, which is 0 in both sources.

    Returns:
        (B, N, P) fp32, ordered as ``patchify`` says.
    """
    patches = patchify(clip.float(), tubelet_frames, patch_px)
    if settings.normalise == "none":
        return patches
    if settings.normalise == "joint":
        variance, mean = torch.var_mean(patches, dim=-1, correction=1, keepdim=True)
        return (patches - mean) / (variance + settings.variance_floor + STABILISER).sqrt()
    by_colour = rearrange(patches, "b n (pixel c) -> b n pixel c", c=clip.shape[1])
    variance, mean = torch.var_mean(by_colour, dim=-2, correction=1, keepdim=True)
    return rearrange(
        (by_colour - mean) / ((variance + settings.variance_floor).sqrt() + STABILISER), "b n pixel c -> b n (pixel c)"
    )


def gather_masked(features: Tensor, masked: Tensor) -> Tensor:
    """The features of masked tokens, one row of tokens for every (clip, mask).

    Args:
        features: (B, N, D).
        masked: (B, K, M) int64 token indices.

    Returns:
        (B*K, M, D), clip-major: row b*K + k is mask k of clip b. Source: MVD takes its loss at masked tokens only.
    """
    clips, masks, tokens = masked.shape
    index = masked.reshape(clips, masks * tokens, 1).expand(-1, -1, features.shape[-1])
    return features.gather(1, index).reshape(clips * masks, tokens, features.shape[-1])


def normalise_tokens(features: Tensor) -> Tensor:
    """LayerNorm without parameters of every token, in fp32.

    Args:
        features: (..., D), any float type.

    Returns:
        (..., D) fp32, mean 0 and biased variance 1 over D. Source: MVD, ``--norm_feature``.
    """
    return functional.layer_norm(features.float(), features.shape[-1:], eps=STABILISER)
