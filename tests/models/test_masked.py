"""Encoder and decoders together, against the published definition written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import mvd_ds
from mvd_ds.config import ConfigError, DecoderSettings, EncoderSettings, HeadShape
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.readouts import Decoder
from mvd_ds.runs.student import build_predictor

PUBLISHED_DECODERS = [
    ("small", DecoderSettings(embed_dim=384, num_heads=6, depth=2), 768, 4.0),
    ("base", DecoderSettings(depth=2), 768, 15.4),
    ("base", DecoderSettings(depth=2), 1024, 15.6),
    ("large", DecoderSettings(embed_dim=512, num_heads=8, depth=4), 1024, 13.7),
    ("huge", DecoderSettings(embed_dim=640, num_heads=8, depth=8), 1280, 41.0),
]


@pytest.mark.parametrize(("size", "decoder", "output", "millions"), PUBLISHED_DECODERS)
def test_parameters_of_published_decoders(size, decoder, output, millions):
    with torch.device("meta"):
        built = Decoder(HeadShape(output, decoder), EncoderSettings(size=size), (8, 14, 14))
    assert round(sum(parameter.numel() for parameter in built.parameters()) / 1e6, 1) == millions


def norm(x, weights, name):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def block(x, weights, name, heads):
    """One block as section 1.1 describes it: separate q and v bias, queries scaled first, plain softmax."""
    width = x.shape[-1]
    attention = f"{name}.attention"
    zero = torch.zeros(width)
    bias = torch.cat((weights[f"{attention}.qkv.q_bias"], zero, weights[f"{attention}.qkv.v_bias"]))
    qkv = norm(x, weights, f"{name}.norm_attention") @ weights[f"{attention}.qkv.weight"].T + bias
    q, k, v = qkv.reshape(*x.shape[:2], 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = ((q * (width // heads) ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
    x = x + linear((scores @ v).transpose(1, 2).reshape(x.shape), weights, f"{attention}.projection")
    hidden = F.gelu(linear(norm(x, weights, f"{name}.norm_mlp"), weights, f"{name}.mlp.expand"))
    return x + linear(hidden, weights, f"{name}.mlp.contract")


def published_forward(model: MaskedPredictor, clip, mask, name):
    """Section 1.1 for one target: embed all, add positions, boolean masks; decode visible tokens, then mask tokens."""
    weights = {key: value.detach() for key, value in model.named_parameters()}
    encoder, decoder = model.encoder, model.decoders[name]
    batch, stride = len(clip), weights["encoder.patch_embed.weight"].shape[2:]
    x = F.conv3d(clip, weights["encoder.patch_embed.weight"], weights["encoder.patch_embed.bias"], stride=tuple(stride))
    x = x.flatten(2).transpose(1, 2) + encoder.position.table
    x = x[~mask].reshape(batch, -1, x.shape[-1])
    for index in range(encoder.settings.depth):
        x = block(x, weights, f"encoder.blocks.{index}", encoder.settings.num_heads)
    x = linear(norm(x, weights, "encoder.norm"), weights, f"decoders.{name}.projection")
    table = decoder.position.table.expand(batch, -1, -1)
    hidden = weights[f"decoders.{name}.mask_token.weight"] + table[mask].reshape(batch, -1, x.shape[-1])
    x = torch.cat((x + table[~mask].reshape(batch, -1, x.shape[-1]), hidden), dim=1)
    for index in range(len(decoder.blocks)):
        x = block(x, weights, f"decoders.{name}.blocks.{index}", 3)
    x = norm(x[:, -hidden.shape[1] :], weights, f"decoders.{name}.norm")
    return linear(x, weights, f"decoders.{name}.head")


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_model_equals_the_published_definition(recipe, masks, kernel, relative_error):
    model = build_predictor(recipe(model={"attention": kernel}))
    for parameter in model.parameters():  # biases and norms too, which start as constants
        torch.nn.init.normal_(parameter, std=0.2)
    clip = torch.randn(2, 3, 4, 32, 32)
    visible, masked = masks(2, 1, 32, 8)
    mask = torch.zeros(2, 32, dtype=torch.bool).scatter(1, masked[:, 0], True)
    predictions = model(clip, visible, masked)
    assert list(predictions) == ["image", "video"]
    for name, width in (("image", 24), ("video", 40)):
        assert predictions[name].shape == (2, 24, width)
        assert relative_error(predictions[name], published_forward(model, clip, mask, name)) < 1e-5


def test_eager_and_sdpa_give_the_same_gradients(recipe, masks, relative_error):
    clip, (visible, masked) = torch.randn(2, 3, 4, 32, 32), masks(2, 2, 32, 8)
    gradients = {}
    for kernel in ("eager", "sdpa"):
        model = build_predictor(recipe(model={"attention": kernel}))
        predictions = model(clip, visible, masked)
        sum(prediction.square().mean() for prediction in predictions.values()).backward()
        gradients[kernel] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert relative_error(gradients["sdpa"], gradients["eager"]) < 1e-6


def test_several_masks_equal_separate_calls(recipe, masks, relative_error):
    model = build_predictor(recipe(model={"drop_path": 0.5}, decoder={"drop_path": 0.3}))
    assert model.drop_path_blocks == 3 + 2 + 2
    clip, (visible, masked) = torch.randn(2, 3, 4, 32, 32), masks(2, 3, 32, 8)
    uniforms = torch.rand(2, 3, model.drop_path_blocks)
    together = model(clip, visible, masked, uniforms)
    for k in range(3):
        part = slice(k, k + 1)
        alone = model(clip, visible[:, part], masked[:, part], uniforms[:, part])
        for name, prediction in together.items():
            assert relative_error(prediction.unflatten(0, (2, 3))[:, k], alone[name]) < 1e-6


def test_predictions_keep_the_order_of_masked(recipe, masks, relative_error):
    model = build_predictor(recipe())
    clip, (visible, masked) = torch.randn(1, 3, 4, 32, 32), masks(1, 1, 32, 8)
    forward, backward = model(clip, visible, masked), model(clip, visible, masked.flip(-1))
    for name in forward:
        assert relative_error(backward[name].flip(1), forward[name]) < 1e-6


BOTH = {"image", "video"}


@pytest.mark.parametrize(
    ("encoder_rate", "decoder_rate", "of_encoder", "of_decoders"),
    [(0.5, None, BOTH, BOTH), (0.5, 0.0, BOTH, set()), (0.0, 0.5, set(), BOTH), (0.0, None, set(), set())],
)
def test_uniforms_go_to_encoder_then_decoders_in_order(recipe, masks, encoder_rate, decoder_rate, of_encoder, of_decoders):
    model = build_predictor(recipe(model={"drop_path": encoder_rate}, decoder={"drop_path": decoder_rate}))
    clip, (visible, masked) = torch.randn(1, 3, 4, 32, 32), masks(1, 1, 32, 8)
    keep = torch.full((1, 1, 7), 0.999)
    plain = model(clip, visible, masked, keep)
    changed = {}
    for index in range(7):
        uniforms = keep.clone()
        uniforms[..., index] = 0.0
        dropped = model(clip, visible, masked, uniforms)
        changed[index] = {name for name in plain if not torch.equal(plain[name], dropped[name])}
    # The first block of every stack has rate 0.
    image, video = of_decoders & {"image"}, of_decoders & {"video"}
    assert changed == {0: set(), 1: of_encoder, 2: of_encoder, 3: set(), 4: image, 5: set(), 6: video}


def test_decoders_share_nothing_and_every_parameter_learns(recipe, masks):
    model = build_predictor(recipe(model={"activation_checkpointing": 1, "cls_token": True}))
    clip, (visible, masked) = torch.randn(2, 3, 4, 32, 32), masks(2, 1, 32, 8)
    model(clip, visible, masked)["image"].square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in model.named_parameters() if name.startswith("decoders.video.")}
    model(clip, visible, masked)["video"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("every", [1, 2])
def test_checkpointing_changes_no_gradient(recipe, masks, every):
    clip, (visible, masked) = torch.randn(2, 3, 4, 32, 32), masks(2, 2, 32, 8)
    gradients = []
    for checkpoint_every in (0, every):
        model = build_predictor(recipe(model={"activation_checkpointing": checkpoint_every, "drop_path": 0.3}))
        uniforms = torch.rand(2, 2, model.drop_path_blocks, generator=torch.Generator().manual_seed(1))
        predictions = model(clip, visible, masked, uniforms)
        sum(prediction.square().mean() for prediction in predictions.values()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


def test_an_image_model_with_a_class_token(image_recipe, masks):
    model = build_predictor(image_recipe)
    visible, masked = masks(3, 2, 16, 4)
    prediction = model(torch.randn(3, 3, 1, 32, 32), visible, masked)
    assert {name: tuple(value.shape) for name, value in prediction.items()} == {"pixels": (6, 12, 3 * 8 * 8)}


def test_bf16_follows_fp32(recipe, masks, relative_error):
    model = build_predictor(recipe(model={"drop_path": 0.2}))
    clip, (visible, masked) = torch.randn(2, 3, 4, 32, 32), masks(2, 1, 32, 8)
    uniforms = torch.rand(2, 1, model.drop_path_blocks)
    expected = model(clip, visible, masked, uniforms)
    out = model.bfloat16()(clip.bfloat16(), visible, masked, uniforms)
    for name in expected:
        assert out[name].dtype == torch.bfloat16
        assert relative_error(out[name].float(), expected[name]) < 3e-2


def test_a_teacher_cannot_have_a_name_that_torch_uses(recipe, video_teacher):
    with pytest.raises(ConfigError, match=r"teachers\.keys: this name is taken by torch; choose another, keys_teacher"):
        build_predictor(recipe(teachers={"keys": video_teacher}))


def test_one_and_three_teachers(recipe, masks, video_teacher):
    visible, masked = masks(1, 1, 32, 8)
    clip = torch.randn(1, 3, 4, 32, 32)
    third = build_predictor(recipe(teachers={"third": video_teacher | {"embed_dim": 64}}))
    assert [value.shape[-1] for value in third(clip, visible, masked).values()] == [24, 40, 64]


STUDENT = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}


@pytest.fixture
def student():
    return mvd_ds.build_student(STUDENT, targets={"video": 24}, frames=4, size_px=16)


def test_a_mask_that_hides_nothing_predicts_nothing(student):
    clip, mask = torch.randn(2, 3, 4, 16, 16), torch.zeros(2, 8, dtype=torch.bool)
    assert student(clip, mask)["video"].shape == (2, 0, 24)
    assert student.encoder(clip, mask).shape == (2, 8, 32)
    with pytest.raises(ConfigError, match="hides no token"):
        mvd_ds.distillation_loss(student(clip, mask), {"video": torch.randn(2, 8, 24)}, mask)


HALF = torch.tensor([True] * 4 + [False] * 4)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (HALF.expand(3, 8), "the mask is of 3 clips, there are 2"),
        (HALF.expand(1, 8), "the mask is of 1 clips, there are 2"),
        (HALF[2:6].expand(2, 4), "the mask is of 4 tokens of a clip, there are 8"),
        (HALF.expand(2, 8).float(), "got float32 (2, 8)"),
        (HALF.expand(2, 8).long(), "got int64 (2, 8)"),
        (HALF, "got bool (8,)"),
        (torch.stack((HALF, ~HALF | HALF)), "every row of a mask hides as many tokens; got [4, 8]"),
    ],
)
def test_masks_that_are_of_something_else(student, mask, words):
    clip = torch.randn(2, 3, 4, 16, 16)
    for call in (student, student.encoder):
        with pytest.raises(ConfigError) as error:
            call(clip, mask=mask)
        assert "\n" not in str(error.value)
        assert words in str(error.value)
    predictions, features = {"video": torch.randn(2, 4, 24)}, {"video": torch.randn(2, 8, 24)}
    with pytest.raises(ConfigError):
        mvd_ds.distillation_loss(predictions, features, mask)


def test_indices_of_other_clips_are_not_broadcast(student):
    with pytest.raises(ConfigError, match=r"visible tokens of 2 clips are a bool mask"):
        student.encoder(torch.randn(2, 3, 4, 16, 16), torch.zeros(1, 1, 3, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.bfloat16])
def test_clips_of_another_type(student, dtype):
    with pytest.raises(ConfigError, match=f"has the type of the weights, float32; got {str(dtype)[6:]}"):
        student(torch.zeros(2, 3, 4, 16, 16, dtype=dtype), HALF.expand(2, 8))


def test_mixed_precision_of_torch_is_left_alone(student):
    with torch.autocast("cpu", torch.bfloat16):
        assert student(torch.zeros(2, 3, 4, 16, 16, dtype=torch.bfloat16), HALF.expand(2, 8))["video"].isfinite().all()


def test_unknown_keys_and_losses_come_with_the_nearest_name(student):
    with pytest.raises(ConfigError, match=r"embed_dims: is not known; did you mean 'embed_dim'\?"):
        mvd_ds.build_encoder(STUDENT | {"embed_dims": 3}, 4, 16)
    with pytest.raises(ConfigError, match=r"loss 'smoth_l1' is not known; did you mean 'smooth_l1'\?"):
        mvd_ds.distillation_loss({"a": torch.zeros(2, 4, 3)}, {"a": torch.zeros(2, 8, 3)}, HALF.expand(2, 8), loss="smoth_l1")


def test_a_checkpoint_is_shown_in_one_short_line(tmp_path, student):
    mvd_ds.save(student, tmp_path / "own")
    assert repr(mvd_ds.read_checkpoint(tmp_path / "own")).startswith("Checkpoint(mvd_ds, ")
    assert len(repr(mvd_ds.read_checkpoint(tmp_path / "own"))) < 200
