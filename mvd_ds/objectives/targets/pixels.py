"""Targets that are the pixels of a patch."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from mvd_ds.config import PixelSettings, TrainingRecipe
from mvd_ds.objectives.standardisers import STABILISER
from mvd_ds.objectives.targets.target import Target


class PixelTarget(Target):
    """The pixels of every patch, normalised as ``pixels.normalise`` says. Source: VideoMAE and MAE.

    Args:
        recipe: the run; it has ``pixels`` settings.
        name: name of the target.
    """

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        if recipe.pixels is None:
            raise ValueError("pixel targets need the recipe's pixels settings")
        width = 3 * recipe.model.tubelet_frames * recipe.model.patch_px**2
        super().__init__(name, recipe.outputs[name].head(width), recipe.pixels.loss)
        self.settings, self.model = recipe.pixels, recipe.model

    @property
    def takes_standardised(self) -> bool:
        """True for a clip that is standardised by ImageNet's mean and deviation (MAE), False for one in [0, 1]."""
        return self.settings.normalise == "joint"

    def forward(self, source: Tensor) -> Tensor:
        """Return the ``pixel_targets`` (B, N, P) of a clip (B, C, T, H, W)."""
        return pixel_targets(source, self.model.tubelet_frames, self.model.patch_px, self.settings)


def patchify(clip: Tensor, tubelet_frames: int, patch_px: int) -> Tensor:
    """Return the pixels of every token's patch as one vector.

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
    """Return the pixels of every patch, normalised as ``settings.normalise`` says.

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
    patches = _by_colour(patchify(clip.float(), tubelet_frames, patch_px), clip.shape[1], settings)
    mean, divisor = _statistics(patches, settings)
    return ((patches - mean) / divisor).flatten(-2)


def predicted_pixels(predictions: Tensor, clip: Tensor, tubelet_frames: int, patch_px: int, settings: PixelSettings) -> Tensor:
    """Undo ``pixel_targets``: return predictions of every patch (B, N, P) as pixels in the units of ``clip``, fp32.

    The mean and the deviation are the patch's own, which a network that predicts normalised patches does not know.
    """
    patches = _by_colour(patchify(clip.float(), tubelet_frames, patch_px), clip.shape[1], settings)
    mean, divisor = _statistics(patches, settings)
    return (_by_colour(predictions.float(), clip.shape[1], settings) * divisor + mean).flatten(-2)


def unpatchify(patches: Tensor, grid: tuple[int, int, int], tubelet_frames: int, patch_px: int) -> Tensor:
    """Undo ``patchify``: (B, N, P) on the token ``grid`` (t, h, w) becomes (B, C, T, H, W)."""
    t, h, w = grid
    return rearrange(
        patches,
        "b (t h w) (frame row column c) -> b c (t frame) (h row) (w column)",
        t=t,
        h=h,
        w=w,
        frame=tubelet_frames,
        row=patch_px,
        column=patch_px,
    )


def _by_colour(patches: Tensor, colours: int, settings: PixelSettings) -> Tensor:
    """Map (B, N, P) to (B, N, P / groups, groups): each group is normalised by itself."""
    return patches.unflatten(-1, (-1, colours if settings.normalise == "per_channel" else 1))


def _statistics(patches: Tensor, settings: PixelSettings) -> tuple[Tensor, Tensor]:
    """Return the mean and the divisor that ``pixel_targets`` applies to (B, N, P / groups, groups)."""
    if settings.normalise == "none":
        return patches.new_zeros(()), patches.new_ones(())
    variance, mean = torch.var_mean(patches, dim=-2, correction=1, keepdim=True)
    if settings.normalise == "joint":
        return mean, (variance + settings.variance_floor + STABILISER).sqrt()
    return mean, (variance + settings.variance_floor).sqrt() + STABILISER
