"""Relations of tokens: closed forms, an independent reference, gradients, and the memory that is stated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mvd_ds.objectives import relations
from mvd_ds.objectives.relations import Relation, gram_distance, matrix_bytes, product_flops, relation_kl, saved_bytes


def vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Relation:
    generator = torch.Generator().manual_seed(seed)
    return Relation(*(torch.randn(*shape, generator=generator).to(dtype) for _ in range(2)))


def written_again(student: Relation, teacher: Relation) -> Tensor:
    """The same loss one number at a time, by autograd, in fp64: KL(teacher || student) of every row of every head."""
    per_sample = []
    for mine, my_right, their, their_right in zip(*student, *teacher, strict=True):
        rows = []
        for head in range(len(mine)):
            for row in range(mine.shape[1]):
                p = torch.stack([their[head, row].double() @ k.double() for k in their_right[head]]) / math.sqrt(their.shape[-1])
                q = torch.stack([mine[head, row].double() @ k.double() for k in my_right[head]]) / math.sqrt(mine.shape[-1])
                p, q = p.exp() / p.exp().sum(), q.exp() / q.exp().sum()
                rows.append((p * (p / q).log()).sum())
        per_sample.append(torch.stack(rows).mean())
    return torch.stack(per_sample)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    weights = torch.arange(1.0, len(loss) + 1, dtype=loss.dtype)
    return list(torch.autograd.grad((loss * weights).sum(), inputs))


def test_two_tokens_have_a_closed_form() -> None:
    """Scores (a, 0) and (0, a) of the student against (b, 0) and (0, b): both rows are KL of two Bernoulli variables."""
    a, b = 0.7, -1.9
    student = Relation(a * torch.eye(2)[None, None], math.sqrt(2) * torch.eye(2)[None, None])
    teacher = Relation(b * torch.eye(2)[None, None], math.sqrt(2) * torch.eye(2)[None, None])
    p, q = 1 / (1 + math.exp(-b)), 1 / (1 + math.exp(-a))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert relation_kl(student, teacher).tolist() == pytest.approx([expected], rel=1e-6)
    assert relation_kl(teacher, student).tolist() != pytest.approx([expected], rel=1e-2), "KL is not symmetric"


@pytest.mark.parametrize("chunk_bytes", [1, 5 * 4 * 5 * 2, 5 * 4 * 25 * 4, 2**27], ids=["row", "rows", "pairs", "whole"])
def test_loss_and_gradient_are_those_of_the_reference_in_any_chunk(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head widths differ between the two, and every sample's loss has another gradient."""
    monkeypatch.setattr(relations, "CHUNK_BYTES", chunk_bytes)
    student = Relation(*(part.requires_grad_() for part in vectors(2, 3, 5, 4)))
    teacher = vectors(2, 3, 5, 7, seed=1)
    expected = written_again(student, teacher)
    found = relation_kl(student, teacher)
    assert torch.allclose(found.double(), expected, rtol=1e-5)
    for mine, theirs in zip(gradients(found, *student), gradients(expected, *student), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_values_with_values_take_both_gradients() -> None:
    value = vectors(2, 2, 4, 3).left.requires_grad_()
    theirs = vectors(2, 2, 4, 3, seed=1).left
    found, expected = relation_kl(Relation(value, value), Relation(theirs, theirs)), None
    expected = written_again(Relation(value, value), Relation(theirs, theirs))
    assert torch.allclose(gradients(found, value)[0], gradients(expected, value)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_the_teacher_itself_is_exactly_zero(dtype: torch.dtype) -> None:
    student = Relation(*(part.requires_grad_() for part in vectors(2, 3, 5, 8, dtype=dtype)))
    loss = relation_kl(student, Relation(*(part.detach().clone() for part in student)))
    assert loss.dtype == torch.float32 and loss.tolist() == [0.0, 0.0]
    assert all(gradient.dtype == dtype and not gradient.any() for gradient in gradients(loss, *student))


def test_no_gradient_reaches_the_teacher_and_none_is_made_without_need() -> None:
    teacher = Relation(*(part.requires_grad_() for part in vectors(1, 2, 4, 3, seed=1)))
    student = Relation(*(part.requires_grad_() for part in vectors(1, 2, 4, 3)))
    relation_kl(student, teacher).sum().backward()
    assert teacher.left.grad is None and teacher.right.grad is None and student.left.grad is not None
    with torch.no_grad(), Largest() as seen:
        relation_kl(student, teacher)
    assert seen.products == 2, "scores of both, and no gradient"


def test_other_heads_or_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 4\) and \(1, 3, 4\)"):
        relation_kl(vectors(1, 2, 4, 3), vectors(1, 3, 4, 3))


class Largest(TorchDispatchMode):
    """Remembers the largest result of any operation, in bytes, and counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.mm)
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def test_memory_and_operations_are_the_stated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result is larger than a chunk or than the vectors, and what waits for backward is two gradients and nothing else."""
    pairs, tokens, width = 2 * 3, 40, 4
    monkeypatch.setattr(relations, "CHUNK_BYTES", 5 * 4 * tokens * 8)
    student = Relation(*(part.requires_grad_() for part in vectors(2, 3, tokens, width)))
    teacher = vectors(2, 3, tokens, 2 * width, seed=1)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part) or part, lambda part: part), Largest() as seen:
        loss = relation_kl(student, teacher)
    assert matrix_bytes(pairs, tokens) == 5 * 4 * tokens * 8
    assert seen.bytes <= max(matrix_bytes(pairs, tokens) // 5, 4 * pairs * tokens * 2 * width) < 4 * pairs * tokens**2
    assert sum(part.numel() * 4 for part in kept) == saved_bytes(pairs, tokens, width)
    with FlopCounterMode(display=False) as counter:
        relation_kl(student, teacher)
    assert counter.get_total_flops() == product_flops(pairs, tokens, width, 2 * width)
    loss.sum().backward()


def test_the_gram_of_two_tokens_has_a_closed_form() -> None:
    """Tokens at an angle of 60 and of 90 degrees: both off-diagonal cosines differ by 1/2, whatever the lengths are."""
    student = torch.tensor([[[1.0, 0.0], [1.0, math.sqrt(3.0)]]]) * torch.tensor([[[3.0], [0.1]]])
    teacher = torch.tensor([[[0.0, 2.0, 0.0], [5.0, 0.0, 0.0]]])
    assert gram_distance(student, teacher).tolist() == pytest.approx([2 * 0.25 / 4], rel=1e-6)


def test_gram_loss_and_gradient_are_those_of_whole_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "CHUNK_BYTES", 5 * 4 * 6 * 4)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, requires_grad=True), torch.randn(2, 6, 9, generator=generator)
    units = [tokens.double() / tokens.double().norm(dim=-1, keepdim=True) for tokens in (student, teacher)]
    expected = (units[0] @ units[0].mT - units[1] @ units[1].mT).square().mean(dim=(1, 2))
    found = gram_distance(student, teacher)
    assert torch.allclose(found.double(), expected, rtol=1e-5)
    assert torch.allclose(gradients(found, student)[0], gradients(expected, student)[0], rtol=1e-4, atol=1e-6)
    assert gram_distance(student, student * 3).abs().max() < 1e-12
