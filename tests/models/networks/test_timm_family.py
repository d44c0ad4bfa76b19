"""Any image network of timm teaches: its features on the student's grid, checked against what the recipe states."""

from __future__ import annotations

import pytest
import timm
import torch

import mvd_ds
from mvd_ds.config import ConfigError, validate
from mvd_ds.models import build_teacher
from mvd_ds.models.networks.timm_family import frame_cost
from mvd_ds.runs.student import recipe_flops

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
#: name, side of a frame, width, stride of the features.
NETWORKS = [
    ("vit_tiny_patch16_224", 64, 192, 16),
    ("vit_small_patch14_reg4_dinov2", 56, 384, 14),
    ("vit_small_patch16_dinov3", 64, 384, 16),
    ("vit_base_patch32_clip_224", 64, 768, 32),
    ("vit_base_patch16_siglip_224", 32, 768, 16),
    ("beit_base_patch16_224", 32, 768, 16),
    ("eva02_tiny_patch14_224", 56, 192, 14),
    ("convnextv2_atto", 64, 320, 32),
    ("swin_tiny_patch4_window7_224", 224, 768, 32),
    ("mvitv2_tiny", 224, 768, 32),
    ("pit_ti_224", 224, 256, 32),
    ("tnt_s_patch16_224", 224, 384, 16),
]


def settings(name: str, side: int, width: int, stride: int, **more) -> dict:
    return {"network": f"timm:{name}", "embed_dim": width, "patch_px": stride, "input_px": side, "weights": "random", **more}


@pytest.mark.parametrize(("name", "side", "width", "stride"), NETWORKS, ids=[row[0] for row in NETWORKS])
@torch.no_grad()
def test_features_are_those_of_timm_on_its_own_pixels(name, side, width, stride):
    teacher = mvd_ds.build_teacher(settings(name, side, width, stride), frames=4, tubelet_frames=2, seed=3)
    clip = torch.rand(1, 3, 4, side, side, generator=torch.Generator().manual_seed(1))
    shape = (3, 1, 1, 1)
    features = teacher((clip - MEAN.view(shape)) / STD.view(shape))
    cells = side // stride
    assert features.shape == (1, 2 * cells * cells, width)
    network = teacher.encoder.network
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    frame = ((clip[:, :, 2] - mean) / std).contiguous()
    expected = network.forward_intermediates(
        frame, indices=[len(network.feature_info) - 1], norm=False, intermediates_only=True, output_fmt="NCHW"
    )[0]
    value = features[0, cells * cells :].T.reshape(expected.shape[1:])
    assert (value - expected[0]).abs().max() < 1e-4 * expected.abs().max()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize(("name", "side", "width", "stride"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_operations_are_counted(name, side, width, stride):
    assert frame_cost(name, side).flops > 1e7


def test_operations_of_a_known_network():
    """ViT-B/16 at 224 px: 12 blocks on 197 tokens, and the patch embedding."""
    counted = frame_cost("vit_base_patch16_224", 224).flops
    assert counted == pytest.approx(2 * (12 * (12 * 197 * 768**2 + 2 * 197**2 * 768) + 196 * 768 * 768), rel=1e-3)


@torch.no_grad()
def test_final_norm_and_several_blocks():
    target = {"blocks": [-1, 3], "norm": "final"}
    teacher = mvd_ds.build_teacher(settings("vit_tiny_patch16_224", 64, 192, 16, target=target), frames=2)
    network, frame = teacher.encoder.network, torch.randn(1, 3, 64, 64)
    scaled = (frame * STD.view(3, 1, 1) + MEAN.view(3, 1, 1) - 0.5) / 0.5
    last, early = (
        network.forward_intermediates(scaled, indices=[index], norm=True, intermediates_only=True, output_fmt="NLC")[0]
        for index in (11, 3)
    )
    clip = frame.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    torch.testing.assert_close(teacher(clip), (last + early) / 2, atol=1e-5, rtol=1e-4)


def test_stated_mean_and_deviation_win():
    own = {"input_mean": list(MEAN.tolist()), "input_std": list(STD.tolist())}
    teacher = mvd_ds.build_teacher(settings("vit_tiny_patch16_224", 64, 192, 16, **own), frames=2)
    assert not teacher.encoder.pixels.is_needed
    assert mvd_ds.build_teacher(settings("vit_tiny_patch16_224", 64, 192, 16), frames=2).encoder.pixels.is_needed


@torch.no_grad()
def test_a_recipe_with_a_resized_grid(recipe):
    values = settings("convnextv2_atto", 64, 320, 32, resize="bilinear")
    chosen = recipe(teachers={"conv": values})
    teacher = build_teacher("conv", chosen.teachers["conv"], chosen)
    assert teacher(torch.randn(1, 3, 4, 64, 64)).shape == (1, 32, 320)
    assert validate({**chosen.model_dump(mode="json", by_alias=True)}, "again") == chosen
    flops = recipe_flops(chosen).teachers["conv"]
    assert flops % 2 == 0 and 1e6 < flops < 1e9


@torch.no_grad()
def test_weights_from_a_file(tmp_path):
    torch.manual_seed(5)
    network = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)
    torch.save({"model": network.state_dict()}, tmp_path / "vit.pth")
    values = settings("vit_tiny_patch16_224", 64, 192, 16, weights=str(tmp_path / "vit.pth"))
    loaded = mvd_ds.build_teacher(values, frames=2).encoder.network
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    # Another resolution: learned positions are resized, bicubic.
    larger = mvd_ds.build_teacher(values | {"input_px": 96}, frames=2).encoder.network
    assert larger.pos_embed.shape == (1, 37, 192)
    assert torch.equal(larger.blocks[0].attn.qkv.weight, network.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("blocks.3.norm1.weight"), "1 missing: blocks.3.norm1.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "1 unexpected: extra"),
        (lambda state: state["norm.bias"].fill_(torch.nan), "1 not finite: norm.bias"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, words):
    state = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).state_dict()
    change(state)
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(ConfigError) as error:
        mvd_ds.build_teacher(settings("vit_tiny_patch16_224", 64, 192, 16, weights=str(tmp_path / "vit.pth")), frames=2)
    assert words in str(error.value) and str(error.value).startswith("teachers.teacher.weights ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": "timm:vit_tinny"}, "timm has no network 'vit_tinny'; near it are "),
        ({"embed_dim": 384}, "embed_dim is 192 there and 384 in the recipe"),
        ({"patch_px": 8}, "its grid at 64 px is (4, 4) there and (8, 8) in the recipe (set feature_grid)"),
        ({"target": {"blocks": [12]}}, "[12] are outside the 12 features"),
        ({"depth": 12}, "says itself what its depth is: remove it"),
        ({"size": "base"}, "says itself what its size is: remove it"),
        ({"network": "vit"}, "network: String should match pattern"),
        (
            {"network": None, "depth": 2, "num_heads": 2, "input_mean": [0, 0, 0]},
            "input_mean is for teachers of timm",
        ),
        ({"weights": "nowhere.pth"}, "nowhere.pth: there is no such file or folder"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises(ConfigError) as error:
        mvd_ds.build_teacher(settings("vit_tiny_patch16_224", 64, 192, 16) | change, frames=2)
    assert words in str(error.value) and "\n" not in str(error.value)
