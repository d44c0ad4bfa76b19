"""Targets: order of pixels, normalisation against loops in numpy, gathering."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import Float32
from torch import Tensor

from mvd_ds.config import ConfigError, HeadShape, PixelSettings, TrainingRecipe, validate
from mvd_ds.objectives.targets import (
    TARGETS,
    Places,
    Target,
    build_targets,
    gather_masked,
    head_shapes,
    normalise_tokens,
    patchify,
    pixel_targets,
    predicted_pixels,
    unpatchify,
)
from mvd_ds.objectives.terms import combine


def _clip(frames: int = 4, side: int = 8) -> Tensor:
    return torch.rand(2, 3, frames, side, side, generator=torch.Generator().manual_seed(0))


def _patches_by_loops(clip: np.ndarray, tubelet: int, patch: int) -> np.ndarray:
    """(B, N, frame, row, column, colour), written without reshapes."""
    b, c, frames, height, width = clip.shape
    tokens = []
    for t in range(0, frames, tubelet):
        for y in range(0, height, patch):
            for x in range(0, width, patch):
                block = np.empty((b, tubelet, patch, patch, c))
                for frame in range(tubelet):
                    for row in range(patch):
                        for column in range(patch):
                            block[:, frame, row, column] = clip[:, :, t + frame, y + row, x + column]
                tokens.append(block)
    return np.stack(tokens, axis=1)


@pytest.mark.parametrize(("tubelet", "patch"), [(2, 4), (1, 4), (4, 2), (2, 8)])
def test_patchify_orders_tokens_and_pixels_as_documented(tubelet: int, patch: int) -> None:
    clip = _clip()
    expected = _patches_by_loops(clip.numpy(), tubelet, patch)
    np.testing.assert_array_equal(patchify(clip, tubelet, patch).numpy(), expected.reshape(*expected.shape[:2], -1))


def test_targets_have_the_documented_shape_and_type() -> None:
    targets = pixel_targets(_clip().to(torch.bfloat16), 2, 4, PixelSettings())
    assert isinstance(targets, Float32[Tensor, "2 8 96"])


@pytest.mark.parametrize("floor", [0.0, 1e-2])
@pytest.mark.parametrize("normalise", ["per_channel", "joint", "none"])
def test_pixel_targets_equal_the_formulas(normalise: str, floor: float) -> None:
    clip = _clip()
    patches = _patches_by_loops(clip.double().numpy(), 2, 4)
    if normalise == "per_channel":
        axes: tuple[int, ...] = (2, 3, 4)
        deviation = np.sqrt(patches.var(axes, ddof=1, keepdims=True) + floor) + 1e-6
    else:
        axes = (2, 3, 4, 5)
        deviation = np.sqrt(patches.var(axes, ddof=1, keepdims=True) + floor + 1e-6)
    expected = patches if normalise == "none" else (patches - patches.mean(axes, keepdims=True)) / deviation
    got = pixel_targets(clip, 2, 4, PixelSettings(normalise=normalise, variance_floor=floor))
    np.testing.assert_allclose(got.numpy(), expected.reshape(*expected.shape[:2], -1), rtol=2e-4, atol=2e-5)


def test_a_flat_patch_is_zero_and_a_floor_shrinks_its_noise() -> None:
    flat = torch.full((1, 3, 2, 4, 4), 0.5)
    noisy = flat + 1e-3 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    for normalise in ("per_channel", "joint"):
        assert pixel_targets(flat, 2, 4, PixelSettings(normalise=normalise)).abs().max() == 0
        assert pixel_targets(noisy, 2, 4, PixelSettings(normalise=normalise)).std() > 0.5
        assert pixel_targets(noisy, 2, 4, PixelSettings(normalise=normalise, variance_floor=1e-2)).std() < 0.02


def test_pixel_targets_are_golden() -> None:
    """Numbers worked out by hand: pixels 0, 1, 2, 3 in red, all 0.5 in green; variances 5/3 and 0, jointly 1."""
    clip = torch.stack([torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.full((2, 2), 0.5)]).reshape(1, 2, 1, 2, 2)
    per_channel = pixel_targets(clip, 1, 2, PixelSettings(normalise="per_channel")).flatten()
    torch.testing.assert_close(per_channel[0::2], torch.tensor([-1.161894, -0.387298, 0.387298, 1.161894]), rtol=0, atol=2e-6)
    assert per_channel[1::2].abs().max() == 0
    joint = pixel_targets(clip, 1, 2, PixelSettings(normalise="joint")).flatten()
    expected = torch.tensor([-1.0, -0.5, 0.0, -0.5, 1.0, -0.5, 2.0, -0.5]) / (1 + 1e-6) ** 0.5
    torch.testing.assert_close(joint, expected, rtol=0, atol=2e-6)


def test_gather_masked_equals_indexing() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(3, 7, 5, generator=generator)
    masked = torch.stack([torch.randperm(7, generator=generator)[:4].sort().values for _ in range(6)]).view(3, 2, 4)
    gathered = gather_masked(features, masked)
    assert isinstance(gathered, Float32[Tensor, "6 4 5"])
    for clip in range(3):
        for mask in range(2):
            torch.testing.assert_close(gathered[clip * 2 + mask], features[clip][masked[clip, mask]], rtol=0, atol=0)


def test_normalise_tokens_equals_the_formula_in_fp32() -> None:
    features = (torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(3)) * 50 + 7).to(torch.bfloat16)
    x = features.double().numpy()
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    got = normalise_tokens(features)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalise", ["per_channel", "joint", "none"])
def test_predicted_pixels_undo_the_normalisation(normalise: str) -> None:
    settings = PixelSettings(normalise=normalise)
    clip = torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    perfect = pixel_targets(clip, 2, 4, settings)
    pixels = unpatchify(predicted_pixels(perfect, clip, 2, 4, settings), (2, 2, 2), 2, 4)
    assert torch.allclose(pixels, clip, atol=1e-5)
    patch = clip[1, :, 2:4, 4:8, :4]  # token (1, 1, 0)
    flat = unpatchify(predicted_pixels(torch.zeros_like(perfect), clip, 2, 4, settings), (2, 2, 2), 2, 4)[1, :, 2:4, 4:8, :4]
    means = {"per_channel": patch.mean((1, 2, 3)), "joint": patch.mean().expand(3), "none": torch.zeros(3)}[normalise]
    assert torch.allclose(flat, means[:, None, None, None].expand_as(flat), atol=1e-6)


def _recipe(**changes: object) -> TrainingRecipe:
    teacher = {"embed_dim": 48, "depth": 1, "num_heads": 2, "patch_px": 8, "weights": "random"}
    model = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}
    values = {
        "objective": "distillation",
        "data": {"clip": {"frames": 4, "size_px": 32}},
        "model": model,
        "schedule": {"steps": 1},
    }
    raw = {**teacher, "loss": "cosine", "weight": 0.5}
    normed = {**teacher, "embed_dim": 64, "target": {"normalise": True}}
    built = validate({**values, "teachers": {"raw": raw, "normed": normed}, **changes}, "test")
    assert isinstance(built, TrainingRecipe)
    return built


def test_targets_of_a_recipe_know_their_heads_losses_and_state() -> None:
    targets = build_targets(_recipe())
    assert {name: head.width for name, head in head_shapes(_recipe()).items()} == {"raw": 48, "normed": 64}
    assert (targets["raw"].loss, targets["raw"].weight) == ("cosine", 0.5)
    features = torch.randn(2, 3, 64)
    assert targets["raw"](features) is features
    assert torch.equal(targets["normed"](features), normalise_tokens(features))
    assert all(not target.state_dict() and target.flops(100) == 0 for target in targets.values())


def test_pixels_are_the_target_without_teachers() -> None:
    recipe = _recipe(objective="video_reconstruction", teachers={}, pixels={"normalise": "joint"})
    target = build_targets(recipe)["pixels"]
    assert head_shapes(recipe)["pixels"].width == 3 * 2 * 8 * 8 and target.loss == "l2"
    clip = torch.rand(1, 3, 4, 32, 32)
    assert torch.equal(target(clip), pixel_targets(clip, 2, 8, PixelSettings(normalise="joint")))


def test_a_kind_with_another_shape_compares_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class and a row are all that a new kind takes: here the target is one class per token."""

    class Classes(Target):
        losses = ("cross_entropy",)

        def __init__(self, recipe: TrainingRecipe, name: str) -> None:
            super().__init__(name, HeadShape(10), "cross_entropy")

        def forward(self, source: Tensor) -> Tensor:
            return source.argmax(dim=-1)

        def compare(self, prediction: Tensor, target: Tensor, places: Places | None = None) -> Tensor:
            return torch.nn.functional.cross_entropy(prediction.flatten(0, -2), target.flatten())

    monkeypatch.setitem(TARGETS, "features", Classes)
    targets = build_targets(_recipe())
    assert targets["raw"].head.width == 10
    made = {name: target(torch.randn(2, 3, target.head.width)) for name, target in targets.items()}
    total = combine({name: torch.zeros(2, 3, 10) for name in made}, made, targets).total
    assert float(total) == pytest.approx(2 * math.log(10))


def test_a_loss_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target pixels: loss 'smooth_l2' does not fit Target; did you mean 'smooth_l1'\?"):
        Target("pixels", HeadShape(4), "smooth_l2")
