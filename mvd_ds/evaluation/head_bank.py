"""Heads of one shape that are trained side by side on the same features, each with a learning rate of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from mvd_ds.config import PromptSettings
from mvd_ds.evaluation.episodes import draw_episodes, part_loss
from mvd_ds.models.prompts.head import PromptHead, Stage
from mvd_ds.models.prompts.metaprompt import TEXT

MOMENTUM = 0.9
"""Momentum of ``head.optimizer: sgd``. Source: CoOp."""


class Candidate(NamedTuple):
    """One head in training, among which a probe is chosen."""

    block: int
    """Position of its block among those that are probed."""
    label: int
    """Column of the labels."""
    seed: int
    """Position among the seeds."""
    rate: float
    """Learning rate."""
    decay: float
    """Weight decay."""


class Group(NamedTuple):
    """Clips of a step that are computed at once."""

    seen: Any
    """What the heads see of B clips."""
    targets: Tensor
    """int64 (B,), numbers of their classes."""
    learns: Tensor
    """bool (heads, B), True where a head learns from a clip."""


class HeadBank:
    """Heads on the same block and label, computed as one batch.

    Every head keeps parameters and moments of its own: it learns what it would learn alone, but for the rounding of larger
    products.

    Args:
        candidates: what they are.
        build: seed's position -> a head with its initial weights.
        device: where they are.
        optimizer: ``head.optimizer``.
        among: numbers of the classes that are learnt (None: all).
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        build: Callable[[int], nn.Module],
        device: torch.device,
        optimizer: str = "adamw",
        among: Sequence[int] | None = None,
    ) -> None:
        self.candidates, self.among = tuple(candidates), among
        self.block, self.label = candidates[0].block, candidates[0].label
        self.heads = [build(one.seed).to(device) for one in candidates]
        self._parameters = [dict(head.named_parameters()) for head in self.heads]
        groups = [
            {"params": list(parameters.values()), "lr": one.rate, "weight_decay": one.decay}
            for one, parameters in zip(candidates, self._parameters, strict=True)
        ]
        self.optimizer = torch.optim.AdamW(groups) if optimizer == "adamw" else torch.optim.SGD(groups, momentum=MOMENTUM)

    def logits(self, seen: Any, among: Sequence[int] | None = None) -> Tensor:
        """Return fp32 (heads, B, C) of what the heads see of B clips, among some classes (None: all)."""
        return self._scores(self._stacked(), seen, among, "answer")

    def accumulate(self, seen: Any, targets: Tensor, weights: Tensor) -> None:
        """Add the gradients of some clips of a step.

        Args:
            seen: what the heads see of B clips.
            targets: int64 (B,), places among ``among``.
            weights: (heads, B), weight of every clip in the loss of each head.
        """
        self._loss(self._scores(self._stacked(), seen, self.among, "learn"), targets, weights).backward()

    @property
    def has_episodes(self) -> bool:
        """True for heads that learn by ``episodes``, too."""
        head = self.heads[0]
        return isinstance(head, PromptHead) and head.has_episodes

    def episodes(
        self, groups: Sequence[Group], classes: int, seed: Sequence[int], settings: PromptSettings, factor: float
    ) -> None:
        """Add the gradients of both episodes of a step; see ``evaluation.episodes``.

        Args:
            groups: all clips of the step.
            classes: number of all classes.
            seed: key of the halves.
            settings: the factor of these gradients, and the rate of the moves.
            factor: of the learning rates at this step.
        """
        if not settings.meta_step:
            return
        rates = torch.tensor([settings.inner_rate or one.rate * factor for one in self.candidates])
        for episode in draw_episodes(self.among or range(classes), seed):
            counts = [self._counts(groups, part) for part in episode]
            both = (counts[0] > 0) & (counts[1] > 0)  # a head that saw clips of one half alone learns nothing of the other
            stacked = {name: value.detach() for name, value in self._stacked().items()}
            texts = {name: value.requires_grad_() for name, value in stacked.items() if name.startswith(TEXT)}
            loss = self._part_loss({**stacked, **texts}, groups, episode.moves, counts[0], both)
            grads = torch.autograd.grad(loss, list(texts.values()))
            moved = self._stacked()
            for name, grad in zip(texts, grads, strict=True):
                moved[name] = moved[name] - rates.to(grad).view(-1, *[1] * (grad.ndim - 1)) * grad
            asked = self._part_loss(moved, groups, episode.asks, counts[1], both)
            (settings.meta_step * asked).backward()

    def _counts(self, groups: Sequence[Group], part: Sequence[int]) -> Tensor:
        """Return the number of clips of some classes that each head learns from, (heads,)."""
        chosen = torch.tensor(list(part), device=groups[0].targets.device)
        return torch.stack([(group.learns & torch.isin(group.targets, chosen)).sum(1) for group in groups]).sum(0)

    def _part_loss(
        self, stacked: dict[str, Tensor], groups: Sequence[Group], part: Sequence[int], counts: Tensor, both: Tensor
    ) -> Tensor:
        total = torch.zeros((), device=counts.device)
        for group in groups:
            weights = group.learns * (both / counts.clamp_min(1))[:, None]

            def score(among: Sequence[int], seen: Any = group.seen) -> Tensor:
                return self._scores(stacked, seen, among, "episode")[:, 0]

            total = total + part_loss(score, group.targets, weights, part)
        return total

    def step(self, factor: float, learns: Sequence[bool]) -> None:
        """Take an optimizer step at ``factor`` of the learning rates; heads that saw no clip to learn from take none."""
        for one, group, does in zip(self.candidates, self.optimizer.param_groups, learns, strict=True):
            group["lr"] = one.rate * factor
            if not does:
                for parameter in group["params"]:
                    parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def finite(self) -> list[bool]:
        """Return which heads have finite parameters only."""
        return [all(bool(value.isfinite().all()) for value in own.values()) for own in self._parameters]

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and moments."""
        return {"heads": [head.state_dict() for head in self.heads], "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        for head, values in zip(self.heads, state["heads"], strict=True):
            head.load_state_dict(values)
        self.optimizer.load_state_dict(state["optimizer"])

    def _stacked(self) -> dict[str, Tensor]:
        return {name: torch.stack([own[name] for own in self._parameters]) for name in self._parameters[0]}

    def _scores(self, stacked: dict[str, Tensor], seen: Any, among: Sequence[int] | None, stage: Stage) -> Tensor:
        """Return fp32 (heads, B, C), or (heads, losses, B, C) of prompts that learn."""
        head = self.heads[0]
        if isinstance(head, PromptHead):
            return vmap(lambda parameters: functional_call(head, parameters, (seen, among, stage)))(stacked).float()
        scores = vmap(lambda parameters: functional_call(head, parameters, (seen,)))(stacked).float()
        return scores if among is None else scores[..., list(among)]

    def _loss(self, scores: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the sum over heads and losses of weighted cross entropies."""
        scores = scores if scores.ndim == 4 else scores[:, None]
        losses = F.cross_entropy(scores.flatten(0, 2), targets.repeat(scores.shape[:2].numel()), reduction="none")
        return (losses.view(scores.shape[:3]) * weights[:, None]).sum()
