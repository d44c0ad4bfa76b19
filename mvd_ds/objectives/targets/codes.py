"""Targets that are the codes of a frozen tokenizer: classes of tokens in place of their features."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import ConfigError, TrainingRecipe
from mvd_ds.config.tokenizers.card import find_card
from mvd_ds.objectives.targets.target import Places, Target, taught


class CodeTarget(Target):
    """The code of every masked token, learned by cross entropy. The teacher itself finds the codes. Source: BEiT, BEiT v2.

    Args:
        recipe: the run.
        name: name of the output.

    Raises:
        ConfigError: if there is no tokenizer, it has another number of codes than is stated, targets come from a
            cache, or the balance is loss_relative.
    """

    losses: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    is_pointwise: ClassVar[bool] = False

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        output, teacher, target, weight = taught(recipe, name)
        if recipe.targets.cache is not None:
            raise ConfigError(f"target {name}: targets.cache keeps features, which kind codes needs a teacher beside: remove it")
        if recipe.balance == "loss_relative":
            raise ConfigError(
                f"target {name}: balance loss_relative follows a mean of features, and codes have none: choose fixed"
            )
        self.card = find_card(target, f"target {name}: codebook")
        codes = self.card.codes if self.card is not None else target.codes or teacher.embed_dim
        super().__init__(name, output.head(codes), "cross_entropy", weight)
        self.is_tokenwise = self.card is None or self.card.is_tokenwise

    def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the cross entropy, a scalar in fp32, of logits (B*K, M, codes) and codes int64 (B*K, M, 1), mean over tokens."""
        return functional.cross_entropy(prediction.flatten(0, -2).float(), target.flatten())

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,), whose mean is that of ``compare``."""
        losses = functional.cross_entropy(prediction.flatten(0, -2).float(), target.flatten(), reduction="none")
        return losses.view(target.shape[:-1]).mean(dim=1)

    @torch.no_grad()
    def trivial_loss(self, target: Tensor) -> Tensor:
        """Return the loss of telling for every token how often each code is among all: the entropy of the codes, in nats."""
        shares = self._shares(target.flatten())
        return -torch.special.xlogy(shares, shares).sum()

    @torch.no_grad()
    def measure(self, prediction: Tensor, target: Tensor, loss: Tensor) -> dict[str, Tensor]:
        """Return the loss over the trivial one, the share of codes that are told right, and how many codes are in use.

        The perplexity of codes, exp of their entropy, is that of the tokens of this micro batch; that of predictions near 1 says
        that the student tells the same code for all.
        """
        predicted = prediction.argmax(dim=-1)
        trivial, told = self.trivial_loss(target), self._shares(predicted.flatten())
        return {
            f"loss_relative/{self.name}": loss / trivial.clamp_min(1e-12),
            f"codes/accuracy_{self.name}": (predicted == target[..., 0]).float().mean(),
            f"codes/perplexity_{self.name}": trivial.exp(),
            f"codes/predicted_perplexity_{self.name}": torch.exp(-torch.special.xlogy(told, told).sum()),
        }

    def held_bytes(self, samples: int, tokens: int) -> int:
        """Return the bytes of the log probabilities in fp32, beside the logits and their gradient."""
        return 4 * samples * tokens * self.head.width

    def flops(self, tokens: int) -> int:
        """Return the operations that it takes to find the codes of a sample, its encoder's blocks left out."""
        return 0 if self.card is None else self.card.flops(tokens)

    def _shares(self, codes: Tensor) -> Tensor:
        return torch.bincount(codes, minlength=self.head.width).float() / max(len(codes), 1)
