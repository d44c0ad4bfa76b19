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
from torch import Tensor, nn

from mvd_ds.config import ClipView, TrainingRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.teachers import Teacher
from mvd_ds.objectives.losses import mixed_loss
from mvd_ds.tools.bench.clock import Clock, held_by
from mvd_ds.tools.bench.reference_networks import ReferenceNetworks, Style, relation_loss
from mvd_ds.training.optim import parameter_groups
from mvd_ds.training.step import normalise, to_unit

_LOSS_SCALE = 2.0**12
"""Scale of fp16 losses, low enough that no step of a measurement overflows and is skipped."""


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
        self.networks = ReferenceNetworks(style)
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
            targets: dict[str, Tensor] = {}
            for name, teacher in self.teachers.items():
                targets |= self.networks.targets(teacher, teachers[self.recipe.view_of(teacher.settings)], masked)
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
        levels = self.networks.levels(self.student.encoder, clip, visible)
        levels[-1] = self.student.encoder.norm(levels[-1])
        terms = []
        for name, decoder in self.student.decoders.items():
            output = self.recipe.outputs[name]
            assert output.teacher is not None and output.target is not None
            settings, target = self.recipe.teachers[output.teacher], output.target
            predicted = self.networks.predictions(decoder, levels, visible, masked)
            if target.kind == "relations":
                loss = relation_loss(predicted, targets[name], settings.num_heads, target.relations)
            else:
                loss = mixed_loss(target.loss or settings.loss, predicted, targets[name])
            terms.append((settings.weight if target.weight is None else target.weight) * loss)
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
