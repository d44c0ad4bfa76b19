"""The base class of all kinds of targets."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvd_ds.config import HeadShape, LossMixture, TargetSettings, TeacherSettings, Tokens, TrainingRecipe, loss_parts
from mvd_ds.config.targets import Output
from mvd_ds.files import ConfigError, did_you_mean
from mvd_ds.objectives.diagnostics import feature_variance, mean_target_loss
from mvd_ds.objectives.losses import LOSSES, mixed_loss, per_sample
from mvd_ds.objectives.moving_statistics import Statistics


class Places(NamedTuple):
    """The places of the tokens of a micro batch on the token grid."""

    visible: Tensor
    """int64 (B, K, V)."""
    masked: Tensor
    """int64 (B, K, M), those that are predicted."""
    step: Tensor | None = None
    """int64 scalar, number of the training step; None: beyond any ramp."""

    def of(self, tokens: Tokens) -> Tensor:
        """Return the places (B, K, P) of the tokens that a ``HeadShape`` names."""
        return {"masked": self.masked, "visible": self.visible}.get(tokens, torch.cat((self.masked, self.visible), dim=2))


class Taught(NamedTuple):
    """A target that a teacher gives, as a recipe states it."""

    output: Output
    teacher: TeacherSettings
    target: TargetSettings
    weight: float
    """Factor of its loss in the total: its own, or its teacher's."""


def taught(recipe: TrainingRecipe, name: str) -> Taught:
    """Return what a recipe states of the target ``name``, which a teacher gives."""
    output = recipe.outputs[name]
    assert output.teacher is not None and output.target is not None
    teacher, target = recipe.teachers[output.teacher], output.target
    return Taught(output, teacher, target, teacher.weight if target.weight is None else target.weight)


class Target(nn.Module):
    """A target that one head of a student learns to predict, and the way in which the prediction is judged.

    A kind of target is a subclass in a file of this folder and a row of ``TARGETS``. What it estimates from its sources while a
    run goes on is in its ``statistics``, which checkpoints and model folders carry.

    Args:
        name: name of the target, for messages.
        head: what it asks of the student.
        loss: name of the loss between prediction and target, or weights of several by name.
        weight: factor of that loss in the total.

    Raises:
        ConfigError: if the loss does not fit this kind of target.
    """

    losses: ClassVar[tuple[str, ...]] = tuple(LOSSES)
    """Names of the losses that fit this kind."""

    is_tokenwise: bool = True
    """True if the target of a token depends on that token alone, so that a teacher may compute no others."""

    is_pointwise: ClassVar[bool] = True
    """True if the loss is a mean over tokens of a loss in ``LOSSES``, so that each token has one of its own."""

    standardise: Literal["none", "token", "clip", "running", "phi_s"] = "none"
    """Standardisation of what is predicted, a value of ``target.standardise``."""

    def __init__(self, name: str, head: HeadShape, loss: LossMixture, weight: float = 1.0) -> None:
        super().__init__()
        for part in loss_parts(loss):
            if part not in self.losses:
                hint = did_you_mean(part, self.losses, f"losses that fit are {', '.join(self.losses)}")
                raise ConfigError(f"target {name}: loss '{part}' does not fit {type(self).__name__}; {hint}")
        self.name, self.head, self.loss, self.weight = name, head, loss, weight

    def forward(self, source: Tensor) -> Tensor:
        """Return the targets that are made from ``source``.

        Args:
            source: features of a teacher (..., D), or the clip (B, C, T, H, W) for targets that need no teacher.

        Returns:
            (..., D) for features, (B, N, D) for a clip.
        """
        return source

    def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss, a scalar in fp32, between a prediction (B*K, P, D) and its target; ``places`` says where they are."""
        return mixed_loss(self.loss, prediction, target)

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,); arguments and mean are those of ``compare``."""
        return per_sample(self.loss, prediction, target)

    def held_bytes(self, samples: int, tokens: int) -> int:
        """Return the bytes that comparing ``samples`` of ``tokens`` tokens holds beside predictions, targets and their errors."""
        return 0

    def undo(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return how standardised targets come back: every part y of them as shift + (y * factor) @ rotation.

        Returns:
            (factor, shift, rotation) of shapes (parts, D), (parts, D) and (parts, D, D) or None; None where nothing was
            standardised, or nothing can be undone.
        """
        return None

    def trivial_loss(self, target: Tensor) -> Tensor:
        """Return the loss of a prediction that knows nothing of the clip: here of the mean target everywhere."""
        return mean_target_loss(target, self.loss)

    def measure(self, prediction: Tensor, target: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """Return scalars that tell how far from trivial predictions are, by metric name; none where none is known.

        Args:
            prediction, target: as ``compare`` takes them.
            loss: what ``compare`` gave.
        """
        return {
            f"loss_relative/{self.name}": loss / self.trivial_loss(target).clamp_min(1e-12),
            f"target/variance_{self.name}": feature_variance(target),
            f"prediction/variance_{self.name}": feature_variance(prediction.detach()),
        }

    def observe(self, source: Tensor, target: Tensor) -> None:
        """Collect the statistics of a micro batch: its ``source``, and the targets that ``forward`` made of it."""

    def statistics(self) -> dict[str, Statistics]:
        """Return what ``observe`` collects into, by short name."""
        return {}

    def flops(self, tokens: int) -> int:
        """Return the operations of matrix products that it takes to make the targets of a sample of ``tokens`` tokens and to
        compare them with predictions, forward and backward; the head's are not among them."""
        return 0
