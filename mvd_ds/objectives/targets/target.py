"""The base class of all kinds of targets."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mvd_ds.config import LossMixture, loss_parts
from mvd_ds.files import ConfigError, did_you_mean
from mvd_ds.objectives.losses import LOSSES, mixed_loss, per_sample


class Target(nn.Module):
    """A target that one head of a student learns to predict, and the way in which the prediction is judged.

    A kind of target is a subclass in a file of this folder and a row of ``TARGETS``. State that checkpoints have to carry
    (running statistics, a codebook) belongs in its buffers; the kinds of today have none.

    Args:
        name: name of the target, for messages.
        width: D, width of the student's head.
        loss: name of the loss between prediction and target, or weights of several by name.
        weight: factor of that loss in the total.

    Raises:
        ConfigError: if the loss does not fit this kind of target.
    """

    losses: ClassVar[tuple[str, ...]] = tuple(LOSSES)
    """Names of the losses that fit this kind."""

    def __init__(self, name: str, width: int, loss: LossMixture, weight: float = 1.0) -> None:
        super().__init__()
        for part in loss_parts(loss):
            if part not in self.losses:
                hint = did_you_mean(part, self.losses, f"losses that fit are {', '.join(self.losses)}")
                raise ConfigError(f"target {name}: loss '{part}' does not fit {type(self).__name__}; {hint}")
        self.width, self.loss, self.weight = width, loss, weight

    def forward(self, source: Tensor) -> Tensor:
        """Return the targets that are made from ``source``.

        Args:
            source: features of a teacher (..., D), or the clip (B, C, T, H, W) for targets that need no teacher.

        Returns:
            (..., D) for features, (B, N, D) for a clip.
        """
        return source

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar in fp32, between a prediction (B*K, M, D) and its target."""
        return mixed_loss(self.loss, prediction, target)

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,), between a prediction (B*K, M, D) and its target; their mean is
        ``compare``'s."""
        return per_sample(self.loss, prediction, target)

    def flops(self, tokens: int) -> int:
        """Return the operations of matrix products that it takes to make the targets of ``tokens`` tokens; the head's are not
        among them."""
        return 0
