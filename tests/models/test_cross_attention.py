"""Cross-attention, its kernels, its block and mixtures of levels against definitions written out."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch.nn import functional as F

from mvd_ds.models.attention import choose_kernel
from mvd_ds.models.cross_attention import CROSS_KERNELS, CrossAttention, CrossBlock, LevelMixture
from mvd_ds.models.initialisation import initialise


def written_out(block: CrossBlock, queries: torch.Tensor, source: torch.Tensor, heads: int) -> torch.Tensor:
    """The block by its formula, head by head."""
    weights, width = dict(block.named_parameters()), queries.shape[-1]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    query = linear(norm(queries, "norm_attention"), "attention.query")
    key, value = linear(source, "attention.key_value").split(width, dim=-1)
    parts = []
    for head in range(heads):
        own = slice(head * width // heads, (head + 1) * width // heads)
        scores = torch.einsum("bmd,bvd->bmv", query[..., own], key[..., own]) / (width // heads) ** 0.5
        parts.append(torch.einsum("bmv,bvd->bmd", scores.softmax(-1), value[..., own]))
    queries = queries + linear(torch.cat(parts, -1), "attention.projection")
    hidden = F.gelu(linear(norm(queries, "norm_mlp"), "mlp.expand"))
    return queries + linear(hidden, "mlp.contract")


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_block_equals_its_formula(kernel, relative_error):
    block = CrossBlock(24, 32, 3, kernel=kernel)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    queries, source = torch.randn(2, 11, 24), torch.randn(2, 5, 32)
    assert relative_error(block(queries, source), written_out(block, queries, source, 3)) < 1e-5


def test_kernels_agree_on_more_queries_than_keys_and_fewer(relative_error):
    for queries, keys in ((11, 5), (5, 11)):
        query, key_value = torch.randn(2, queries, 3, 8), torch.randn(2, keys, 2, 3, 8)
        found = {name: CROSS_KERNELS[name](query, key_value) for name in ("eager", "sdpa")}
        assert found["eager"].shape == (2, queries, 3, 8)
        assert relative_error(found["sdpa"], found["eager"]) < 1e-6


def test_the_package_is_given_packed_keys_and_values(monkeypatch, relative_error):
    """flash-attn takes queries (B, M, heads, d) and keys with values (B, V, 2, heads, d), on a GPU: a stand-in computes."""
    stand_in = types.ModuleType("flash_attn")
    stand_in.flash_attn_kvpacked_func = CROSS_KERNELS["eager"]
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    module, queries, source = CrossAttention(24, 24, 3, "sdpa"), torch.randn(2, 11, 24), torch.randn(2, 5, 24)
    expected = module(queries, source)
    module.kernel = "flash_attn"
    monkeypatch.setattr("mvd_ds.models.cross_attention.choose_kernel", lambda *_: ("flash_attn", "a test"))
    assert relative_error(module(queries, source), expected) < 1e-5
    assert set(CROSS_KERNELS) == {"eager", "sdpa", "flash_attn"}
    choose_kernel.cache_clear()


def test_queries_do_not_look_at_each_other(relative_error):
    block, queries, source = CrossBlock(24, 24, 3), torch.randn(2, 11, 24), torch.randn(2, 5, 24)
    assert relative_error(block(queries, source)[:, 4:6], block(queries[:, 4:6], source)) < 1e-6


def test_branches_are_dropped_and_scaled(relative_error):
    block, queries, source = CrossBlock(24, 24, 3), torch.randn(2, 4, 24), torch.randn(2, 5, 24)
    kept = block(queries, source)
    factors = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    mixed = block(queries, source, factors)
    assert torch.equal(mixed[0], queries[0]) and relative_error(mixed[1], kept[1]) < 1e-6


def test_mixtures_are_weighted_sums_of_levels(relative_error):
    mixture = initialise(LevelMixture(3, 2), seed=0)
    levels = tuple(torch.randn(2, 5, 8) for _ in range(3))
    for row, mixed in zip(mixture.weight, mixture(levels), strict=True):
        expected = sum(weight * level for weight, level in zip(row, levels, strict=True))
        assert relative_error(mixed, expected) < 1e-6


def test_weights_of_mixtures_start_with_a_deviation_of_one_over_the_root_of_their_number():
    weight = initialise(LevelMixture(64, 1000), seed=0).weight
    assert weight.std().item() == pytest.approx(1 / 8, rel=0.02) and abs(weight.mean().item()) < 0.01
