"""Files of VideoMAE v2: the giant network's shapes, every way its scripts wrap a model, and the dual masking of its decoder.

Names and shapes. Source: VideoMAE v2's ``modeling_pretrain.py`` and ``modeling_finetune.py``. Weights are random here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mvd_ds
import published
from mvd_ds.config import ConfigError
from mvd_ds.models.formats import LAYOUTS, Checkpoint, describe
from published import GIANT, GIANT_DECODER, GIANT_PATCH, State

FRAMES, SIDE = 4, 3 * GIANT_PATCH
CLIP = torch.randn(2, 3, FRAMES, SIDE, SIDE, generator=published.normal(7))
ORDER = torch.rand(2, 18, generator=published.normal(8)).argsort(dim=1)
HIDDEN = ORDER < 14
GEOMETRY = {"frames": FRAMES, "size_px": SIDE}
HEADS = ({"num_heads": GIANT.heads}, {"num_heads": GIANT_DECODER.heads}, GEOMETRY)
ENCODER = {
    "embed_dim": GIANT.width,
    "depth": GIANT.depth,
    "num_heads": GIANT.heads,
    "mlp_ratio": 48 / 11,
    "patch_px": GIANT_PATCH,
    "position": "sinusoid1d",
}
#: What scripts save: by torch alone, by DeepSpeed (also the distilled small and base networks), compiled, parallel, bare.
WRAPPED = {
    "model": lambda state: {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 1199,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="giant", mlp_ratio=48 / 11),
    },
    "module": lambda state: {"module": state, "epoch": 99, "ds_version": "0.8.0"},
    "compiled": lambda state: {"model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}},
    "parallel": lambda state: {"module": {f"module.{name}": tensor for name, tensor in state.items()}},
    "bare": lambda state: state,
}


def pretrained() -> State:
    return published.videomae(4, GIANT, GIANT_DECODER, GIANT_PATCH)


def finetuned() -> State:
    return published.finetuned(5, 71, GIANT, GIANT_PATCH)


def near(value: Tensor, expected: Tensor) -> bool:
    return (value - expected).abs().max().item() <= 1e-5 * max(1.0, expected.abs().max().item())


@pytest.fixture(params=WRAPPED)
def wrap(request):
    return WRAPPED[request.param]


def test_pretraining(wrap, tmp_path: Path):
    torch.save(wrap(pretrained()), tmp_path / "giant.pth")
    model, checkpoint = mvd_ds.open_model(tmp_path / "giant.pth", None, *HEADS)
    assert checkpoint.layout.name == "videomae"
    assert {row.theirs for row in checkpoint.rows if row.ours} == set(pretrained()), "every tensor has its place"
    expected = published.videomae_outputs(pretrained(), CLIP, HIDDEN, HIDDEN, GIANT, GIANT_DECODER)
    assert expected.shape == (2, 14, 3 * 2 * 14**2) and near(model(CLIP, HIDDEN)["pixels"], expected)


def test_the_decoder_may_predict_some_of_the_hidden_tokens():
    model, _ = mvd_ds.open_model(pretrained(), None, *HEADS)
    predicted = ORDER < 7
    visible, asked = (mask.nonzero()[:, 1].reshape(2, 1, -1) for mask in (~HIDDEN, predicted))
    expected = published.videomae_outputs(pretrained(), CLIP, HIDDEN, predicted, GIANT, GIANT_DECODER)
    assert near(model(CLIP, visible, asked)["pixels"], expected)
    whole = published.videomae_outputs(pretrained(), CLIP, HIDDEN, HIDDEN, GIANT, GIANT_DECODER)
    assert not near(whole[predicted[HIDDEN].reshape(2, -1)].reshape(expected.shape), expected)


@pytest.mark.parametrize("family", ["videomae", "finetuned"])
def test_a_teacher(family, wrap, tmp_path: Path):
    state, prefix = (pretrained(), "encoder.") if family == "videomae" else (finetuned(), "")
    torch.save(wrap(state), tmp_path / "giant.pth")
    teacher = mvd_ds.build_teacher(ENCODER, FRAMES, SIDE)
    assert mvd_ds.load(teacher, tmp_path / "giant.pth").layout.name == family
    assert near(teacher(CLIP), published.video_features(state, CLIP, prefix, GIANT))
    other = mvd_ds.build_teacher(ENCODER | {"mlp_ratio": 4.0}, FRAMES, SIDE)
    with pytest.raises(ConfigError, match=r"mlp_ratio is 4\.36\d* there and 4\.0 in the model"):
        mvd_ds.load(other, tmp_path / "giant.pth")


def test_fine_tuned(wrap, tmp_path: Path):
    """Trained under DeepSpeed, such a file holds half precision."""
    half = {name: tensor.half() for name, tensor in finetuned().items()}
    torch.save(wrap(half), tmp_path / "giant.pth")
    model, checkpoint = mvd_ds.open_model(tmp_path / "giant.pth", "videomae_finetuned", HEADS[0], clip=GEOMETRY)
    assert {row.theirs for row in checkpoint.rows if row.ours} == set(half)
    state = {name: tensor.float() for name, tensor in half.items()}
    expected = published.logits(state, CLIP, published.sinusoid1d(GIANT.width, 18), GIANT)
    assert expected.shape == (2, 71) and near(model(CLIP), expected)


@pytest.mark.parametrize("name", ["attn.scale", "gamma_1", "gamma_2"])
def test_variants_that_are_another_network_are_refused(name):
    """Cosine attention learns a scale, layer scale a factor: left out, the numbers would be wrong without a word."""
    for state, prefix in ((pretrained(), "encoder."), (finetuned(), "")):
        extra = f"{prefix}blocks.1.{name}"
        with pytest.raises(ConfigError, match=f"1 unexpected: {extra}$"):
            mvd_ds.open_model(state | {extra: torch.ones(GIANT.width)}, None, *HEADS)


def test_a_lost_tensor_is_named():
    for lost in ("encoder_to_decoder.weight", "mask_token", "encoder.norm.bias", "decoder.blocks.1.mlp.fc2.bias"):
        state = {name: tensor for name, tensor in pretrained().items() if name != lost}
        with pytest.raises(ConfigError, match=lost if lost != "encoder_to_decoder.weight" else "the projection of decoder"):
            mvd_ds.open_model(state, None, *HEADS)


@pytest.mark.parametrize(
    "width, depth, heads, patch, hidden, decoder",
    [
        (384, 12, 6, 16, 1536, (192, 8, 3, 768)),
        (768, 12, 12, 16, 3072, (384, 4, 6, 1536)),
        (1024, 24, 16, 16, 4096, (512, 12, 8, 2048)),
        (1280, 32, 16, 16, 5120, (512, 8, 8, 2048)),
        (1408, 40, 16, 14, 6144, (512, 4, 8, 2234)),
    ],
)
def test_published_sizes_describe_themselves(width, depth, heads, patch, hidden, decoder):
    """Nothing has to be stated for a published size; tensors without memory have the real shapes."""
    with torch.device("meta"):
        state = published.empty_videomae(published.Shape(width, depth, heads, hidden), published.Shape(*decoder), patch)
    layout = LAYOUTS["videomae"]
    ours = {target[0]: tensor for name, tensor in state.items() if (target := layout.target(name)) is not None}
    assert len(ours) == len(state)
    network = describe(Checkpoint(layout, "giant.pth", ours, []))
    found, theirs = network.encoder, network.decoder
    assert (found.embed_dim, found.depth, found.num_heads, found.patch_px) == (width, depth, heads, patch)
    assert int(found.embed_dim * found.mlp_ratio) == hidden and found.position == "sinusoid1d" and not found.cls_token
    assert theirs is not None and not theirs.projection_bias
    assert (theirs.embed_dim, theirs.depth, theirs.num_heads, int(theirs.embed_dim * theirs.mlp_ratio)) == decoder
    assert network.outputs == {"pixels": 3 * 2 * patch**2} and network.grid == (8, 224 // patch, 224 // patch)
