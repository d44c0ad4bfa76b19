"""Recipes of tokenizers: what they mean, and one line for what they cannot mean."""

from __future__ import annotations

from typing import Any

import pytest

from mvd_ds.config import ConfigError, dump, load_recipe, validate
from mvd_ds.config.tokenizers.recipe import TokenizerRecipe
from small_tokenizers import FRAMES, KMEANS, NETWORK, TEACHER, tokenizer_recipe
from small_tokenizers import PIXELS as OF_PIXELS

IMAGE = {**TEACHER, "kind": "image", "tubelet_frames": 1, "position": "sincos2d"}
PIXELS: dict[str, Any] = {"tokenizer": {"codes": 16, "reconstruct": "pixels"}, "pixels": {"normalise": "none"}}


def test_widths_follow_the_method() -> None:
    vq, kmeans = tokenizer_recipe(), tokenizer_recipe(**KMEANS)
    assert (vq.token_width, vq.code_width, vq.reconstructed.width) == (32, 4, 32)
    assert (kmeans.token_width, kmeans.code_width, kmeans.drop_path_blocks) == (32, 32, 0)
    joined = {"blocks": [0, 1], "mode": "concat"}
    assert tokenizer_recipe(teachers={"video": {**TEACHER, "target": joined}}).token_width == 64
    assert tokenizer_recipe(**PIXELS).reconstructed.width == 3 * 2 * 12 * 12


@pytest.mark.parametrize("changed", [{}, OF_PIXELS, FRAMES], ids=["features", "tubelets", "frames"])
def test_it_comes_back_from_its_own_dump(changed: dict[str, Any]) -> None:
    recipe = tokenizer_recipe(**changed)
    assert recipe.command == "tokenizer" and validate(dump(recipe), "test") == recipe


