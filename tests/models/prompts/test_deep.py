"""Deep prompts stand in front of their own block alone, and nothing of theirs is left at the end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mvd_ds
from mvd_ds.config import ConfigError
from mvd_ds.models.prompts.deep import blocks_with_prompts, encode_with

SHAPE = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_px": 12}


@pytest.mark.parametrize("more", [{}, {"position": "rope3d"}, {"registers": 2}])
def test_each_block_sees_its_own_vectors_in_place_of_those_before(more: dict) -> None:
    encoder = mvd_ds.build_encoder({**SHAPE, **more}, 4, 24).eval().requires_grad_(False)
    clip = torch.randn(2, 3, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    embedded, plain = encoder.embed(clip), encoder(clip)
    torch.testing.assert_close(encode_with(encoder, embedded, []), plain)
    prompts = [torch.randn(2, 32, generator=torch.Generator().manual_seed(block)).requires_grad_() for block in range(3)]
    seen: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for block in encoder.blocks]
    found = encode_with(encoder, embedded, prompts)
    for hook in hooks:
        hook.remove()
    assert found.shape == plain.shape and not torch.allclose(found, plain)
    for tokens, vectors in zip(seen, prompts, strict=True):
        assert tokens.shape[1] == embedded.shape[1] + 2
        assert torch.equal(tokens[:, -2:], vectors.expand(2, -1, -1))
    found.sum().backward()
    assert all(vectors.grad is not None and vectors.grad.abs().sum() > 0 for vectors in prompts)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_more_blocks_than_there_are_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"prompt\.blocks 4: the encoder has 3"):
        blocks_with_prompts(4, 3, "the encoder")
    assert blocks_with_prompts(None, 3, "") == 3 and blocks_with_prompts(2, 3, "") == 2
