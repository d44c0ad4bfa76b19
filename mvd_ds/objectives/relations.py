"""Losses between the relations of tokens, one matrix (S, S) per head, of which only a bounded part is ever in memory.

A relation is a matrix of scores: products of every token's left vector with every token's right vector, queries with keys for
example. The loss and its gradient in the student's scores are computed together, some rows at a time, and the gradient goes on
to the vectors at once; so nothing of size (S, S) waits for the backward pass, which is a multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.files import ConfigError

#: Memory of the score matrices that are held at once, bytes; a single row may take more.
CHUNK_BYTES = 2**27
#: fp32 matrices of a chunk's size that are alive at the worst moment: two kinds of scores, a distribution, and a product in the
#: making with its operand.
LIVE_MATRICES = 5

RowLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(student's scores, teacher's scores), both (P, R, S) -> the loss of every row (P, R), and its gradient in the first."""


class Relation(NamedTuple):
    """Vectors whose products are the scores of a relation; both (B, h, S, d), any float type."""

    left: Tensor
    right: Tensor


def relation_kl(student: Relation, teacher: Relation) -> Tensor:
    """Return the mean over heads and rows of KL(R of the teacher || R of the student), R = softmax(left right^T / sqrt d).

    The softmax is over the S tokens that are given, on both sides. Source: TinyMIM (arXiv 2301.01296), queries with keys and
    values with values.

    Args:
        student: (B, h, S, d).
        teacher: (B, h, S, d'), heads and tokens as the student's; no gradient reaches it.

    Returns:
        fp32 (B,), one loss per sample.

    Raises:
        ValueError: if heads or tokens differ.
    """
    return _compare(student, teacher, _kl_rows, scaled=True)


def packed_relations(packed: Tensor, heads: int) -> dict[str, Relation]:
    """Return the relations of packed queries, keys and values (B, S, 3 * heads * d) by name.

    Raises:
        ConfigError: if the last dimension does not divide so.
    """
    if heads < 1 or packed.shape[-1] % (3 * heads):
        width = packed.shape[-1]
        raise ConfigError(
            f"relations: packed width {width} is no multiple of 3 * {heads} heads (queries, keys, values): give the teacher's"
        )
    query, key, value = packed.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return {"query_key": Relation(query, key), "value_value": Relation(value, value)}


def relation_loss(
    prediction: Tensor, target: Tensor, heads: int, relations: Sequence[str] = ("query_key", "value_value")
) -> Tensor:
    """Return the sum over relations of ``relation_kl``, fp32 (B,), between packed queries, keys and values.

    Args:
        prediction: (B, S, 3 * heads * d), as a head of the student gives it.
        target: (B, S, 3 * heads * d'), as a teacher with ``target: {kind: relations}`` gives it, of the same tokens.
        heads: number of heads of the teacher.
        relations: which of query_key and value_value.

    Raises:
        ConfigError: if a width is no multiple of 3 * heads.
    """
    mine, theirs = packed_relations(prediction, heads), packed_relations(target, heads)
    losses = [relation_kl(mine[name], theirs[name]) for name in relations]
    return sum(losses[1:], losses[0])


def gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over pairs of tokens of (cosine of the student's - cosine of the teacher's)**2.

    Source: Gram anchoring of DINOv3 (arXiv 2508.10104). Differs: AMoE's relation loss compares the samples of a batch, this one
    the tokens of a sample, so that it does not depend on the batch.

    Args:
        student: (B, S, D).
        teacher: (B, S, D'); no gradient reaches it.

    Returns:
        fp32 (B,), one loss per sample.

    Raises:
        ValueError: if the numbers of tokens differ.
    """
    unit = functional.normalize(student.float(), dim=-1)[:, None]
    wanted = functional.normalize(teacher.detach().float(), dim=-1)[:, None]
    return _compare(Relation(unit, unit), Relation(wanted, wanted), _square_rows, scaled=False)


def matrix_bytes(pairs: int, tokens: int) -> int:
    """Return the bytes of score matrices that are alive at once, for ``pairs`` (samples times heads) of ``tokens`` tokens."""
    return LIVE_MATRICES * 4 * math.prod(_chunk(pairs, tokens)) * tokens


def saved_bytes(pairs: int, tokens: int, width: int) -> int:
    """Return the bytes that wait for the backward pass: the gradient of left and right vectors of ``width`` in fp32."""
    return 2 * 4 * pairs * tokens * width


def product_flops(pairs: int, tokens: int, student_width: int, teacher_width: int) -> int:
    """Return the operations of one relation's matrix products, its gradient among them.

    They are the student's scores, the gradient of both of their factors, and the teacher's scores.
    """
    return 2 * pairs * tokens**2 * (3 * student_width + teacher_width)


def _kl_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    log_student, log_teacher = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    wanted = log_teacher.exp()
    loss = (log_teacher.sub_(log_student).mul_(wanted)).sum(dim=-1)
    return loss, log_student.exp_().sub_(wanted)


def _square_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    difference = student - teacher
    tokens = difference.shape[-1]
    return difference.square().mean(dim=-1), difference.mul_(2 / tokens)


def _chunk(pairs: int, tokens: int) -> tuple[int, int]:
    """Return (pairs, rows) of a chunk that holds ``CHUNK_BYTES`` at most: some pairs whole, or some rows of one."""
    row_bytes = LIVE_MATRICES * 4 * tokens
    whole = CHUNK_BYTES // (row_bytes * tokens)
    return (min(whole, pairs), tokens) if whole else (1, max(CHUNK_BYTES // row_bytes, 1))


def _chunks(pairs: int, tokens: int) -> Iterator[tuple[slice, slice]]:
    count, rows = _chunk(pairs, tokens)
    for first in range(0, pairs, count):
        for row in range(0, tokens, rows):
            yield slice(first, first + count), slice(row, row + rows)


def _compare(student: Relation, teacher: Relation, loss: RowLoss, *, scaled: bool) -> Tensor:
    if student.left.shape[:3] != teacher.left.shape[:3]:
        raise ValueError(
            f"relations (B, h, S) {tuple(student.left.shape[:3])} and {tuple(teacher.left.shape[:3])} differ in shape"
        )
    heads = student.left.shape[1]
    vectors = [part.flatten(0, 1) for part in (*student, *(part.detach() for part in teacher))]
    scales = [part.left.shape[-1] ** -0.5 if scaled else 1.0 for part in (student, teacher)]
    # Asked here: inside a function of its own, torch.no_grad is in force and inputs still say that they want a gradient.
    is_wanted = torch.is_grad_enabled() and any(part.requires_grad for part in student)
    found: Tensor = _Compared.apply(*vectors, scales, loss, is_wanted)
    return found.unflatten(0, (-1, heads)).mean(dim=1)


class _Compared(torch.autograd.Function):
    """The mean over rows of the loss of every pair (sample, head)."""

    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        right: Tensor,
        their_left: Tensor,
        their_right: Tensor,
        scales: list[float],
        loss: RowLoss,
        is_wanted: bool,
    ) -> Tensor:
        """Return (P,) fp32 of vectors (P, S, d); where a gradient is wanted, keep it, and nothing else."""
        pairs, tokens = left.shape[:2]
        losses = left.new_zeros(pairs, dtype=torch.float32)
        kept = [torch.zeros_like(part, dtype=torch.float32) for part in (left, right)] if is_wanted else []
        for pair, row in _chunks(pairs, tokens):
            mine, other = left[pair, row].float(), right[pair].float()
            scores = mine @ other.mT * scales[0]
            wanted = their_left[pair, row].float() @ their_right[pair].float().mT * scales[1]
            of_rows, gradient = loss(scores, wanted)
            losses[pair] += of_rows.sum(dim=-1) / tokens
            if is_wanted:
                gradient *= scales[0] / tokens
                kept[0][pair, row] = gradient @ other
                kept[1][pair] += gradient.mT @ mine
        ctx.save_for_backward(*kept)
        ctx.types = left.dtype, right.dtype
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return what was kept, times the gradient of each pair's loss."""
        (of_pairs,) = gradients
        mine, other = (
            (part * of_pairs[:, None, None]).to(dtype) for part, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return mine, other, None, None, None, None, None
