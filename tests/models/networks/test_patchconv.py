"""PatchConvNet: parameters as published, and a forward pass written out from the published names."""

from __future__ import annotations

import pytest
import torch
from timm.models._efficientnet_blocks import SqueezeExcite as Peer
from torch.nn import functional as F

from mvd_ds.config.networks.frame_networks import FRAME_NETWORKS
from mvd_ds.models.networks.patchconv import PatchConvNet, SqueezeExcite

#: Millions with 1000 classes. Source: PatchConvNet's README.
PUBLISHED = {"s60": 25.2, "s120": 47.7, "b60": 99.4, "b120": 188.6, "l120": 334.3}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name):
    sizes = FRAME_NETWORKS["patchconv"][name]
    with torch.device("meta"):
        network = PatchConvNet(**sizes)
    head = 1000 * (sizes["embed_dim"] + 1)
    assert round((sum(value.numel() for value in network.parameters()) + head) / 1e6, 1) == PUBLISHED[name]


@torch.no_grad()
def test_squeeze_and_excitation_is_that_of_timm():
    ours, theirs, picture = SqueezeExcite(16), Peer(16, rd_ratio=0.25), torch.randn(2, 16, 3, 5)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(picture), theirs(picture))


def published_forward(w: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Tokens after every block, and the normed class token, from the paper's equations and the names of its weights."""

    def norm(value: torch.Tensor, name: str) -> torch.Tensor:
        centred = value - value.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(value: torch.Tensor, name: str) -> torch.Tensor:
        return value @ w[f"{name}.weight"].flatten(1).T + w[f"{name}.bias"]

    for stage in range(4):
        x = F.conv2d(x, w[f"patch_embed.proj.{2 * stage}.0.weight"], stride=2, padding=1)
        x = F.gelu(x) if stage < 3 else x
    batch, width, rows, columns = x.shape
    tokens, seen = x.reshape(batch, width, -1).mT, []
    for block in range(3):
        name = f"blocks.{block}"
        inner = F.gelu(linear(norm(tokens, f"{name}.norm1"), f"{name}.attn.qkv_pos.0"))
        picture = inner.mT.reshape(batch, width, rows, columns)
        part = f"{name}.attn.qkv_pos"
        picture = F.gelu(F.conv2d(picture, w[f"{part}.2.weight"], w[f"{part}.2.bias"], padding=1, groups=width))
        squeezed = linear(picture.mean((2, 3)), f"{part}.4.conv_reduce").clamp_min(0)
        factors = torch.sigmoid(linear(squeezed, f"{part}.4.conv_expand"))
        inner = linear(picture.reshape(batch, width, -1).mT * factors[:, None], f"{part}.5")
        tokens = tokens + w[f"{name}.gamma_1"] * inner
        seen.append(tokens)
    cls, name = w["cls_token"].expand(batch, 1, width), "blocks_token_only.0"
    joined = norm(torch.cat((cls, tokens), 1), f"{name}.norm1")
    query, key, value = (linear(joined, f"{name}.attn.{part}") for part in "qkv")
    weights = (query[:, :1] @ key.mT * width**-0.5).softmax(-1)
    cls = cls + w[f"{name}.gamma_1"] * linear(weights @ value, f"{name}.attn.proj")
    inner = linear(F.gelu(linear(norm(cls, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
    return seen, norm(cls + w[f"{name}.gamma_2"] * inner, "norm")[:, 0]


@torch.no_grad()
def test_the_forward_pass_is_the_published_one():
    network = PatchConvNet(32, 3).eval()
    for value in network.state_dict().values():
        value.uniform_(-0.4, 0.4)
    frames = torch.randn(2, 3, 48, 32)
    expected, summary = published_forward(network.state_dict(), frames)
    found = network(frames, range(3))
    for (tokens, _), after in zip(found, expected, strict=True):
        assert (tokens - after).abs().max() < 1e-5 * after.abs().max()
    assert (network.summarise(*found[-1]) - summary).abs().max() < 1e-5 * summary.abs().max()


@torch.no_grad()
def test_gathered_constant_tokens_are_their_mean_through_the_projection():
    (gather,) = PatchConvNet(32, 1).blocks_token_only
    tokens = torch.randn(2, 1, 32)
    found = gather.attn(tokens.expand(-1, 9, -1))
    torch.testing.assert_close(found, gather.attn.proj(gather.attn.v(tokens)))
