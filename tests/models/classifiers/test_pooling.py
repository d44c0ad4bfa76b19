"""One vector per clip: each kind against its formula."""

from __future__ import annotations

import math

import pytest
import torch

import mvd_ds
from mvd_ds.config import ConfigError, EncoderSettings, PoolingSettings
from mvd_ds.models.classifiers.pooling import Pooling, clip_features, encoder_pooling, mean_tokens
from mvd_ds.models.vit import VisionTransformer

TOKENS = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))


def pooled(tokens: torch.Tensor = TOKENS, cls_token: bool = True, heads: int = 3, **settings: object) -> torch.Tensor:
    return Pooling(PoolingSettings(**settings), tokens.shape[2], heads, cls_token)(tokens)


def by_hand(tokens: torch.Tensor, exponents: list[float], eps: float | None = 1e-6) -> torch.Tensor:
    """The formula, number by number, in fp64."""
    batch, count, width = tokens.shape
    tokens = tokens.detach()
    found = torch.empty(batch, width)
    for row in range(batch):
        for channel in range(width):
            p = exponents[channel * len(exponents) // width]
            values = [float(value) if eps is None else max(float(value), eps) for value in tokens[row, :, channel]]
            found[row, channel] = math.fsum(value**p for value in values) ** (1 / p) / count ** (1 / p)
    return found


def test_the_class_token_is_left_out():
    tokens = torch.tensor([[[100.0], [1.0], [3.0]]])
    assert mean_tokens(tokens, cls_token=True).item() == 2.0
    assert mean_tokens(tokens[:, 1:], cls_token=False).item() == 2.0
    assert mean_tokens(tokens.bfloat16(), cls_token=True).dtype == torch.float32


def test_mean_max_and_cls():
    assert torch.equal(pooled(), mean_tokens(TOKENS, True))
    assert torch.equal(pooled(kind="max"), TOKENS[:, 1:].max(1).values)
    assert torch.equal(pooled(kind="cls"), TOKENS[:, 0])
    assert pooled(TOKENS.bfloat16(), kind="max").dtype == torch.float32
    with pytest.raises(ConfigError, match="pooling cls: this encoder has no class token"):
        pooled(cls_token=False, kind="cls")


def test_generalised_means_are_their_formula():
    torch.testing.assert_close(pooled(kind="gem"), by_hand(TOKENS[:, 1:], [3.0]))
    torch.testing.assert_close(pooled(kind="ggem", exponent=2.5), by_hand(TOKENS[:, 1:], [2.5] * 3))
    pooling = Pooling(PoolingSettings(kind="ggem"), 12, 3, False)
    assert pooling.exponents.shape == (3,), "as many as heads"
    with torch.no_grad():
        pooling.exponents.copy_(torch.tensor([1.0, 4.0, 20.0]))
    torch.testing.assert_close(pooling(TOKENS), by_hand(TOKENS, [1.0, 4.0, 20.0]))
    assert Pooling(PoolingSettings(kind="ggem", groups=6), 12, 3, False).exponents.shape == (6,)
    with pytest.raises(ConfigError, match=r"pooling\.groups 5 does not divide the 12 channels"):
        pooled(kind="ggem", groups=5)


@pytest.mark.parametrize("kind", ["gem", "ggem"])
def test_exponent_one_without_the_floor_is_the_mean(kind):
    torch.testing.assert_close(pooled(kind=kind, exponent=1.0, clamp=False), pooled())
    assert not torch.allclose(pooled(kind=kind, exponent=1.0), pooled()), "the floor takes negative channels away"


def test_a_large_exponent_is_the_maximum_and_does_not_overflow():
    tokens = TOKENS.abs() * 1e4
    torch.testing.assert_close(pooled(tokens, kind="gem", exponent=400.0), pooled(tokens, kind="max"), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", ["gem", "ggem"])
def test_exponents_learn_and_gradients_are_those_of_the_formula(kind):
    pooling = Pooling(PoolingSettings(kind=kind), 12, 3, False).double()
    tokens = TOKENS.double().abs().add(0.1).requires_grad_()

    def of(tokens, exponents):
        grouped = tokens.unflatten(2, (len(exponents), -1))
        return (grouped ** exponents[:, None]).mean(1).pow(1 / exponents[:, None]).flatten(1)

    weights = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((pooling(tokens) * weights).sum(), (tokens, pooling.exponents))
    expected = torch.autograd.grad((of(tokens, pooling.exponents) * weights).sum(), (tokens, pooling.exponents))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert one.abs().sum() > 0


def test_a_classifier_pools_before_its_norm_or_after():
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 4, "patch_px": 8}
    clip = torch.randn(2, 3, 4, 16, 16)
    for place in ("before_norm", "after_norm"):
        model = mvd_ds.build_classifier(shape, 5, 4, 16, pooling={"kind": "ggem", "place": place}).eval()
        tokens = model.encoder(clip)
        exponents = [3.0] * 4
        vector = model.norm(by_hand(tokens, exponents)) if place == "before_norm" else by_hand(model.norm(tokens), exponents)
        torch.testing.assert_close(model(clip), model.head(vector), atol=1e-6, rtol=1e-4)


def test_video_features_are_the_mean_of_all_tokens():
    encoder = VisionTransformer(EncoderSettings(embed_dim=32, depth=1, num_heads=4, patch_px=8), (2, 4, 4))
    clip = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(clip_features(encoder, clip), encoder(clip).mean(dim=1))
    largest = clip_features(encoder, clip, encoder_pooling(encoder, PoolingSettings(kind="max")))
    assert torch.equal(largest, encoder(clip).amax(dim=1))


def test_image_features_are_the_mean_over_frames(image_teacher):
    settings = EncoderSettings(**{key: value for key, value in image_teacher.items() if key != "weights"})
    encoder = VisionTransformer(settings, (1, 4, 4))
    clip = torch.randn(2, 3, 5, 32, 32)
    frames = [encoder(clip[:, :, index : index + 1])[:, 1:].mean(dim=1) for index in range(5)]
    torch.testing.assert_close(clip_features(encoder, clip), torch.stack(frames).mean(dim=0))
