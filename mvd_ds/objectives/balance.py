"""The balance between the losses of several targets in one total, and the dropping of teachers sample by sample.

===================  =====================================================================================
``balance``          a loss counts in the total as
===================  =====================================================================================
``fixed``            weight * loss
``loss_relative``    weight * loss / (loss of always predicting the mean target)
``uncertainty``      weight * (exp(-s) * loss + s) / 2, where s, a log variance, is learned
===================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.moving_statistics import Statistics, exact_sums
from mvd_ds.objectives.targets import Target
from mvd_ds.objectives.terms import Judge

#: Share of a step's mean target and its loss in the moving ones, of about the last hundred steps.
MOMENTUM = 0.01
#: Floor of the loss of the mean target, where targets are constant.
FLOOR = 1e-12
#: Share of a token's length below which the mean of the calibration counts as 0.
NOISE = 1e-4


class Balanced(NamedTuple):
    """The total of a micro batch, and what was measured on the way."""

    total: Tensor
    """Scalar fp32 with the graph of all losses behind it."""
    measurements: dict[str, Tensor]
    """Scalars by metric name, on the device."""


class Balance(nn.Module):
    """Fixed weights. Source: MVD, w_image * loss + w_video * loss.

    Args:
        terms: what compares predictions with targets, by name.
        teachers: teacher of each target by the target's name; a target without one is never dropped.
        drop: probability with which a teacher does not count for a sample, unless it is the worst matched.
        widths: channels of each target by name, where their means are estimated.
    """

    learns: ClassVar[bool] = False
    """True where the student has a log variance for each target."""
    member: Tensor
    shares: Tensor

    def __init__(
        self, terms: Mapping[str, Judge], teachers: Mapping[str, str], drop: float = 0.0, widths: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self.names = tuple(terms)
        self.weights = {name: terms[name].weight for name in terms}
        self.drop = drop
        self.taught = [name for name in terms if name in teachers]
        self.teachers = list(dict.fromkeys(teachers[name] for name in self.taught))
        member = [[teachers[name] == teacher for teacher in self.teachers] for name in self.taught]
        self.register_buffer("member", torch.tensor(member, dtype=torch.float32), persistent=False)
        shares = torch.tensor([self.weights[name] for name in self.taught])
        self.register_buffer("shares", shares, persistent=False)

    @property
    def by_sample(self) -> bool:
        """True where ``forward`` wants the loss of every sample, not their mean."""
        return self.drop > 0

    def statistics(self) -> dict[str, Statistics]:
        """Return what is estimated of each target, by the target's name."""
        return {}

    def observe(self, targets: Mapping[str, Tensor], places: Any = None) -> None:
        """Collect the statistics of a micro batch from its targets by name."""

    def scaled(self, name: str, loss: Tensor, log_variances: Tensor | None) -> Tensor:
        """Return the loss of a target in the scale in which it is weighed against others."""
        return loss

    def forward(self, losses: dict[str, Tensor], log_variances: Tensor | None = None, uniforms: Tensor | None = None) -> Balanced:
        """Return the total. A weight of 0 and a dropped teacher stay in the graph: under ZeRO-3 every decoder must take part
        in every backward pass.

        Args:
            losses: scalars by name, or (B*K,) where it works ``by_sample``.
            log_variances: one for each target in the order of the terms, where the student learns them.
            uniforms: (B*K, number of teachers) in [0, 1), where teachers are dropped.
        """
        scaled = {name: self.scaled(name, losses[name], log_variances) for name in self.names}
        if not self.by_sample:
            return Balanced(torch.stack([self.weights[name] * loss for name, loss in scaled.items()]).sum(), {})
        assert uniforms is not None
        rows = torch.stack([scaled[name] for name in self.taught])
        counted = surviving_weights(rows.detach(), self.shares, self.member, uniforms, self.drop)
        parts = [(counted * rows).mean(dim=1).sum()]
        parts += [self.weights[name] * loss.mean() for name, loss in scaled.items() if name not in self.taught]
        kept = (counted > 0).float().mean(dim=1)
        return Balanced(torch.stack(parts).sum(), {f"balance/kept_{name}": kept[i] for i, name in enumerate(self.taught)})