def test_an_encoder_of_pixels_is_stated_as_a_teacher_would_be() -> None:
    recipe = tokenizer_recipe(**OF_PIXELS)
    assert (recipe.tokenised, recipe.token_width, recipe.feature_width, recipe.code_width) == (None, 32, 0, 4)
    assert (recipe.teacher.depth, recipe.teacher.target.norm, recipe.standardises, recipe.token_blocks) == (2, "final", False, 0)
    assert recipe.drop_path_blocks == 3 and tokenizer_recipe(**FRAMES).grid == (1, 4, 4)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"masking": {"ratio": 0.5}}, r"hides nothing .* remove masking"),
        ({"labels": {"classes": 3}}, r"remove labels"),
        ({"language": {"text": {}}}, r"remove language"),
        ({"targets": {"cache": "cache"}}, r"targets.cache: a tokenizer learns from the teacher itself"),
        ({"teachers": {"video": {**TEACHER, "loss": "l1", "weight": 2.0}}}, r"compared by their cosine, .* remove loss, weight"),
        ({"decoder": {"attention": "cross"}}, r"sees all tokens: remove decoder.attention"),
        ({"teachers": {}}, r"needs one teacher whose tokens become codes; teachers has none"),
        ({"teachers": {"video": TEACHER, "image": IMAGE}}, r"needs one teacher .* teachers has video, image"),
        ({"teachers": {"video": {**TEACHER, "target": {"standardise": "running"}}}}, r"remove target.standardise"),
        ({"teachers": {"video": {**TEACHER, "target": {"blocks": [0, 1], "mode": "each"}}}}, r"remove target.mode each"),
        ({"model": {**NETWORK, "depth": 0, "embed_dim": 64}}, r"model.embed_dim must be 32, .* got 64"),
        ({"model": {**NETWORK, "depth": 1, "registers": 1}}, r"sees the tokens of its teacher: remove registers"),
        ({"tokenizer": {"method": "kmeans"}}, r"trains no blocks: model.depth must be 0, got 1"),
        ({"tokenizer": {"method": "kmeans", "width": 8}}, r"as wide as tokens: remove width"),
        ({"tokenizer": {"reconstruct": "pixels"}}, r"reconstruct pixels needs pixels"),
        ({**PIXELS, "pixels": {"normalise": "joint"}}, r"pixels.normalise must be none, not joint"),
        ({"tokenizer": {"perceptual": "image"}}, r"set reconstruct=pixels"),
        ({**OF_PIXELS, "teachers": {}}, r"needs image, which tokenizer.perceptual names; teachers has none"),
        ({**OF_PIXELS, "teachers": {**OF_PIXELS["teachers"], "video": TEACHER}}, r"needs image, .* teachers has image, video"),
        (
            {**OF_PIXELS, "tokenizer": {"encode": "pixels"}, "pixels": None, "teachers": {}},
            r"one teacher whose tokens are recons",
        ),
        ({**OF_PIXELS, "model": {**NETWORK, "depth": 0}}, r"trains an encoder of the clip: model.depth must be 1 or more"),
        ({**OF_PIXELS, "tokenizer": {"encode": "pixels", "method": "kmeans"}}, r"one of pixels has to be trained: set method=vq"),
        ({**OF_PIXELS, "model": FRAMES["model"]}, r"codes of single images: data.clip.frames must be 1, got 8"),
        ({"optimizer": {"base_lr": 1e-3, "min_base_lr": 0.0, "layer_decay": 0.5}}, r"one rate: remove optimizer.layer_decay"),
        ({"tokenizer": {"width": 1}}, r"width.* greater than or equal to 2"),
        ({"model": FRAMES["model"], "data": FRAMES["data"]}, r"the token grid of a video student: model.kind must be video"),
        ({"decoder": {"depth": 0, "drop_path": 0.1}}, r"decoder.drop_path 0.1: decoder.depth is 0, there is no block to drop"),
        ({**KMEANS, "model": {**NETWORK, "depth": 0, "drop_path": 0.2}}, r"model.drop_path 0.2: model.depth is 0"),
    ],
)
def test_what_cannot_be_meant_is_one_line(changed: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as told:
        tokenizer_recipe(**changed)
    assert len(str(told.value).splitlines()) == 1


def test_blocks_of_the_decoder_alone_take_the_rate_of_the_model() -> None:
    model = {**NETWORK, "depth": 0, "drop_path": 0.2}
    assert tokenizer_recipe(model=model).drop_path_blocks == 1
    with pytest.raises(ConfigError, match=r"model.drop_path 0.2: model.depth is 0"):
        tokenizer_recipe(model=model, decoder={"depth": 1, "drop_path": 0.1})


def test_a_perceptual_teacher_sees_the_clip_and_is_no_second_tokeniser() -> None:
    tokenizer = {"codes": 16, "reconstruct": "pixels", "perceptual": "image"}
    recipe = tokenizer_recipe(**PIXELS | {"tokenizer": tokenizer, "teachers": {"image": IMAGE, "video": TEACHER}})
    assert recipe.tokenised == "video"
    for wrong in ({"input_px": 24}, {"placement": "zero3"}):
        with pytest.raises(ConfigError, match=r"teachers.image: (sees the reconstructed clip|gradients pass)"):
            patch = {"patch_px": 6} if "input_px" in wrong else {}
            tokenizer_recipe(**PIXELS | {"tokenizer": tokenizer, "teachers": {"image": IMAGE | wrong | patch, "video": TEACHER}})


def test_the_shipped_tokenizer_is_that_of_beit_v2_but_for_what_its_header_says() -> None:
    """Source: TOKENIZER.md of BEiT v2, on 8 devices of 64 images."""
    recipe = load_recipe("vqkd_base")
    assert isinstance(recipe, TokenizerRecipe)
    settings = recipe.tokenizer
    assert (settings.codes, settings.width, settings.decay, settings.commitment) == (8192, 32, 0.99, 1.0)
    assert settings.standardise == "none"
    assert (recipe.decoder.embed_dim, recipe.decoder.depth, recipe.decoder.num_heads) == (768, 3, 12)
    assert (recipe.batch.global_, recipe.optimizer.betas, recipe.optimizer.weight_decay) == (512, (0.9, 0.99), 1e-4)
    assert recipe.learning_rate[0] == pytest.approx(5e-5) and (recipe.schedule.epochs, recipe.schedule.warmup_epochs) == (100, 10)
