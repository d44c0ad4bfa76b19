"""DHVT: parameters as published, and a forward pass written out from the published names."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mvd_ds.config.networks.frame_networks import FRAME_NETWORKS
from mvd_ds.models.networks.dhvt import Dhvt

#: Millions with the class head. Source: DHVT's README, CIFAR-100 and ImageNet-1K.
PUBLISHED = {
    "tiny_cifar_patch4": (100, 6.0),
    "small_cifar_patch4": (100, 23.4),
    "tiny_cifar_patch2": (100, 5.8),
    "small_cifar_patch2": (100, 22.8),
    "small_imagenet": (1000, 24.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name):
    classes, millions = PUBLISHED[name]
    sizes = {key: value for key, value in FRAME_NETWORKS["dhvt"][name].items() if key != "cls_token"}
    with torch.device("meta"):
        network = Dhvt(**sizes)
    head = classes * (sizes["embed_dim"] + 1)
    assert round((sum(value.numel() for value in network.parameters()) + head) / 1e6, 1) == millions


def random_network(patch: int, heads: int = 3) -> Dhvt:
    network = Dhvt(24, 2, heads, patch).eval()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(-0.4, 0.4)
    for name, value in network.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network


def published_forward(w: dict[str, torch.Tensor], x: torch.Tensor, heads: int, stages: int) -> list[torch.Tensor]:
    """Tokens after every block and the normed class token, from the paper's equations and the names of its weights."""

    def normed(value: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        shape = (1, -1, 1, 1)
        scaled = (value - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)

    def layer_norm(value: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        centred = value - value.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(value: torch.Tensor, name: str) -> torch.Tensor:
        return value @ w[f"{name}.weight"].flatten(1).T + w[f"{name}.bias"]

    x = x * w["patch_embed.pre_affine.alpha"] + w["patch_embed.pre_affine.beta"]
    for stage in range(stages):
        x = normed(
            F.conv2d(x, w[f"patch_embed.proj.{2 * stage}.0.weight"], stride=2, padding=1), f"patch_embed.proj.{2 * stage}.1"
        )
        x = F.gelu(x) if stage < stages - 1 or stages == 1 else x
    x = x * w["patch_embed.post_affine.alpha"] + w["patch_embed.post_affine.beta"]
    batch, width, rows, columns = x.shape
    tokens = torch.cat((w["cls_token"].expand(batch, -1, -1), x.reshape(batch, width, -1).mT), 1)
    seen, d = [], width // heads
    for block in range(2):
        name = f"blocks.{block}"
        inner = layer_norm(tokens, f"{name}.norm1", 1e-6)
        extra = torch.zeros(batch, heads, width)
        for head in range(heads):
            mean = inner[:, :, head * d : (head + 1) * d].mean(1)
            token = linear(mean, f"{name}.attn.ht_proj").view(batch, heads, d)
            extra[:, head] = F.gelu(layer_norm(token, f"{name}.attn.ht_norm", 1e-5)).reshape(batch, width)
        inner = torch.cat((inner, extra + w[f"{name}.attn.pos_embed"]), 1)
        query, key, value = (part.view(batch, -1, heads, d) for part in linear(inner, f"{name}.attn.qkv").chunk(3, -1))
        weights = (torch.einsum("bqhd,bkhd->bhqk", query, key) / d**0.5).softmax(-1)
        mixed = linear(torch.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, -1, width), f"{name}.attn.proj")
        mixed[:, 0] += mixed[:, -heads:].mean(1)
        tokens = tokens + mixed[:, :-heads]
        inner = layer_norm(tokens, f"{name}.norm2", 1e-6)
        mlp = f"{name}.mlp"
        picture = inner[:, 1:].mT.reshape(batch, width, rows, columns)
        wide = F.gelu(normed(F.conv2d(picture, w[f"{mlp}.conv1.weight"], w[f"{mlp}.conv1.bias"]), f"{mlp}.bn1"))
        deep = F.conv2d(wide, w[f"{mlp}.conv2.weight"], w[f"{mlp}.conv2.bias"], padding=1, groups=4 * width)
        wide = wide + F.gelu(normed(deep, f"{mlp}.bn2"))
        picture = normed(F.conv2d(wide, w[f"{mlp}.conv3.weight"], w[f"{mlp}.conv3.bias"]), f"{mlp}.bn3")
        factor = linear(F.gelu(linear(picture.mean((2, 3)), f"{mlp}.compress")), f"{mlp}.excitation")
        tokens = tokens + torch.cat((inner[:, :1] * factor[:, None], picture.reshape(batch, width, -1).mT), 1)
        seen.append(tokens)
    return [*seen, layer_norm(tokens[:, 0], "norm", 1e-6)]


@torch.no_grad()
@pytest.mark.parametrize(("patch", "stages"), [(2, 1), (4, 2), (16, 4)])
def test_the_forward_pass_is_the_published_one(patch, stages):
    network, frames = random_network(patch), torch.randn(2, 3, 3 * patch, 2 * patch)
    *expected, summary = published_forward(network.state_dict(), frames, 3, stages)
    found = network(frames, range(2))
    for (tokens, cls), after in zip(found, expected, strict=True):
        assert (tokens - after[:, 1:]).abs().max() < 1e-5 * after.abs().max()
        assert (cls - after[:, 0]).abs().max() < 1e-5 * after.abs().max()
    assert (network.summarise(*found[-1]) - summary).abs().max() < 1e-5 * summary.abs().max()
