"""The losses of tokenizers of clips: what each is, and where its gradients go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from mvd_ds.data.batch import ClipBatch
from mvd_ds.models.teachers import build_teacher
from mvd_ds.models.tokenizers.network import Tokenizer
from mvd_ds.objectives.targets.pixels import patchify, unpatchify
from mvd_ds.runs.tokenizers.learn import make_objective, plan_tokenizer
from mvd_ds.runs.visualization import picture_batch
from mvd_ds.training.step import normalise
from mvd_ds.training.tokenizing import Tokenizing
from small_tokenizers import IMAGE, PIXELS, TEACHER, tokenizer_recipe
from waits import GPU, Copies, Questions, fake_batch, on_fake_gpu

#: VQ-KD as published: an encoder of pixels reconstructs a teacher's features.
FEATURES: dict[str, Any] = {
    "model": PIXELS["model"],
    "tokenizer": {"codes": 16, "width": 4, "encode": "pixels"},
    "teachers": {"video": TEACHER},
}


def _made(recipe: TokenizerRecipe) -> tuple[Tokenizing, Tokenizer, dict[str, Any], ClipBatch]:
    network = plan_tokenizer(recipe).build()
    teachers = {name: build_teacher(name, settings, recipe) for name, settings in recipe.teachers.items()}
    objective = make_objective(recipe, network, teachers, torch.device("cpu"))
    objective.codebook.vectors.copy_(functional.normalize(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), dim=-1))
    objective.codebook.settle(torch.randn(64 * 4, generator=torch.Generator().manual_seed(1)))
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 48, 48), dtype=np.uint8)
    return objective, network, teachers, picture_batch(recipe, {48: torch.from_numpy(clips)})


def test_the_perceptual_loss_is_the_distance_of_features_of_both_clips() -> None:
    recipe = tokenizer_recipe(**PIXELS)
    objective, network, teachers, batch = _made(recipe)
    terms = objective(batch, True)
    unit = batch.views[48].float() / 255
    network.eval()
    given = network(normalise(unit, torch.float32), objective.codebook.vectors)
    made = unpatchify(given["prediction"], recipe.grid, 2, 12)
    teacher = teachers["image"]
    expected = (teacher(normalise(made, torch.float32)) - teacher(normalise(unit, torch.float32))).square().mean()
    assert terms.terms["perceptual"].item() == pytest.approx(expected.item(), rel=1e-4)
    pixels = (given["prediction"] - patchify(unit, 2, 12)).square().mean()
    assert terms.terms["reconstruction"].item() == pytest.approx(pixels.item(), rel=1e-4)
    parts = [terms.terms[name].item() for name in ("reconstruction", "commitment", "perceptual")]
    assert terms.total.item() == pytest.approx(parts[0] + parts[1] + 0.1 * parts[2], rel=1e-5)


def test_its_gradient_passes_the_frozen_teacher_and_the_codes_to_the_encoder() -> None:
    """Without pixels and commitment in the total, all gradients there are come through the teacher."""
    tokenizer = PIXELS["tokenizer"] | {"commitment": 0.0}
    recipe = tokenizer_recipe(**PIXELS | {"tokenizer": tokenizer, "pixels": {"normalise": "none", "loss": {"l2": 1e-12}}})
    objective, network, teachers, batch = _made(recipe)
    objective(batch, False).total.backward()
    assert network.pixels is not None
    first = network.pixels.patch_embed.weight.grad
    assert first is not None and first.abs().max() > 1e-9, "the first layer learns"
    assert network.decoder.head[-1].weight.grad.abs().max() > 1e-9
    assert all(parameter.grad is None for parameter in teachers["image"].parameters())


def test_an_encoder_of_pixels_may_reconstruct_the_features_of_a_teacher() -> None:
    recipe = tokenizer_recipe(**FEATURES)
    assert (recipe.tokenised, recipe.reconstructed.width, recipe.standardises) == ("video", 32, True)
    objective, network, _, batch = _made(recipe)
    assert objective.names == ("reconstruction", "commitment") and objective.reconstructed(torch.zeros(1)) is None
    objective(batch, False).total.backward()
    assert network.pixels is not None and network.pixels.patch_embed.weight.grad is not None


def test_a_single_clip_of_a_micro_batch_counts_as_in_a_whole_one() -> None:
    """Sums of the codebook are of clips, whatever micro batches bring them."""
    recipe = tokenizer_recipe(**PIXELS | {"teachers": {"image": IMAGE}})
    objective, _, _, batch = _made(recipe)
    objective(batch, False)
    whole = objective.codebook.sums.clone()
    objective.codebook.sums.zero_()
    for row in (0, 1):
        views = {view: clips[row : row + 1] for view, clips in batch.views.items()}
        objective(batch._replace(views=views, place=batch.place[row : row + 1], drop_path=batch.drop_path[row : row + 1]), False)
    assert torch.allclose(objective.codebook.sums, whole, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, PIXELS, FEATURES], ids=["tokens", "pixels", "features of pixels"])
def test_no_step_waits_for_a_gpu(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))  # `auto` asks
    recipe = tokenizer_recipe(**settings, engine={"config": "zero1.json", "precision": "bf16"})
    network = plan_tokenizer(recipe).build()
    teachers = {name: build_teacher(name, of, recipe) for name, of in recipe.teachers.items()}
    batch = picture_batch(recipe, {48: torch.zeros(2, 3, 8, 48, 48, dtype=torch.uint8)})
    with FakeTensorMode() as mode:
        for one in (network, *teachers.values()):
            on_fake_gpu(one, mode, torch.bfloat16)
        objective = make_objective(recipe, network, teachers, GPU)
        on_fake_gpu(objective.codebook, mode, torch.float32)
        with Copies(), Questions() as questions:
            assert objective(fake_batch(batch, mode), True).total.device == GPU
    assert not questions.asked
