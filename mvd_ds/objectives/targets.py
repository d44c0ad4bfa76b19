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


class Standardiser:
    """Takes from features what all clips have in common at a token position, and gives every channel the same scale.

    Differs: MVD predicts features as they are. In the quickstart's video teacher, for one, position alone explains most of
    a target, so that most of the loss says nothing about the clip. Balancing scales is PHI-S's idea (arXiv 2410.01680).
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Take (B, N, D) features of B clips into account; sums are kept in fp64, (N, D)."""
        features = features.double()
        total, squares = features.sum(0), features.square().sum(0)
        self.count += len(features)
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares

    def finish(self) -> None:
        """Turn the sums into ``mean`` (N, D) and ``scale`` (D,), fp32.

        Raises:
            ValueError: if nothing was added.
        """
        if self.total is None or self.squares is None:
            raise ValueError("a standardiser needs features")
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0).mean(0)
        self.mean = mean.float()
        self.scale = 1 / (variance.sqrt() + STABILISER).float()
        self.total = self.squares = None

    def __call__(self, features: Tensor) -> Tensor:
        """(B, N, D) any float type -> (B, N, D) fp32."""
        return (features.float() - self.mean) * self.scale
