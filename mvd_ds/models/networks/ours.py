"""Encoders of this package as frozen networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, TeacherSettings, TrainingRecipe
from mvd_ds.models.block_flops import block_flops, encoder_flops, mlp_flops, qkv_flops
from mvd_ds.models.blueprint import Blueprint
from mvd_ds.models.initialisation import initialise_module
from mvd_ds.models.layers import run_blocks
from mvd_ds.models.networks.attention_rows import attention_row, attention_row_flops
from mvd_ds.models.networks.family import PlannedNetwork, Reading, reads_of
from mvd_ds.models.readouts.prototypes import PrototypeHead
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.models.weights import plan_encoder


class OwnNetwork:
    """A ``VisionTransformer`` of which some blocks are read.

    Blocks behind the last one that is read are dropped, and so is the final norm where tokens are taken before it.

    Args:
        encoder: the network with its weights; it loses what is not read.
        settings: which blocks, and through the final norm or not.
    """

    input_mean: tuple[float, ...] = IMAGENET_MEAN
    input_std: tuple[float, ...] = IMAGENET_STD

    def __init__(self, encoder: VisionTransformer, settings: TeacherSettings) -> None:
        self.module = encoder
        self.block_count = settings.depth
        self.reads = reads_of(settings, settings.depth)
        self.embed_dim, self.grid = settings.embed_dim, encoder.grid
        self.is_selective = self.reads.is_one_block
        self.prefix, self.has_cls = settings.prefix_tokens, settings.cls_token
        encoder.blocks = encoder.blocks[: self.reads.last + 1]
        if not self.reads.through_norm:
            encoder.norm = nn.Identity()

    def read(self, clip: Tensor, wanted: Tensor | None = None) -> Reading:
        """Run the blocks up to the last one that is read; see ``FrozenNetwork``."""
        encoder = self.module
        tokens, start, turns = encoder.embed(clip), 0, encoder.turns()
        found: dict[int, Tensor] = {}
        summaries: dict[int, Tensor] = {}
        qkv: dict[int, Tensor] = {}
        attention: dict[int, Tensor] = {}
        if wanted is not None:
            # Every frame of an image network has class and register tokens of its own.
            wanted = wanted + self.prefix * (1 + wanted // math.prod(self.grid))
            return Reading({self.reads.last: encoder.norm(run_blocks(encoder.blocks, tokens, None, 0, wanted, turns))})
        for block in sorted({*self.reads.outputs, *self.reads.qkv, *self.reads.attention}):
            if block in self.reads.qkv or block in self.reads.attention:
                tokens, start = run_blocks(encoder.blocks[start:block], tokens, None, 0, turns=turns), block
                projected = encoder.blocks[block](tokens, turns=turns, projected=True)
                if block in self.reads.qkv:
                    qkv[block] = projected[:, self.prefix :]
                if block in self.reads.attention:
                    attention[block] = self._attention(projected)
            if block in self.reads.outputs:
                tokens, start = run_blocks(encoder.blocks[start : block + 1], tokens, None, 0, turns=turns), block + 1
                output = encoder.norm(tokens)
                found |= {block: output[:, self.prefix :]} if block in self.reads.blocks else {}
                summaries |= {block: output[:, 0]} if block in self.reads.summaries else {}
        return Reading(found, summaries, qkv, attention)

    def _attention(self, qkv: Tensor) -> Tensor:
        """Return the attention row (B, N) of a block's queries, keys and values (B, N, 3, heads, d)."""
        query, key, _ = qkv.permute(2, 0, 3, 1, 4)
        return attention_row(query, key, 0 if self.has_cls else None)[:, self.prefix :]


def plan_network(settings: TeacherSettings, frames: int, size_px: int, seed: int, origin: str) -> PlannedNetwork:
    """Return the encoder of a teacher, its weights random or found to fit.

    Args:
        settings: the teacher's settings.
        frames: frames of a clip.
        size_px: side of the frames that it will see.
        seed: seed of random weights.
        origin: names the teacher in messages.

    Raises:
        ConfigError: if its weights are missing, do not fit, or are of another architecture than ``settings``.
    """
    grid = settings.grid(1 if settings.kind == "image" else frames, size_px)
    if settings.is_random or settings.is_ema:  # whose weights come from the student before anything is asked of it
        encoder = Blueprint(
            lambda: VisionTransformer(settings, grid),
            lambda part, module: initialise_module(f"{origin}.{part}", module, seed),
        )
    else:
        encoder = plan_encoder(settings, grid, settings.weights, origin=f"{origin}.weights")

    def adapt(module: nn.Module) -> OwnNetwork:
        assert isinstance(module, VisionTransformer)
        return OwnNetwork(module, settings)

    return PlannedNetwork(encoder, adapt, not isinstance(encoder.structure.norm, nn.Identity))


def outline(settings: TeacherSettings, frames: int, size_px: int) -> tuple[nn.Module, int]:
    """Return the encoder of a teacher without data and without what is not read, and its number of blocks."""
    reads = reads_of(settings, settings.depth)
    depth = reads.last + 1
    grid = settings.grid(1 if settings.kind == "image" else frames, size_px)
    with torch.device("meta"):
        network = VisionTransformer(settings.model_copy(update={"depth": depth}), grid)
    if not reads.through_norm:
        network.norm = nn.Identity()
    heads = [target.prototypes for target in settings.targets.values() if target.kind == "prototypes"]
    with torch.device("meta"):
        for number, head in enumerate(heads):
            network.add_module(f"prototypes_{number}", PrototypeHead(settings.embed_dim, head))
    return network, depth


def forward_flops(recipe: TrainingRecipe, settings: TeacherSettings) -> int:
    """Return the operations of one forward for one clip."""
    slots, rows, columns = recipe.teacher_grid(settings)
    reads = reads_of(settings, settings.depth)
    inputs = slots if settings.kind == "image" else 1
    whole = inputs * encoder_flops(settings, slots * rows * columns // inputs, reads.last + 1)
    tokens, width = slots * rows * columns // inputs + settings.prefix_tokens, settings.embed_dim
    if reads.last not in reads.outputs:  # of which only the projections are computed
        whole -= inputs * block_flops(tokens, width, settings.mlp_ratio, settings.mlp)
    whole += inputs * len({*reads.qkv, *reads.attention}) * qkv_flops(tokens, width)
    whole += inputs * len(reads.attention) * attention_row_flops(tokens, width, settings.cls_token)
    for target in settings.targets.values():
        if target.kind == "prototypes":
            counted = recipe.predicted_tokens if recipe.masks_per_clip == 1 else slots * rows * columns
            whole += (counted + 1) * PrototypeHead.flops(width, target.prototypes)
    other_grid = recipe.teacher_grid(settings) != recipe.grid
    other_tokens = any(target.tokens != "masked" for target in settings.targets.values())
    if other_tokens or recipe.masks_per_clip > 1 or not reads.is_one_block or other_grid:
        return whole
    unread = slots * rows * columns - recipe.predicted_tokens + inputs * settings.prefix_tokens
    return whole - mlp_flops(unread, settings.embed_dim, settings.mlp_ratio, settings.mlp)
