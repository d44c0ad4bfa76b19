"""The yardsticks of ``bench step``: a distillation step as it is usually written, and as a careful user of torch would write it.

Written from the method's published facts. They take parameters, norms, MLPs and losses of the product's modules, so that
weights are the same, and do everything else in their own way: what becomes faster there does not become faster here.

| variant | patch embedding      | attention              | masks                | host waits for the device |
|---------|----------------------|------------------------|----------------------|---------------------------|
| P0      | Conv3d, all patches  | N x N weights in memory | bool, after embedding | after every step         |
| P1      | linear, all patches  | N x N weights in memory | bool, after embedding | after every step         |
| P2      | linear, all patches  | torch's fused one       | integer gathers       | never                    |

All three: fp32 weights under autocast (fp16 with a loss scale on GPUs), two fp32 copies of every clip to the device, AdamW in
its foreach form, no activation checkpointing; a clip under K masks is K clips; several processes under DistributedDataParallel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mvd_ds.config import ClipView, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.models.attention import Attention
from mvd_ds.models.cross_attention import CrossBlock
from mvd_ds.models.embed import PatchEmbed
from mvd_ds.models.layers import Block
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.readouts import CrossDecoder, Decoder
from mvd_ds.models.resampling import resize_grid
from mvd_ds.models.teachers import Teacher
from mvd_ds.models.vit import VisionTransformer
from mvd_ds.objectives.losses import mixed_loss
from mvd_ds.objectives.targets.pixels import STABILISER
from mvd_ds.tools.bench.clock import Clock, held_by
from mvd_ds.training.optim import parameter_groups
from mvd_ds.training.step import normalise, to_unit

_LOSS_SCALE = 2.0**12
"""Scale of fp16 losses, low enough that no step of a measurement overflows and is skipped."""


class Style(NamedTuple):
    """The properties that the yardsticks differ in."""

    convolution: bool
    fused_attention: bool
    waits: bool
    """Bool masks, whose number of True the host asks for, and ``.item()`` of every loss."""


STYLES = {"P0": Style(True, False, True), "P1": Style(False, False, True), "P2": Style(False, True, False)}


class Inputs(NamedTuple):
    """A batch of the usual loader, in host memory."""

    student: Tensor
    """fp32 (B, C, T, H, W), normalised."""
    teachers: dict[ClipView, Tensor]
    """The same clips again, by side in pixels."""
    mask: Tensor
    """bool (B, N), True = masked."""
    visible: Tensor
    """int64 (B, V)."""
    masked: Tensor
    """int64 (B, M)."""


def inputs_of(batch: ClipBatch, size_px: int) -> Inputs:
    """Return the same clips and masks, with every pair of clip and mask as a clip of its own."""
    masks = batch.visible.shape[1]
    visible, masked = batch.visible.flatten(0, 1), batch.masked.flatten(0, 1)
    mask = torch.zeros(len(visible), visible.shape[1] + masked.shape[1], dtype=torch.bool)
    views = {size: normalise(to_unit(view.repeat_interleave(masks, dim=0)), torch.float32) for size, view in batch.views.items()}
    return Inputs(views[size_px].clone(), views, mask.scatter_(1, masked, True), visible, masked)


class ReferenceStep:
    """The step of one yardstick.

    Args:
        style: the yardstick.
        recipe: recipe of the step.
        student: fp32 network, which yardsticks may share.
        teachers: fp32 networks by name.
        optimizer: optimizer of ``student``, from ``reference_optimizer``.
        device: device of all networks.
        lent: module from ``wrap_ddp`` that computes with the student, so that gradients are averaged over processes.
    """

    def __init__(
        self,
        style: Style,
        recipe: TrainingRecipe,
        student: MaskedPredictor,
        teachers: dict[str, Teacher],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        lent: Callable[[Callable[[], list[Tensor]]], list[Tensor]],
    ) -> None:
        self.style, self.recipe, self.device, self.lent = style, recipe, device, lent
        self.student, self.teachers, self.optimizer = student, teachers, optimizer
        half = torch.float16 if device.type == "cuda" else torch.bfloat16
        is_half = recipe.engine.precision != "fp32"
        self.autocast = torch.autocast(device.type, half, enabled=is_half)
        self.scaler = torch.amp.GradScaler(device.type, _LOSS_SCALE, enabled=is_half and half == torch.float16)

    def loss(self, batch: Inputs, clock: Clock) -> Tensor:
        """Return the weighted loss of a batch."""
        waits = self.style.waits
        teachers = {size: self._move(view) for size, view in batch.teachers.items()}
        clip, mask = self._move(batch.student), self._move(batch.mask)
        visible, masked = (~mask, mask) if waits else (self._move(batch.visible), self._move(batch.masked))
        clock.mark("inputs")
        with self.autocast:
            targets = {}
            for name, teacher in self.teachers.items():
                view = teachers[self.recipe.view_of(teacher.settings)]
                targets[name] = self._target(teacher, view, masked)
                clock.mark(f"teacher {name}")
            terms = self.lent(lambda: self._terms(clip, visible, masked, targets))
            total = torch.stack(terms).sum()
        if waits:
            for term in [*terms, total]:
                term.item()
        clock.mark("student")
        return total

    def _terms(self, clip: Tensor, visible: Tensor, masked: Tensor, targets: dict[str, Tensor]) -> list[Tensor]:
        """Return the student's weighted losses against all targets."""
        levels = self._levels(self.student.encoder, clip, visible)
        encoded = self.student.encoder.norm(levels[-1])
        terms = []
        for name, decoder in self.student.decoders.items():
            settings = self.recipe.teachers[name]
            if isinstance(decoder, CrossDecoder):
                predicted = self._decode_by_cross(decoder, [*levels[:-1], encoded], masked)
            else:
                assert isinstance(decoder, Decoder)
                predicted = self._decode(decoder, encoded, visible, masked)
            terms.append(settings.weight * mixed_loss(settings.loss, predicted, targets[name]))
        return terms

    def backward(self, loss: Tensor) -> None:
        """Compute scaled gradients, averaged over the processes meanwhile."""
        self.scaler.scale(loss).backward()

    def first_update(self) -> float:
        """Run ``update``, and return the L2 norm of all unscaled gradients before it."""
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients)) / self.scaler.get_scale()
        self.update()
        return norm

    def held_bytes(self) -> int:
        """Return the bytes that are held before a step: weights, optimizer states and teachers."""
        return held_by(self.student, self.optimizer, self.teachers)

    def update(self) -> None:
        """Run the optimizer's step and drop the gradients."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.style.waits and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _levels(self, encoder: VisionTransformer, clip: Tensor, visible: Tensor) -> list[Tensor]:
        """Return the visible tokens (B, V, D) before the first block and after every one."""
        tokens = self._embed(encoder.patch_embed, clip)
        levels = [_pick(tokens + encoder.position.table.to(tokens.dtype), visible)]
        for block in encoder.blocks:
            levels.append(self._through((block,), levels[-1]))
        return levels

    def _decode(self, decoder: Decoder, encoded: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Return the predictions (B, M, width of the target)."""
        projected = decoder.projection(encoded)
        table = decoder.position.table.expand(len(projected), -1, -1)
        hidden = decoder.mask_token.weight + _pick(table, masked)
        tokens = torch.cat((projected + _pick(table, visible).to(projected.dtype), hidden), dim=1)
        tokens = self._through(decoder.blocks, tokens)
        return decoder.head(decoder.norm(tokens[:, -hidden.shape[1] :]))

    def _decode_by_cross(self, decoder: CrossDecoder, levels: list[Tensor], masked: Tensor) -> Tensor:
        """Return the predictions (B, M, width of the target) of mask tokens that look at ``levels``; the last is normed."""
        table = decoder.position.table.expand(len(levels[0]), -1, -1)
        tokens = (decoder.mask_token.weight + _pick(table, masked)).to(levels[0].dtype)
        for number, block in enumerate(decoder.blocks):
            assert isinstance(block, CrossBlock)
            source = levels[-1]
            if decoder.mixture is not None:
                shares = decoder.mixture.weight[number]
                chosen = levels[len(levels) - len(shares) :]
                mixed = torch.stack([share * level for share, level in zip(shares, chosen, strict=True)]).sum(dim=0)
                source = decoder.level_norms[number](mixed)
            attention = block.attention
            query = rearrange(attention.query(block.norm_attention(tokens)), "b m (h d) -> b h m d", h=attention.heads)
            packed = rearrange(attention.key_value(source), "b v (two h d) -> two b h v d", two=2, h=attention.heads)
            tokens = tokens + attention.projection(rearrange(self._mix(query, *packed), "b h m d -> b m (h d)"))
            tokens = tokens + block.mlp(block.norm_mlp(tokens))
        return decoder.head(decoder.norm(tokens))

    @torch.no_grad()
    def _target(self, teacher: Teacher, clip: Tensor, masked: Tensor) -> Tensor:
        """Return the features (B, M, D) of masked tokens; blocks that nobody reads are not run."""
        encoder, settings, slots = teacher.encoder, teacher.settings, 1
        assert isinstance(encoder, VisionTransformer)
        if settings.kind == "image":
            frames = clip[:, :, settings.frame_in_tubelet :: teacher.student_tubelet_frames]
            slots = frames.shape[2]
            clip = rearrange(frames, "b c s h w -> (b s) c 1 h w")
        tokens = self._embed(encoder.patch_embed, clip)
        if settings.kind == "image":
            tokens = tokens.float()  # positions are fp32 there, and so is the residual stream behind them
        cls = None if encoder.cls_token is None else encoder.cls_token(len(tokens), 1)
        tokens, outputs = encoder.position(tokens, None, cls), []
        for number, block in enumerate(encoder.blocks):
            tokens = self._through((block,), tokens)
            if number in teacher.read_blocks:
                outputs.append(encoder.norm(tokens)[:, int(settings.cls_token) :])
        features = outputs[0] if len(outputs) == 1 else torch.stack(outputs).float().mean(dim=0)
        features = rearrange(features, "(b s) n d -> b (s n) d", s=slots)
        rows, columns = encoder.grid[1:]
        features = resize_grid(features, (features.shape[1] // (rows * columns), rows, columns), teacher.student_grid)
        if settings.target.normalise:
            features = F.layer_norm(features.float(), features.shape[-1:], eps=STABILISER)
        return _pick(features, masked)

    def _embed(self, embed: PatchEmbed, clip: Tensor) -> Tensor:
        """Return the embeddings (B, N, D) of all patches."""
        weight, bias = embed.weight, embed.bias
        if self.style.convolution:
            return F.conv3d(clip, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2)
        frames, rows, columns = weight.shape[2:]
        sides = {"f": frames, "r": rows, "s": columns}
        patches = rearrange(clip, "b c (t f) (h r) (w s) -> b (t h w) (c f r s)", **sides)
        return F.linear(patches, weight.flatten(1), bias)

    def _through(self, blocks: nn.ModuleList | tuple[nn.Module, ...], tokens: Tensor) -> Tensor:
        for block in blocks:
            assert isinstance(block, Block)
            tokens = tokens + self._attend(block.attention, block.norm_attention(tokens))
            tokens = tokens + block.mlp(block.norm_mlp(tokens))
        return tokens

    def _attend(self, attention: Attention, tokens: Tensor) -> Tensor:
        packed = rearrange(attention.qkv(tokens), "b n (three h d) -> three b h n d", three=3, h=attention.heads)
        return attention.projection(rearrange(self._mix(*packed), "b h n d -> b n (h d)"))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (B, heads, n, d) of queries (B, heads, n, d), keys and values (B, heads, N, d)."""
        if self.style.fused_attention:
            return F.scaled_dot_product_attention(query, key, value)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1).to(value.dtype) @ value


class _Lent(nn.Module):
    """A module that runs any computation with its student, so that DistributedDataParallel sees it."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        return compute()


def wrap_ddp(student: nn.Module, world: int) -> Callable[[Callable[[], list[Tensor]]], list[Tensor]]:
    """Return a module that computes with ``student``; with several processes, under torch's DistributedDataParallel."""
    lent = _Lent(student)
    return lent if world == 1 else nn.parallel.DistributedDataParallel(lent)


def reference_optimizer(student: MaskedPredictor, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Return AdamW in its foreach form, with learning rate 0: every step starts from equal weights."""
    settings = recipe.optimizer
    groups = parameter_groups(student, settings)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, foreach=True)


def _pick(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen tokens (B, M, D) of (B, N, D), chosen by a bool (B, N) or an int64 (B, M)."""
    if chosen.dtype == torch.bool:
        return tokens[chosen].reshape(len(tokens), -1, tokens.shape[-1])
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
