"""Targets that are assignments to prototypes by the student's own average. Source: iBOT (arXiv 2111.07832)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.centres import Centres
from mvd_ds.objectives.moving_statistics import Statistics
from mvd_ds.objectives.targets.target import Places, Target, taught


class PrototypeTarget(Target):
    """The assignments of hidden patches and of class tokens, by cross entropy with those of the student.

    A patch is compared with the teacher's at the same place of the same clip; a class token with those of the other clips of
    its video, or of its own clip where there is but one, and those of local crops with all of them; the mean is over pairs.

    Args:
        recipe: the run.
        name: name of the target.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    is_pointwise: ClassVar[bool] = False

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        output, _, target, weight = taught(recipe, name)
        self.settings = target.prototypes
        super().__init__(name, output.head(self.settings.outputs), "cross_entropy", weight)
        self.clips, self.masks = recipe.data.clips_per_video, recipe.masks_per_clip
        self.centres = Centres(self.settings)

    def forward(self, source: Tensor) -> Tensor:
        """Return assignments fp32 (B, P + 1, outputs) of a teacher's logits: of patches, then of the class token."""
        parts = (self.centres.assign(source[:, :-1], 0), self.centres.assign(source[:, -1:], 1))
        return torch.cat(parts, dim=1)

    def observe(self, source: Tensor, target: Tensor) -> None:
        """Collect for the centres: of hidden patches where a clip has one mask, since the teacher is asked of no others, of all
        where it has several. Source: iBOT, of all; DINOv2, of hidden ones."""
        self.centres.observe(source, target)

    def statistics(self) -> dict[str, Statistics]:
        """Return the centres."""
        return {"centres": self.centres}

    def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the mean of ``rows``, a scalar in fp32."""
        return self.rows(prediction, target, places).mean()

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,).

        Args:
            prediction: (B*K, M + 1 + L, outputs), logits of hidden patches, class token and local crops.
            target: (B*K, M + 1, outputs), assignments of hidden patches and class token.
            places: not needed.
        """
        count = target.shape[1] - 1
        logs = (prediction.float() / self.settings.student_temperature).log_softmax(dim=-1)
        patches = -(target[:, :count] * logs[:, :count]).sum(dim=-1).mean(dim=1)
        return self.settings.patch_weight * patches + self.settings.class_weight * self._classes(logs[:, count:], target[:, -1])

    def _classes(self, logs: Tensor, target: Tensor) -> Tensor:
        """Return the loss of class tokens for every sample, (B*K,), of (B*K, 1 + L, outputs) and assignments (B*K, outputs)."""
        shape = (-1, self.clips, self.masks)
        logs, target = logs.unflatten(0, shape), target.unflatten(0, shape)
        everyone = target.sum(dim=1, keepdim=True)
        others, number = (target, 1) if self.clips == 1 else (everyone - target, self.clips - 1)
        pairs = -(others[..., None, :] * logs[..., :1, :]).sum(dim=(-2, -1))
        pairs = pairs - (everyone[..., None, :] * logs[..., 1:, :]).sum(dim=(-2, -1))
        return (pairs / (number + self.clips * (logs.shape[-2] - 1))).flatten()

    def trivial_loss(self, target: Tensor) -> Tensor:
        """Return the loss of the mean assignment everywhere: the entropy of it, for patches and class tokens."""
        parts = ((target[:, :-1].flatten(0, 1), self.settings.patch_weight), (target[:, -1], self.settings.class_weight))
        return torch.stack([weight * entropy(part.float().mean(dim=0)) for part, weight in parts]).sum()

    def measure(self, prediction: Tensor, target: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """Return the loss over that of the mean assignment, and entropies over that of equal shares.

        ``usage`` is the entropy of the mean assignment, 0 where all goes to one prototype; ``entropy`` that of single
        assignments, 1 where they say nothing. Collapse of either kind is seen, of what has a weight in the loss.
        """
        whole = math.log(self.settings.outputs)
        values = {f"loss_relative/{self.name}": loss / self.trivial_loss(target).clamp_min(1e-12)}
        settings, patches = self.settings, target[:, :-1].flatten(0, 1)
        parts = (("patch", settings.patch_weight, patches), ("class", settings.class_weight, target[:, -1]))
        for part, rows in ((part, rows) for part, weight, rows in parts if weight):
            values[f"prototypes/{self.name}_{part}_usage"] = entropy(rows.mean(dim=0)) / whole
            values[f"prototypes/{self.name}_{part}_entropy"] = entropy(rows).mean() / whole
        return values

    def held_bytes(self, samples: int, tokens: int) -> int:
        """Return the bytes of the logarithms of the student's assignments, and of their product with the targets, in fp32."""
        return 8 * samples * tokens * self.settings.outputs


def entropy(shares: Tensor) -> Tensor:
    """Return the entropy of rows (..., outputs) that each add up to 1."""
    return -torch.special.xlogy(shares, shares).sum(dim=-1)
