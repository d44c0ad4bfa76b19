"""Targets that are relations of tokens: the attention of a teacher's block, or the cosines between its tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from mvd_ds.config import TrainingRecipe
from mvd_ds.objectives.relations import gram_distance, matrix_bytes, product_flops, relation_loss, saved_bytes
from mvd_ds.objectives.targets.target import Places, Target, taught


class RelationalTarget(Target):
    """A target that compares tokens with one another, and so has a loss of its own.

    Relations are those among the tokens that are predicted: of a sample, whole or in part, never of several samples.
    """

    losses: ClassVar[tuple[str, ...]] = ("relations",)
    is_pointwise: ClassVar[bool] = False

    def __init__(self, recipe: TrainingRecipe, name: str, width: int) -> None:
        output, teacher, self.settings, weight = taught(recipe, name)
        super().__init__(name, output.head(width), "relations", weight)
        self.heads = teacher.num_heads

    def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the mean of ``rows``, a scalar in fp32."""
        return self.rows(prediction, target).mean()

    def trivial_loss(self, target: Tensor) -> Tensor:
        """Return the loss where all tokens are alike, as the mean target is: all relations are uniform, or all cosines 1."""
        tokens = target.float()
        return self.compare(tokens.flatten(0, -2).mean(dim=0).expand_as(tokens), tokens)

    @abstractmethod
    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,), of predictions and targets (B*K, P, width)."""


class RelationTarget(RelationalTarget):
    """The attention of one block of a teacher, head by head: KL of softmax(QK^T / sqrt d), and of softmax(VV^T / sqrt d).

    The student predicts queries, keys and values of as many heads as the teacher has; its own heads and depth are its own.
    Source: TinyMIM (arXiv 2301.01296). Differs: the student's come from a linear map behind its decoder or encoder, not from its
    last block; the class token is left out; the relations of an image teacher are those among the tokens of a whole clip. No
    softmax sees the head's bias of keys, which adds one number to a whole row: what it is says nothing.

    Args:
        recipe: the run.
        name: name of the output.
    """

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        teacher = recipe.outputs[name].teacher
        assert teacher is not None
        super().__init__(recipe, name, 3 * recipe.teachers[teacher].embed_dim)

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,): the sum over relations of the mean KL over heads and rows."""
        return relation_loss(prediction, target, self.heads, self.settings.relations)

    def flops(self, tokens: int) -> int:
        """Return the operations of all relations of a sample of ``tokens`` tokens, their gradient among them."""
        width = self.head.width // (3 * self.heads)
        return len(self.settings.relations) * product_flops(self.heads, tokens, width, width)

    def held_bytes(self, samples: int, tokens: int) -> int:
        """Return the bytes of the matrices of a chunk, and of the gradients that wait for the backward pass."""
        pairs, width = samples * self.heads, self.head.width // (3 * self.heads)
        return matrix_bytes(pairs, tokens) + len(self.settings.relations) * saved_bytes(pairs, tokens, width)


class TokenRelationTarget(RelationalTarget):
    """The cosines between the tokens of a teacher, which say nothing of the tokens' own values. See ``gram_distance``.

    Args:
        recipe: the run.
        name: name of the output.
    """

    def __init__(self, recipe: TrainingRecipe, name: str) -> None:
        teacher, target = recipe.outputs[name].teacher, recipe.outputs[name].target
        assert teacher is not None and target is not None
        joined = len(set(target.blocks)) if target.mode == "concat" else 1
        super().__init__(recipe, name, joined * recipe.teachers[teacher].embed_dim)

    def rows(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
        """Return the loss of every sample, fp32 (B*K,)."""
        return gram_distance(prediction, target)

    def flops(self, tokens: int) -> int:
        """Return the operations of the Gram matrices of a sample of ``tokens`` tokens, their gradient among them."""
        return product_flops(1, tokens, self.head.width, self.head.width)

    def held_bytes(self, samples: int, tokens: int) -> int:
        """Return the bytes of the matrices of a chunk, and of the gradients that wait for the backward pass."""
        return matrix_bytes(samples, tokens) + saved_bytes(samples, tokens, self.head.width)
