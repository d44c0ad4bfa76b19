"""The encoder: sizes, shapes, masks, and timm as a peer."""

from __future__ import annotations

import pytest
import torch

from mvd_ds.config import EncoderSettings
from mvd_ds.models.vit import VisionTransformer

GRID = (2, 4, 4)


def settings(**changes) -> EncoderSettings:
    return EncoderSettings(**({"embed_dim": 32, "depth": 3, "num_heads": 4, "patch_px": 8} | changes))


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("size", "millions"), [("small", 21.9), ("base", 86.2), ("large", 303.9), ("huge", 631.6)])
def test_parameters_of_published_sizes(size, millions):
    with torch.device("meta"):
        encoder = VisionTransformer(EncoderSettings(size=size), (8, 14, 14))
    assert round(parameters(encoder) / 1e6, 1) == millions


@pytest.mark.parametrize("frames,size_px,patch_px,tubelet", [(4, 32, 8, 2), (6, 21, 7, 3), (3, 28, 14, 1), (2, 16, 16, 2)])
def test_any_geometry_that_divides(frames, size_px, patch_px, tubelet):
    chosen = settings(patch_px=patch_px, tubelet_frames=tubelet)
    grid = chosen.grid(frames, size_px)
    tokens = grid[0] * grid[1] * grid[2]
    encoder = VisionTransformer(chosen, grid)
    clip = torch.randn(2, 3, frames, size_px, size_px)
    assert encoder(clip).shape == (2, tokens, 32)
    assert encoder(clip, torch.zeros(2, 3, 1, dtype=torch.int64)).shape == (6, 1, 32)


@pytest.mark.parametrize("cls_token", [False, True])
def test_several_masks_equal_separate_calls(masks, cls_token, relative_error):
    encoder = VisionTransformer(settings(drop_path=0.5, cls_token=cls_token), GRID)
    clip = torch.randn(2, 3, 4, 32, 32)
    visible, _ = masks(2, 3, 32, 8)
    uniforms = torch.rand(2, 3, 3)
    together = encoder(clip, visible, uniforms).unflatten(0, (2, 3))
    assert together.shape == (2, 3, 8 + cls_token, 32)
    for k in range(3):
        alone = encoder(clip, visible[:, k : k + 1], uniforms[:, k : k + 1])
        assert relative_error(together[:, k], alone) < 1e-6


def test_all_tokens_visible_equals_no_mask(relative_error):
    encoder = VisionTransformer(settings(), GRID)
    clip = torch.randn(2, 3, 4, 32, 32)
    assert relative_error(encoder(clip, torch.arange(32).expand(2, 1, 32)), encoder(clip)) < 1e-6


def test_hidden_pixels_do_not_reach_visible_tokens():
    encoder = VisionTransformer(settings(), GRID)
    clip = torch.randn(1, 3, 4, 32, 32, requires_grad=True)
    visible = torch.tensor([[[0, 5]]])
    (encoder(clip, visible) * torch.randn(2, 32)).sum().backward()
    seen = clip.grad[0].abs().sum(dim=0).unflatten(0, (2, 2)).unflatten(2, (4, 8)).unflatten(4, (4, 8)).sum(dim=(1, 3, 5))
    assert set(seen.flatten().nonzero().flatten().tolist()) == {0, 5}


def test_drop_path_needs_uniforms_and_training(masks):
    encoder = VisionTransformer(settings(drop_path=0.9), GRID)
    clip = torch.randn(1, 3, 4, 32, 32)
    visible, _ = masks(1, 1, 32, 8)
    plain, dropped = encoder(clip, visible), encoder(clip, visible, torch.zeros(1, 1, 3))
    assert not torch.allclose(plain, dropped)
    assert torch.equal(encoder.eval()(clip, visible, torch.zeros(1, 1, 3)), plain)


@pytest.mark.parametrize("position", ["sincos3d", "sinusoid1d"])
def test_eager_and_sdpa_give_the_same_model(masks, position, relative_error):
    visible, _ = masks(2, 2, 32, 8)
    clip = torch.randn(2, 3, 4, 32, 32)
    eager = VisionTransformer(settings(attention="eager", position=position), GRID)
    sdpa = VisionTransformer(settings(attention="sdpa", position=position), GRID)
    sdpa.load_state_dict(eager.state_dict())
    assert relative_error(sdpa(clip, visible), eager(clip, visible)) < 1e-6


def test_class_token_comes_first_and_has_no_position():
    encoder = VisionTransformer(settings(cls_token=True), GRID)
    tokens = encoder.embed(torch.randn(2, 3, 4, 32, 32))
    assert torch.equal(tokens[:, 0], encoder.cls_token.weight[0].expand(2, -1))


def test_timm_is_a_peer_of_the_image_encoder(relative_error, image_teacher):
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    chosen = EncoderSettings(**{key: value for key, value in image_teacher.items() if key != "weights"})
    ours = VisionTransformer(chosen, (1, 4, 4)).eval()
    peer = vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=0, global_pool="", qkv_bias=True
    ).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    names = {
        "patch_embed.proj": "patch_embed",
        "norm1": "norm_attention",
        "norm2": "norm_mlp",
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.projection",
        "fc1": "expand",
        "fc2": "contract",
    }
    weights = {}
    for name, weight in peer.state_dict().items():
        for theirs, own in names.items():
            name = name.replace(theirs, own)
        weights[name] = weight
    weights["cls_token.weight"] = weights.pop("cls_token") + weights.pop("pos_embed")[:, :1]
    weights["patch_embed.weight"] = weights["patch_embed.weight"].unsqueeze(2)
    ours.load_state_dict(weights)
    with torch.no_grad():
        peer.pos_embed[:, 1:] = ours.position.table
    outputs: dict[str, list[torch.Tensor]] = {"ours": [], "peer": []}
    for label, model in (("ours", ours), ("peer", peer)):
        for block in model.blocks:
            block.register_forward_hook(lambda _module, _inputs, output, label=label: outputs[label].append(output))
    image = torch.randn(2, 3, 32, 32)
    last = ours(image.unsqueeze(2)), peer(image)
    for a, b in [*zip(outputs["ours"], outputs["peer"], strict=True), last]:
        assert relative_error(a, b) < 1e-5
