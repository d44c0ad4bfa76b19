"""V-JEPA 2's attentive probe against the formula, written out here, and against the pooler of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvd_ds.config import ConfigError, HeadSettings
from mvd_ds.models.classifiers.deep_attentive import DeepAttentiveHead
from mvd_ds.models.classifiers.heads import build_head
from mvd_ds.models.classifiers.tokens import FrozenTokens, TokenShape
from mvd_ds.models.initialisation import initialise

WIDTH, HEADS, CLASSES = 32, 4, 5
TOKENS = torch.randn(3, 11, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(blocks: int, class_tokens: int = 0) -> DeepAttentiveHead:
    """Return a head whose biases and norms are not trivial."""
    head = initialise(DeepAttentiveHead(WIDTH, HEADS, blocks, CLASSES, class_tokens), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return head.double()


def normed(tokens: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return tokens less their mean over channels, over their deviation."""
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale + shift


def gelu(values: Tensor) -> Tensor:
    """Return x times the normal distribution's share below x."""
    return values * (1 + torch.erf(values / math.sqrt(2))) / 2


def looked(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend head by head: softmax of scaled products."""
    found = []
    for part in torch.arange(WIDTH).chunk(HEADS):
        scores = torch.einsum("bmd,bnd->bmn", queries[..., part], keys[..., part]) / math.sqrt(len(part))
        found.append(torch.einsum("bmn,bnd->bmd", scores.exp() / scores.exp().sum(-1, keepdim=True), values[..., part]))
    return torch.cat(found, -1)


def by_hand(head: DeepAttentiveHead, tokens: Tensor) -> Tensor:
    """Return logits from the facts of V-JEPA 2's classifier: self-attention blocks, then a query, then a linear layer."""
    state = head.state_dict()

    def linear(name: str, values: Tensor) -> Tensor:
        return torch.einsum("oi,...i->...o", state[f"{name}.weight"], values) + state[f"{name}.bias"]

    def norm(name: str, values: Tensor) -> Tensor:
        return normed(values, state[f"{name}.weight"], state[f"{name}.bias"])

    def mlp(name: str, values: Tensor) -> Tensor:
        return linear(f"{name}.mlp.contract", gelu(linear(f"{name}.mlp.expand", norm(f"{name}.norm_mlp", values))))

    for number in range(len(head.blocks)):
        name = f"blocks.{number}"
        inside = norm(f"{name}.norm_tokens", tokens)
        keys, values = linear(f"{name}.to_keys_values", inside).split(WIDTH, -1)
        seen = looked(linear(f"{name}.to_query", inside), keys, values)
        tokens = tokens + linear(f"{name}.projection", seen)
        tokens = tokens + mlp(name, tokens)
    query = state["query.weight"].expand(len(tokens), 1, WIDTH)
    keys, values = linear("cross.to_keys_values", norm("cross.norm_tokens", tokens)).split(WIDTH, -1)
    pooled = query + looked(linear("cross.to_query", query), keys, values)  # no norm before, no projection behind
    pooled = pooled + mlp("cross", pooled)
    return linear("head", pooled[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_a_forward_is_the_formula(blocks: int) -> None:
    head = drawn(blocks)
    assert len(head.blocks) == blocks - 1
    torch.testing.assert_close(head(FrozenTokens(TOKENS)), by_hand(head, TOKENS), rtol=1e-6, atol=1e-6)
    single = head.float()(FrozenTokens(TOKENS.float())).double()
    torch.testing.assert_close(single, by_hand(head.double(), TOKENS), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_forward_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.vjepa2.modeling_vjepa2")
    config = transformers.VJEPA2Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, mlp_ratio=4, num_pooler_layers=3, layer_norm_eps=1e-5
    )
    config._attn_implementation = "eager"
    theirs, ours = modeling.VJEPA2AttentivePooler(config).double().eval(), drawn(4)
    theirs.query_tokens.copy_(ours.query.weight)
    for block, layer in [
        *zip(ours.blocks, theirs.self_attention_layers, strict=True),
        (ours.cross, theirs.cross_attention_layer),
    ]:
        attention = layer.self_attn if block is not ours.cross else layer.cross_attn
        keys, values = block.to_keys_values.weight.chunk(2)
        key_biases, value_biases = block.to_keys_values.bias.chunk(2)
        for linear, weight, bias in (
            (attention.q_proj, block.to_query.weight, block.to_query.bias),
            (attention.k_proj, keys, key_biases),
            (attention.v_proj, values, value_biases),
            (layer.mlp.fc1, block.mlp.expand.weight, block.mlp.expand.bias),
            (layer.mlp.fc2, block.mlp.contract.weight, block.mlp.contract.bias),
            (layer.layer_norm1, block.norm_tokens.weight, block.norm_tokens.bias),
            (layer.layer_norm2, block.norm_mlp.weight, block.norm_mlp.bias),
        ):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        if block is not ours.cross:
            out = attention.out_proj if hasattr(attention, "out_proj") else attention.proj
            out.weight.copy_(block.projection.weight)
            out.bias.copy_(block.projection.bias)
    torch.testing.assert_close(ours.head(theirs(TOKENS)), ours(FrozenTokens(TOKENS)), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_class_tokens_in_front_are_left_out() -> None:
    head, plain = drawn(2, class_tokens=3), drawn(2)
    torch.testing.assert_close(head(FrozenTokens(TOKENS)), plain(FrozenTokens(TOKENS[:, 3:])))


def test_branches_start_smaller_the_later_they_come() -> None:
    head = build_head("deep_attentive", TokenShape(512, 8), 10, HeadSettings(blocks=4), 0)
    assert isinstance(head, DeepAttentiveHead) and head.cross.heads == 8, "a head for every 64 channels"
    found = [block.mlp.contract.weight.std().item() for block in (*head.blocks, head.cross)]
    assert found == pytest.approx([0.02 / math.sqrt(2 * number) for number in (1, 2, 3, 3)], rel=0.02)
    assert head.blocks[0].to_query.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_heads_that_do_not_divide_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"head\.heads: 5 heads do not divide tokens of width 32"):
        build_head("deep_attentive", TokenShape(32, 4), 3, HeadSettings(heads=5), 0)
