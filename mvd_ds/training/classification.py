"""The objective of fine-tuning: the label of a clip, and where there is a teacher, its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mvd_ds.config import FinetuneRecipe
from mvd_ds.objectives.classification import logit_distillation, mix_clips
from mvd_ds.objectives.label_losses import LABEL_LOSSES
from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.device_batch import LabelledBatch, to_device
from mvd_ds.training.protocols import Inspect
from mvd_ds.training.step import normalise, to_unit


class Classification:
    """The forward pass and the losses of fine-tuning on one micro batch.

    Args:
        network: a Classifier, or the engine around one.
        teacher: a frozen Classifier of the same classes, or the engine around it; it sees the same mixed clips.
        classes: number of classes, or of other outputs.
    """

    def __init__(
        self, recipe: FinetuneRecipe, network: Any, teacher: Callable[[Tensor], Tensor] | None, classes: int, device: torch.device
    ) -> None:
        self.network, self.teacher, self.device = network, teacher, device
        self.settings, self.on_labels = recipe.teacher, LABEL_LOSSES[recipe.task](recipe, classes)
        self.size_px = recipe.data.clip.size_px
        self.mixes = recipe.augmentation.mix is not None
        self.inspect: Inspect | None = None
        self.statistics: dict[str, Statistics] = {}
        own = self.on_labels.name
        self.names: tuple[str, ...] = (own,) if teacher is None else (own, "teacher")

    def observe(self, batch: LabelledBatch) -> None:
        """Collect nothing: labels need no statistics of steps."""

    def prepare(self, batches: Iterable[LabelledBatch]) -> Iterable[LabelledBatch]:
        """Return the micro batches of a step: no loss is over more than one of them."""
        return batches

    def __call__(self, batch: LabelledBatch, measure: bool) -> LossTerms:
        """Return the losses of one micro batch; ``measure`` asks for nothing more here."""
        inputs = to_device(batch, self.device)
        shown = self._shown(inputs)
        logits, losses, total = self._of_labels(shown, inputs)
        if self.teacher is not None and self.settings is not None:
            with torch.no_grad():
                wanted = self.teacher(shown)
            if self.inspect is not None:
                self.inspect("targets of teacher", wanted)
            losses["teacher"] = logit_distillation(logits, wanted, self.settings.temperature)
            total = (1 - self.settings.weight) * total + self.settings.weight * losses["teacher"]
        return LossTerms(total, {name: loss.detach() for name, loss in losses.items()})

    def _shown(self, inputs: LabelledBatch) -> Tensor:
        """Return the clips of a micro batch on the device as the network takes them: mixed, normalised, in its dtype."""
        shown = normalise(to_unit(inputs.views[self.size_px]), torch.float32)
        if self.mixes:
            shown = mix_clips(shown, inputs.partner, inputs.own_share, inputs.box)
        return shown.to(next(getattr(self.network, "module", self.network).parameters()).dtype)

    def _of_labels(self, shown: Tensor, inputs: LabelledBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return outputs (B, K), the losses by name, and what of them is minimised."""
        logits = self.network(shown, inputs.drop_path, inputs.dropout)
        loss = self.on_labels.loss(logits, inputs.label, inputs.partner, inputs.own_share)
        return logits, {self.on_labels.name: loss}, loss
