"""Every family of networks has one interface, and a teacher asks nothing else of it."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
from mvd_ds.config import IMAGENET_MEAN
from mvd_ds.models.attention import eager_attention
from mvd_ds.models.networks import NETWORKS, Reads

OURS = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_px": 16, "target": {"blocks": [1]}}
TIMM = {"network": "timm:vit_tiny_patch16_224", "embed_dim": 192, "patch_px": 16, "input_px": 64}


def test_a_row_for_each_family() -> None:
    assert list(NETWORKS) == ["mvd_ds", "timm", "hf", "dhvt", "patchconv", "dvae"]


@pytest.mark.parametrize(("settings", "grid", "frames"), [(OURS, (2, 4, 4), 4), (TIMM, (1, 4, 4), 1)], ids=["ours", "timm"])
@torch.no_grad()
def test_the_interface(settings: dict, grid: tuple[int, int, int], frames: int) -> None:
    network = mvd_ds.build_teacher(settings, frames=4, size_px=64).network
    assert network.grid == grid and network.embed_dim == settings["embed_dim"]
    assert (network.input_mean == IMAGENET_MEAN) == (settings is OURS), "timm's ViT was trained on another mean"
    block = 1 if settings is OURS else 11
    assert network.reads == Reads(blocks=(block,)) and network.reads.last == block
    tokens = network.read(torch.randn(2, 3, frames, 64, 64)).tokens
    assert tokens.keys() == {block} and tokens[block].shape == (2, grid[0] * 16, settings["embed_dim"])


@pytest.mark.parametrize("style", [{}, {"position": "rope3d"}], ids=["plain", "rotary"])
@torch.no_grad()
def test_queries_keys_and_values_are_those_of_attention(style: dict) -> None:
    """Read of the last block, of which nothing else runs, beside the tokens of the block before."""
    more = {"more_targets": {"relations": {"kind": "relations", "blocks": [2]}}}
    network = mvd_ds.build_teacher(OURS | style | more, frames=4, size_px=64).network
    seen: list[torch.Tensor] = []
    encoder, clip = network.module, torch.randn(2, 3, 4, 64, 64)
    hook = encoder.blocks[2].attention.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    reading = network.read(clip)
    assert network.reads == Reads(blocks=(1,), qkv=(2,)) and not network.is_selective and not seen
    encoder(clip)
    hook.remove()
    mixed = eager_attention(reading.qkv[2]).flatten(-2)
    torch.testing.assert_close(encoder.blocks[2].attention.projection(mixed), seen[0])


@pytest.mark.parametrize("settings", [OURS, TIMM], ids=["ours", "timm"])
def test_parameters_have_the_names_of_the_network(settings: dict) -> None:
    teacher = mvd_ds.build_teacher(settings, frames=4, size_px=64)
    assert {name.split(".")[0] for name in teacher.state_dict()} == {"encoder"}
    assert [name.removeprefix("encoder.") for name in teacher.state_dict()] == list(teacher.network.module.state_dict())


@torch.no_grad()
def test_a_selective_network_gives_the_tokens_that_are_wanted() -> None:
    network = mvd_ds.build_teacher(OURS, frames=4, size_px=64).network
    clip, wanted = torch.randn(2, 3, 4, 64, 64), torch.tensor([[0, 5, 31], [7, 8, 9]])
    assert network.is_selective
    expected = network.read(clip).tokens[1].gather(1, wanted[:, :, None].expand(-1, -1, 32))
    torch.testing.assert_close(network.read(clip, wanted).tokens[1], expected)