class RelativeBalance(Balance):
    """Every loss over that of the mean target, so that 1 is a student that knows nothing, whatever the teacher's scale.

    The loss of the mean target is a moving estimate, the same on all ranks, that the calibration begins.
    """

    def __init__(
        self, terms: Mapping[str, Judge], teachers: Mapping[str, str], drop: float = 0.0, widths: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(terms, teachers, drop)
        made = {f"of_{name}": MeanTarget(terms[name], (widths or {})[name]) for name in self.taught}
        self.parts = nn.ModuleDict(made)

    def statistics(self) -> dict[str, Statistics]:
        return {name: self._of(name) for name in self.taught}

    def observe(self, targets: Mapping[str, Tensor], places: Any = None) -> None:
        for name in self.taught:
            self._of(name).observe(targets[name], places)

    def scaled(self, name: str, loss: Tensor, log_variances: Tensor | None) -> Tensor:
        return loss if name not in self.taught else loss / self._of(name).loss.clamp_min(FLOOR)

    def _of(self, name: str) -> MeanTarget:
        part = self.parts[f"of_{name}"]
        assert isinstance(part, MeanTarget)
        return part


class UncertaintyBalance(Balance):
    """Losses weighed by learned variances. Source: Kendall, Gal, Cipolla, CVPR 2018, the form for regression."""

    learns: ClassVar[bool] = True

    def scaled(self, name: str, loss: Tensor, log_variances: Tensor | None) -> Tensor:
        assert log_variances is not None
        value = log_variances[self.names.index(name)].float()
        return 0.5 * (torch.exp(-value) * loss + value)


BALANCES: dict[str, type[Balance]] = {"fixed": Balance, "loss_relative": RelativeBalance, "uncertainty": UncertaintyBalance}
"""Every value of the setting ``balance``."""


def build_balance(recipe: TrainingRecipe, terms: Mapping[str, Target]) -> Balance:
    """Return the balance that a recipe asks for between its targets."""
    teachers = {name: output.teacher for name, output in recipe.outputs.items() if output.teacher is not None}
    widths = {name: term.head.width for name, term in terms.items()}
    return BALANCES[recipe.balance](terms, teachers, recipe.drop_teachers, widths)


class MeanTarget(Statistics):
    """The moving mean of a target, and the moving loss of always predicting it.

    Args:
        term: what compares predictions with the target.
        width: D, channels of the target.
    """

    rounds: ClassVar[tuple[int, ...]] = (1, 2)
    moves: ClassVar[bool] = True
    mean: Tensor
    loss: Tensor

    def __init__(self, term: Judge, width: int) -> None:
        super().__init__(size=width + 3)
        self.term = term
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("loss", torch.ones(()))

    @torch.no_grad()
    def observe(self, target: Tensor, places: Any = None) -> None:
        """Collect tokens, their sum, samples and the sum of their losses from the targets (B*K, ..., D) of a micro batch."""
        count, total = self.sums[:1], self.sums[1:-2]
        if self.round == 1:
            exact = exact_sums(target)
            count += exact[0]
            total += exact[1 : len(total) + 1]
            self.sums[-1] += exact[len(total) + 1 :].sum()
            return
        tokens = target.flatten(0, -2)
        count += len(tokens)
        total += tokens.float().mean(dim=0).double() * len(tokens)
        trivial = self.term.compare(self.mean.expand_as(target), target, places)
        self.sums[-2] += len(target)
        self.sums[-1] += trivial.double() * len(target)

    def settle(self, sums: Tensor) -> None:
        """Take the mean target in round 1, and its loss in round 2."""
        if self.round == 1:
            mean = sums[1:-2] / sums[0]
            # The mean of standardised targets is rounding noise, and a cosine would compare with the direction of that noise.
            is_noise = mean.square().sum() < NOISE**2 * sums[-1] / sums[0]
            self.mean.copy_(torch.where(is_noise, 0.0, mean))
        else:
            self.loss.copy_(sums[-1] / sums[-2])

    def move(self, sums: Tensor, progress: float) -> None:
        """Move both towards those of the step."""
        self.mean.copy_(self.mean.double().lerp(sums[1:-2] / sums[0], MOMENTUM))
        self.loss.copy_(self.loss.double().lerp(sums[-1] / sums[-2], MOMENTUM))

    def summary(self) -> dict[str, Tensor]:
        """Return the loss of the mean target."""
        return {"mean_target_loss": self.loss}


def surviving_weights(losses: Tensor, weights: Tensor, member: Tensor, uniforms: Tensor, drop: float) -> Tensor:
    """Return the factor of every loss in a sample's total after some teachers were dropped from it.

    The teacher with the largest loss always counts, each other one unless its uniform is below ``drop``. The weights of those
    that count are scaled to the sum of all weights. Source: UNIC (ECCV 2024). Differs: the sum stays that of all weights, so
    that dropping does not change the size of steps, where UNIC's is 1 over the batch.

    Args:
        losses: (T, R), loss of each of T targets for each of R samples.
        weights: (T,), their factors without dropping.
        member: (T, G), 1 where a target is of a teacher; all targets of a teacher go together, weighed by their factors.
        uniforms: (R, G) in [0, 1).
        drop: probability in [0, 1).

    Returns:
        (T, R), without a gradient.
    """
    shares = member.T @ weights
    mean = (member.T @ (weights[:, None] * losses)) / shares[:, None]
    # A teacher of weight 0 has 0 / 0 here, and is nobody's worst.
    mean = torch.where(shares[:, None] > 0, mean, -torch.inf)
    worst = functional.one_hot(mean.argmax(dim=0), len(shares)).T > 0
    counts = ((drop <= uniforms.T) | worst).float()
    scale = shares.sum() / (counts * shares[:, None]).sum(dim=0)
    return (member @ counts) * weights[:, None] * scale
