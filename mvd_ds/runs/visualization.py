"""This module runs networks on a few fixed clips for pictures: predictions, losses, attention, similarity of frames."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvd_ds.config import ATTENTION, IMAGENET_MEAN, IMAGENET_STD, ClipView, PixelSettings, TeacherSettings, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.data.masking_batch import DeviceMasks, mask_arrays
from mvd_ds.data.randomness import keyed_generator
from mvd_ds.evaluation.hooks import AttentionOf, LayerSimilarity, spread_heads
from mvd_ds.evaluation.sheets import Observed
from mvd_ds.models.attention import Attention
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.teachers import Teacher
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.objectives.losses import per_token
from mvd_ds.objectives.targets import Target, gather_masked, patchify, predicted_pixels, unpatchify
from mvd_ds.training.device_batch import to_device
from mvd_ds.training.step import TeacherTargets, normalise, to_unit

#: Tokens that a target has to predict to be in the pictures, which show the masked ones.
_SHOWN = ("masked", "all")


def picture_batch(recipe: TrainingRecipe, views: dict[ClipView, Tensor]) -> ClipBatch:
    """Return a batch of ``views`` (side in px -> uint8 (B, C, T, H, W)) with one mask each, equal in all runs of a seed."""
    masking = recipe.masking.model_copy(update={"masks_per_clip": 1})
    clips = len(views[recipe.data.clip.size_px])
    drawn = []
    for clip in range(clips):
        generator = keyed_generator(recipe.run.seed, "pictures", clip)
        drawn.append(mask_arrays(masking, recipe.grid, recipe.predicted_tokens, generator, generator))
    none = torch.zeros(clips, dtype=torch.int64)
    undrawn: dict[str, Any] = dict.fromkeys(("visible", "masked"), none[:, None, None][..., :0])
    return ClipBatch(
        views=views,
        flip=none.bool(),
        drop_path=torch.zeros(clips, 1, recipe.drop_path_blocks),
        labels=none[:, None][:, : 1 if recipe.labels else 0] - 1,
        sample=none,
        place=none,
        faults=[],
        **(undrawn | {name: torch.from_numpy(np.stack([arrays[name] for arrays in drawn])) for name in drawn[0]}),
    )


@torch.no_grad()
def observe(
    recipe: TrainingRecipe,
    forward: Callable[..., dict[str, Tensor]],
    model: MaskedPredictor,
    targets: Any,
    batch: ClipBatch,
    device: torch.device,
    heads: list[int] | None = None,
    frames: int = 1,
) -> Observed:
    """Run a MaskedPredictor, and its teachers, on a batch. Collective where networks are sharded.

    The network runs twice, through ``forward`` alone: with the mask, for predictions, and on all tokens, for attention and
    similarity across frames. Modules run in the order of a training step both times, as ZeRO-3's prefetching has them.

    Args:
        recipe: recipe of the network.
        forward: the network or the engine around it, in ``eval()``.
        model: the network itself.
        targets: the ``TeacherTargets`` of the run; None or another: no teachers are asked.
        batch: batch of ``picture_batch``.
        device: device of the networks.
        heads: heads of the encoder's last layer; None: three, evenly spread.
        frames: for a network of images: number of consecutive images in the batch that are one video.
    """
    inputs, scores, scored_by = _with_masks(recipe, targets, to_device(batch, device))
    view = inputs.views[recipe.data.clip.size_px]
    clip = normalise(to_unit(view), next(model.parameters()).dtype)
    predictions = forward(clip, inputs.visible, inputs.masked)
    tokens = int(np.prod(recipe.grid))
    everything = torch.arange(tokens, device=device).repeat(len(clip), 1, 1)
    visible = torch.zeros(len(clip), tokens, dtype=torch.bool, device=device).scatter(1, inputs.visible[:, 0], True)
    with watch_layers(model.encoder, heads, frames) as (similarity, attention):
        # All tokens are visible; the one that decoders are asked for keeps them busy, and nobody looks at it.
        forward(clip, everything, everything[:, :, :1])
    seen = Observed(
        clip=view,
        grid=recipe.grid,
        masked=inputs.masked[:, 0],
        hidden=(~visible).nonzero()[:, 1].view(len(clip), -1),
        scores=scores,
        scored_by=scored_by,
        attention=attention.received,
        similarity={"student" if recipe.pixels is None else "network": similarity.layers},
    )
    if recipe.pixels is not None:
        _add_pixels(seen, recipe, predictions["pixels"], targets, inputs)
        return seen
    seen.predictions = {
        name: prediction[:, : inputs.masked.shape[2]]
        for name, prediction in predictions.items()
        if model.heads[name].tokens in _SHOWN
    }
    if isinstance(targets, TeacherTargets):
        _add_teachers(seen, targets, inputs)
    return seen


def _with_masks(recipe: TrainingRecipe, targets: Any, inputs: ClipBatch) -> tuple[ClipBatch, Tensor | None, str]:
    """Return a batch on the device with masks, the scores (B, N) that they were drawn from, and what these are in words."""
    if not recipe.masking.is_scored:
        return inputs, None, ""
    masks, scores, words = DeviceMasks(recipe), None, "random, for want of the teacher"
    if masks.teacher is None:
        scores, words = masks.scores(inputs, None), f"motion by {recipe.masking.motion.replace('_', ' ')}"
    elif isinstance(targets, TeacherTargets) and masks.teacher in targets.teachers:
        scores, words = targets.sources(masks.teacher, inputs)[ATTENTION], f"attention of teacher {masks.teacher}"
    drawn = masks.from_scores(inputs, scores)
    return drawn, scores if scores is None or scores.ndim == 2 else scores[:, 0], words


@contextlib.contextmanager
def watch_layers(
    encoder: VisionTransformer, heads: list[int] | None = None, frames: int = 1
) -> Iterator[tuple[LayerSimilarity, AttentionOf]]:
    """Record the similarity of frames after every layer, and the attention of the last; arguments as ``observe``."""
    settings, skipped = encoder.settings, encoder.settings.prefix_tokens
    is_image = settings.kind == "image"
    chosen = spread_heads(settings.num_heads) if heads is None else heads
    layer = encoder.blocks[-1].get_submodule("attention")
    assert isinstance(layer, Attention)
    with (
        LayerSimilarity(encoder.blocks, frames if is_image else encoder.grid[0], skipped, is_image) as similarity,
        AttentionOf(
            layer.qkv, settings.num_heads, chosen, skipped, lambda packed: layer.unpack(packed, encoder.turns())
        ) as attention,
    ):
        yield similarity, attention


@torch.no_grad()
def observe_encoder(
    encoder: VisionTransformer, clip: Tensor, normalised: Tensor, heads: list[int] | None = None, frames: int = 1
) -> Observed:
    """Run an encoder and return features of all tokens, attention, and similarity across frames.

    Args:
        encoder: encoder in ``eval()``.
        clip: pixels to show, uint8 (B, C, T, H, W).
        normalised: the same clip as the encoder takes it.
        heads: heads as in ``observe``.
        frames: frames as in ``observe``.
    """
    with watch_layers(encoder, heads, frames) as (similarity, attention):
        features = encoder(normalised)[:, int(encoder.settings.cls_token) :]
    return Observed(
        clip=clip,
        grid=encoder.grid,
        features=features,
        attention=attention.received,
        similarity={"encoder": similarity.layers},
    )


def _add_teachers(seen: Observed, targets: TeacherTargets, inputs: ClipBatch) -> None:
    """Add the features of all teachers, the loss of every predicted token against them, and their similarity of frames."""
    found = {}
    for name, teacher in targets.teachers.items():
        network = getattr(teacher, "module", teacher)
        if isinstance(network, Teacher) and isinstance(network.encoder, VisionTransformer):
            with _teacher_similarity(network.encoder, network.settings, seen.grid[0]) as similarity:
                sources = targets.sources(name, inputs)
            found[name] = similarity.layers
        else:
            sources = targets.sources(name, inputs)
        for output, features in sources.items():
            target = targets.terms.get(output)
            if target is not None and target.head.tokens in _SHOWN and target.is_pointwise:
                _add_features(seen, output, features, target, inputs)
    seen.similarity = found | seen.similarity


def _add_features(seen: Observed, name: str, features: Tensor, target: Target, inputs: ClipBatch) -> None:
    """Add what a teacher gives of every token (B, N, D) for one target, and the loss of every predicted token against it."""
    seen.norms[name] = features.float().norm(dim=-1)
    seen.targets[name] = target(features)
    seen.losses[name] = per_token(target.loss, seen.predictions[name], gather_masked(seen.targets[name], inputs.masked))


def _teacher_similarity(encoder: VisionTransformer, settings: TeacherSettings, slots: int) -> LayerSimilarity:
    is_image = settings.kind == "image"
    grid = slots if is_image else encoder.grid[0]
    return LayerSimilarity(encoder.blocks, grid, settings.prefix_tokens, frame_by_frame=is_image)


def _add_pixels(seen: Observed, recipe: TrainingRecipe, predicted: Tensor, targets: Any, inputs: ClipBatch) -> None:
    """Add the reconstruction: predicted patches by their own mean and deviation, visible patches as they are."""
    assert recipe.pixels is not None and seen.masked is not None
    seen.reconstruction = reconstruct(recipe, recipe.pixels, seen.clip, seen.masked, predicted)
    if targets is not None:
        aim = targets(inputs)["pixels"]
        seen.losses["pixels"] = per_token(recipe.pixels.loss, predicted, aim)


def reconstruct(recipe: TrainingRecipe, pixels: PixelSettings, clip: Tensor, masked: Tensor, predicted: Tensor) -> Tensor:
    """Return ``clip``, uint8 (B, C, T, H, W), with its patches ``masked`` (B, M) as ``predicted`` (B, M, P)."""
    tubelet, patch = recipe.model.tubelet_frames, recipe.model.patch_px
    unit = to_unit(clip)
    standard = normalise(unit, torch.float32) if pixels.normalise == "joint" else unit
    own = patchify(standard, tubelet, patch)
    where = masked[:, :, None].expand(-1, -1, own.shape[-1])
    undone = predicted_pixels(torch.zeros_like(own).scatter(1, where, predicted.float()), standard, tubelet, patch, pixels)
    patches = own.scatter(1, where, undone.gather(1, where))
    result = unpatchify(patches, recipe.grid, tubelet, patch)
    if pixels.normalise == "joint":
        mean, std = (unit.new_tensor(values).view(1, 3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        result = result * std + mean
    return (result.clamp(0, 1) * 255).round().to(torch.uint8)
