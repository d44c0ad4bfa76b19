"""Published files give published numbers: outputs, features, losses, gradients and logits to 1e-5 in fp32."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
import published
from mvd_ds.config import ConfigError

CLIP = torch.randn(2, 3, published.FRAMES, published.SIDE, published.SIDE, generator=published.normal(7))
MASK = torch.rand(2, 27, generator=published.normal(8)).argsort(dim=1) < 20
LIMIT = 1e-5

STUDENT = {"embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 2.5, "patch_px": 8}
DECODER = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.25}
VIDEO = {"embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2.5, "patch_px": 8, "position": "sinusoid1d"}
IMAGE = {
    "kind": "image",
    "embed_dim": 40,
    "depth": 3,
    "num_heads": 5,
    "mlp_ratio": 2.5,
    "patch_px": 8,
    "tubelet_frames": 1,
    "position": "sincos2d",
    "qkv_bias": "full",
    "cls_token": True,
}


def student(cls_token: bool = False):
    return mvd_ds.build_student(
        STUDENT | {"cls_token": cls_token}, DECODER, {"image": 40, "video": 48}, published.FRAMES, published.SIDE
    )


def near(value: torch.Tensor, expected: torch.Tensor) -> bool:
    return (value - expected).abs().max().item() <= LIMIT * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("cls_token", [False, True])
def test_student(cls_token):
    state, model = published.mvd_student(cls_token=cls_token), student(cls_token)
    checkpoint = mvd_ds.load(model, {"model": state})
    assert checkpoint.layout.name == "mvd"
    expected = published.student_outputs(state, CLIP, MASK)
    outputs = model(CLIP, MASK)
    assert near(outputs["image"], expected[0]) and near(outputs["video"], expected[1])


def test_teachers():
    video = mvd_ds.build_teacher(VIDEO, published.FRAMES, published.SIDE)
    mvd_ds.load(video, {"model": published.videomae()})
    assert near(video(CLIP), published.video_features(published.videomae(), CLIP))
    image = mvd_ds.build_teacher(IMAGE, published.FRAMES, published.SIDE)
    mvd_ds.load(image, {"model": published.mae()})
    assert near(image(CLIP), published.image_features(published.mae(), CLIP))


def test_an_image_teacher_on_another_grid_counts_its_positions_from_zero(caplog):
    """MAE-H/14 runs at 196 px on positions 0..13 of a table that was made for 16 x 16."""
    state = published.mae(side=4, patch=6)
    teacher = mvd_ds.build_teacher(IMAGE | {"patch_px": 6, "input_px": 18}, published.FRAMES, published.SIDE)
    with caplog.at_level("INFO"):
        mvd_ds.load(teacher, state)
    clip = torch.randn(2, 3, published.FRAMES, 18, 18)
    assert near(teacher(clip), published.image_features(state, clip))
    assert "positions computed for grid (1, 3, 3); the file was made on (1, 4, 4)" in caplog.text


@pytest.mark.parametrize("normalise", [False, True])
def test_losses_and_gradients(normalise):
    state = {name: value.requires_grad_("pos_embed" not in name) for name, value in published.mvd_student().items()}
    features = {"image": published.image_features(published.mae(), CLIP)}
    features["video"] = published.video_features(published.videomae(), CLIP)
    expected = []
    for name, output in zip(features, published.student_outputs(state, CLIP, MASK), strict=True):
        target = features[name][MASK].reshape(2, -1, output.shape[-1])
        if normalise:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        expected.append(torch.nn.functional.smooth_l1_loss(output, target))
    sum(expected).backward()

    model = student()
    mvd_ds.load(model, {name: value.detach() for name, value in state.items()})
    losses = mvd_ds.distillation_loss(model(CLIP, MASK), features, MASK, normalise=normalise)
    for value, wanted in zip(losses.values(), expected, strict=True):
        assert near(value, wanted)
    sum(losses.values()).backward()
    gradients = mvd_ds.export_gradients(model, "mvd")
    assert gradients.keys() == {name for name in state if "pos_embed" not in name}
    for name, gradient in gradients.items():
        assert near(gradient, state[name].grad), name


@pytest.mark.parametrize("family", ["mvd", "videomae"])
def test_classifiers(family):
    state = published.finetuned()
    table = published.sincos3d(48) if family == "mvd" else published.sinusoid1d(48, 27)
    position = "sincos3d" if family == "mvd" else "sinusoid1d"
    model = mvd_ds.build_classifier(VIDEO | {"position": position}, 11, published.FRAMES, published.SIDE)
    mvd_ds.load(model, state)
    assert near(model(CLIP), published.logits(state, CLIP, table))
    assert not near(model(CLIP), published.logits(state, CLIP, table.flip(0)))


def test_open_model_needs_only_what_the_file_does_not_say():
    clip = {"frames": published.FRAMES, "size_px": published.SIDE}
    model, checkpoint = mvd_ds.open_model(published.mvd_student(), encoder={"num_heads": 4}, decoder={"num_heads": 2})
    assert near(model(CLIP, MASK)["video"], published.student_outputs(published.mvd_student(), CLIP, MASK)[1])
    assert checkpoint.grids == dict.fromkeys(("encoder", "image", "video"), published.GRID)
    with pytest.raises(ConfigError, match=r"does not say how many heads the encoder has; .* convert .* FOLDER --heads COUNT"):
        mvd_ds.open_model(published.mvd_student())
    with pytest.raises(ConfigError, match="how many heads its decoders have"):
        mvd_ds.open_model(published.mvd_student(), encoder={"num_heads": 4})
    with pytest.raises(ConfigError, match="set format=videomae_finetuned or format=mvd_finetuned"):
        mvd_ds.open_model(published.finetuned(), encoder={"num_heads": 3})
    model, _ = mvd_ds.open_model(published.finetuned(), "videomae_finetuned", {"num_heads": 3}, clip=clip)
    assert near(model(CLIP), published.logits(published.finetuned(), CLIP, published.sinusoid1d(48, 27)))


def test_precision_of_the_tables():
    model = student()
    for name, width in (("encoder", 48), ("decoders.image", 32)):
        assert (model.get_submodule(f"{name}.position").table - published.sincos3d(width)).abs().max() < 1e-7
