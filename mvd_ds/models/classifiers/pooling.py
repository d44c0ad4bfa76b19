"""One vector per clip from an encoder: mean, cls, max, GeM, GGeM and attention, under the same names everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvd_ds.config import ConfigError, PoolingSettings
from mvd_ds.models.classifiers.class_attention import ClassAttention
from mvd_ds.models.layers import run_blocks
from mvd_ds.models.vit import VisionTransformer


class Pooling(nn.Module):
    """(B, [1 +] N, D) -> (B, D), computed in fp32; attention in the type of its weights, (B, classes, D) with a query a class.

    Args:
        settings: kind, exponent, floor and groups.
        width: D.
        heads: attention heads of the encoder; GGeM has as many groups by default.
        cls_token: whether the first token is a class token; it is left out of all kinds but cls.
        classes: number of classes, for a query each; None where there are none.

    Raises:
        ConfigError: if there is no class token to take, no class to have a query, or groups do not divide the width.
    """

    def __init__(self, settings: PoolingSettings, width: int, heads: int, cls_token: bool, classes: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.cls_token = cls_token
        if settings.kind == "cls" and not cls_token:
            raise ConfigError("pooling cls: this encoder has no class token; choose mean, max, gem or ggem")
        try:
            groups = settings.groups_of(width, heads)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.exponents = nn.Parameter(torch.empty(groups)) if groups else None
        if settings.kind == "attention":
            if classes is None:
                raise ConfigError(
                    "pooling attention is learned: finetune trains it, heads=[class_query] of probe does on frozen tokens; "
                    "frozen features take mean, cls, max, gem or ggem"
                )
            queries = classes if settings.queries == "class" else 1
            self.attention = ClassAttention(width, queries, settings.layer_scale)
            self.deeper = nn.ModuleList(
                ClassAttention(width, queries, settings.layer_scale, learns_queries=False) for _ in settings.layers[1:]
            )
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Set the exponents to ``settings.exponent``; nothing is drawn."""
        if self.exponents is not None:
            nn.init.constant_(self.exponents, self.settings.exponent)

    def forward(self, *layers: Tensor) -> Tensor:
        """Map tokens (B, [1 +] N, D) to fp32 (B, D), or (B, classes, D) with a query for each class.

        Args:
            layers: the tokens; of every block of ``settings.layers``, in their order.
        """
        (tokens, *later) = layers
        if self.settings.kind == "cls":
            return tokens[:, 0].float()
        if self.settings.kind == "attention":
            gathered = self.attention(tokens[:, int(self.cls_token) :])
            for block, deeper in zip(self.deeper, later, strict=True):
                gathered = block(deeper[:, int(self.cls_token) :], gathered)
            return gathered.float() if self.settings.queries == "class" else gathered[:, 0].float()
        patches = tokens[:, int(self.cls_token) :].float()
        if self.settings.kind == "max":
            return patches.amax(dim=1)
        if self.exponents is None:
            return patches.mean(dim=1)
        return generalised_mean(patches, self.exponents.float(), self.settings.eps if self.settings.clamp else None)


def generalised_mean(tokens: Tensor, exponents: Tensor, eps: float | None) -> Tensor:
    """Return (mean over tokens of max(x, eps)^p)^(1/p).

    The largest value of a channel is divided out before the power, so that 1e3^20 does not overflow.

    Args:
        tokens: fp32 (B, N, D).
        exponents: (groups,), one for each D / groups neighbouring channels.
        eps: floor, or None for channels that are never negative.

    Returns:
        (B, D).
    """
    grouped = tokens.unflatten(2, (len(exponents), -1))
    grouped = grouped if eps is None else grouped.clamp_min(eps)
    powers = exponents[:, None]
    largest = grouped.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(grouped.dtype).tiny)
    means = (grouped / largest).pow(powers).mean(dim=1)
    return (means.pow(1 / powers) * largest.squeeze(1)).flatten(1)


def mean_tokens(tokens: Tensor, cls_token: bool) -> Tensor:
    """Map (B, [1 +] N, D) to (B, D): fp32 mean over the patch tokens; the class token is left out."""
    return tokens[:, int(cls_token) :].float().mean(dim=1)


def layer_tokens(encoder: VisionTransformer, clip: Tensor, layer: int = -1) -> Tensor:
    """Return tokens (B, [1 +] N, D) of clips (B, C, T, H, W) after a block; after the last one and its norm for -1.

    An image encoder sees every frame on its own: (B * T, [1 +] N, D).

    Raises:
        ConfigError: if there is no such block.
    """
    depth = len(encoder.blocks)
    if not -depth <= layer < depth:
        raise ConfigError(f"layer {layer}: this encoder has blocks 0 to {depth - 1}, or -{depth} to -1 from the end")
    if encoder.settings.kind == "image":
        clip = clip.transpose(1, 2).flatten(0, 1)[:, :, None]
    if layer % depth == depth - 1:
        return encoder(clip)
    return encoder.without_registers(
        run_blocks(encoder.blocks[: layer % depth + 1], encoder.embed(clip), None, 0, turns=encoder.turns())
    )


def clip_features(encoder: VisionTransformer, clip: Tensor, pooling: Pooling | None = None, layer: int = -1) -> Tensor:
    """Map normalised clips (B, C, T, H, W) to (B, D): tokens after a block, pooled; their mean without a ``pooling``.

    The mean of an image encoder's frames is the clip's.
    """
    pool = pooling or encoder_pooling(encoder, PoolingSettings())
    pooled = pool(layer_tokens(encoder, clip, layer))
    return pooled if encoder.settings.kind == "video" else pooled.unflatten(0, (-1, clip.shape[2])).mean(dim=1)


def clip_tokens(encoder: VisionTransformer, clip: Tensor, layer: int = -1) -> Tensor:
    """Map normalised clips (B, C, T, H, W) to (B, N, D): patch tokens after a block, of all frames by an image encoder."""
    tokens = layer_tokens(encoder, clip, layer)[:, int(encoder.settings.cls_token) :]
    return tokens if encoder.settings.kind == "video" else tokens.unflatten(0, (len(clip), -1)).flatten(1, 2)


def encoder_pooling(encoder: VisionTransformer, settings: PoolingSettings) -> Pooling:
    """Return the pooling of an encoder's tokens, on its device."""
    shape = encoder.settings
    pooling = Pooling(settings, shape.embed_dim, shape.num_heads, shape.cls_token)
    return pooling.to(next(encoder.parameters()).device)
