"""Attention rows against the whole matrix, and what they take of memory."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.models.networks.attention_rows import attention_row, attention_row_flops


def eager(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The matrix of every head, mean over heads, (B, N, N), in double precision."""
    scores = torch.einsum("bhid,bhjd->bhij", query.double(), key.double()) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1).mean(dim=1)


@pytest.fixture
def heads() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key = (2 * torch.randn(2, 3, 37, 8, generator=generator) for _ in range(2))
    return query, key


@pytest.mark.parametrize("position", [0, 36])
def test_the_row_of_a_class_token_equals_eager_attention(position: int, heads: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert (attention_row(*heads, position) - eager(*heads)[:, position]).abs().max() < 1e-6


@pytest.mark.parametrize("chunk", [1, 10, 64])
def test_the_mean_row_equals_eager_attention_whatever_the_chunks(chunk: int, heads: tuple[torch.Tensor, torch.Tensor]) -> None:
    row = attention_row(*heads, None, chunk)
    assert (row - eager(*heads).mean(dim=1)).abs().max() < 1e-6
    assert torch.allclose(row.sum(dim=-1), torch.ones(2))


def test_half_precision_costs_no_more_than_its_own_rounding(heads: tuple[torch.Tensor, torch.Tensor]) -> None:
    rounded = [part.bfloat16() for part in heads]
    row = attention_row(*rounded, None)
    assert row.dtype == torch.float32 and (row - eager(*rounded).mean(dim=1)).abs().max() < 1e-6


def test_the_whole_matrix_is_never_in_memory(heads: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The largest tensor that any operation makes is a chunk of queries times all keys."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            nonlocal largest
            found = function(*arguments, **(options or {}))
            largest = max([largest, *(part.numel() for part in torch.utils._pytree.tree_leaves(found) if hasattr(part, "numel"))])
            return found

    query, key = (part.repeat(1, 1, 20, 1) for part in heads)
    with Watch():
        attention_row(query, key, None, 16)
    assert largest == max(2 * 3 * 16 * 740, key.numel())


def test_operations_are_those_of_the_scores_alone() -> None:
    assert attention_row_flops(1568, 768, has_class_token=False) == 2 * 1568**2 * 768
    assert attention_row_flops(197, 768, has_class_token=True) == 2 * 197 * 768
