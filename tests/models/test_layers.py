"""Drop path, activation checkpointing, bf16."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.models import layers
from mvd_ds.models.layers import Block, drop_path_factors, run_blocks


def test_branch_factors_scale_and_drop_each_branch():
    block = Block(16, 2)
    tokens = torch.randn(4, 5, 16)
    factors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    out = block(tokens, factors)
    attended = block.attention(block.norm_attention(tokens))
    torch.testing.assert_close(out[0], tokens[0], rtol=0, atol=0)
    torch.testing.assert_close(out[1], tokens[1] + 2 * attended[1])
    torch.testing.assert_close(out[2], tokens[2] + 2 * block.mlp(block.norm_mlp(tokens))[2])
    torch.testing.assert_close(out[3], block(tokens)[3])


def test_drop_path_rates_grow_linearly_and_branches_are_independent():
    uniforms = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0))
    factors = drop_path_factors(uniforms, 0.4, training=True)
    assert factors.shape == (200_000, 3, 2)
    for block, rate in enumerate((0.0, 0.2, 0.4)):
        attention, mlp = factors[:, block].unbind(1)
        assert attention.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)] if rate else [1.0])
        assert (attention == 0).float().mean() == pytest.approx(rate, abs=5e-3)
        assert (mlp == 0).float().mean() == pytest.approx(rate, abs=5e-3)
        assert ((mlp == 0) & (attention == 0)).float().mean() == pytest.approx(rate**2, abs=5e-3)
        assert attention.mean() == pytest.approx(1.0, abs=1e-2)


def test_drop_path_compares_the_uniform_with_the_rate():
    factors = drop_path_factors(torch.tensor([[0.0, 0.49], [0.999, 0.5]]), 0.5, training=True)
    assert factors[:, 0].tolist() == [[1.0, 1.0], [1.0, 1.0]]  # the first block's rate is 0, even for a uniform of 0
    assert factors[0, 1].tolist() == [0.0, 2.0]  # .49 / .5 = .98
    assert factors[1, 1].tolist() == [2.0, 0.0]  # (.5 - .5) / .5 = 0


@pytest.mark.parametrize(
    ("uniforms", "rate", "training"), [(None, 0.5, True), (torch.zeros(1, 2), 0.0, True), (torch.zeros(1, 2), 0.5, False)]
)
def test_drop_path_off(uniforms, rate, training):
    assert drop_path_factors(uniforms, rate, training) is None


def _run(every: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(16, 2) for _ in range(4))
    tokens = torch.randn(3, 5, 16, requires_grad=True)
    factors = drop_path_factors(torch.rand(3, 4), 0.5, training=True)
    run_blocks(blocks, tokens, factors, every).square().sum().backward()
    return [tokens.grad, *(parameter.grad for parameter in blocks.parameters())]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_checkpointing_changes_no_gradient(every):
    for kept, recomputed in zip(_run(0), _run(every), strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.parametrize(("every", "recomputed"), [(0, []), (1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
def test_every_nth_block_is_recomputed(every, recomputed, monkeypatch):
    blocks = torch.nn.ModuleList(Block(16, 2) for _ in range(4))
    seen = []

    def spy(block, *inputs, use_reentrant, preserve_rng_state):
        seen.append(list(blocks).index(block))
        assert use_reentrant is False
        return block(*inputs)

    monkeypatch.setattr(layers, "checkpoint", spy)
    tokens = torch.randn(1, 3, 16)
    run_blocks(blocks, tokens, None, every)
    assert seen == recomputed
    with torch.no_grad():
        run_blocks(blocks, tokens, None, every)
    assert seen == recomputed, "nothing is recomputed where there is no backward"


@pytest.mark.parametrize("every", [0, 1])
def test_the_last_block_gives_what_is_wanted(every):
    blocks = torch.nn.ModuleList(Block(16, 2) for _ in range(3))
    tokens = torch.randn(4, 6, 16)
    # Indices count through the 12 tokens of two neighbours in the batch.
    wanted = torch.tensor([[11, 0, 6], [1, 2, 7]])
    found, whole = run_blocks(blocks, tokens, None, every, wanted), run_blocks(blocks, tokens, None, every)
    expected = [[whole[1, 5], whole[0, 0], whole[1, 0]], [whole[2, 1], whole[2, 2], whole[3, 1]]]
    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in expected]))


def test_blocks_work_in_bf16():
    block = Block(16, 2)
    tokens = torch.randn(2, 5, 16)
    expected = block(tokens, torch.ones(2, 2))
    out = block.bfloat16()(tokens.bfloat16(), torch.ones(2, 2))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=3e-2, atol=3e-2)
