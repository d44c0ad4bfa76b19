"""One vector per clip from an encoder."""

from __future__ import annotations

from torch import Tensor

from mvd_ds.models.vit import VisionTransformer


def mean_tokens(tokens: Tensor, cls_token: bool) -> Tensor:
    """(B, [1 +] N, D) -> (B, D): fp32 mean over the patch tokens; the class token is left out."""
    return tokens[:, int(cls_token) :].float().mean(dim=1)


def clip_features(encoder: VisionTransformer, clip: Tensor) -> Tensor:
    """(B, C, T, H, W) normalised -> (B, D): mean of all patch tokens after the final norm.

    An image encoder sees every frame on its own; the mean is then over frames too.
    """
    if encoder.settings.kind == "video":
        return mean_tokens(encoder(clip), encoder.settings.cls_token)
    frames = clip.transpose(1, 2).flatten(0, 1)[:, :, None]
    return mean_tokens(encoder(frames), encoder.settings.cls_token).unflatten(0, (len(clip), -1)).mean(dim=1)
