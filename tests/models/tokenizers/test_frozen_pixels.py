"""Tokenizers of clips in a student's run: their own encoder is the teacher, and its codes are those of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvd_ds.config import ConfigError
from mvd_ds.config.tokenizers.card import require_same_teacher
from mvd_ds.models.formats import describe, read_checkpoint
from mvd_ds.models.teachers import build_teacher
from mvd_ds.models.tokenizers.folder import MEAN, VECTORS, read_tokenizer
from mvd_ds.runs.tokenizers.learn import plan_tokenizer
from small_tokenizers import FRAMES, NETWORK, PIXELS, student_of_pixels, tokenizer_recipe, write_tokenizer

PREFIXED = PIXELS | {"model": {**NETWORK, "depth": 2, "cls_token": True, "registers": 2}}
NORMLESS = PIXELS | {"model": {**NETWORK, "depth": 2, "final_norm": False}}


def _more(recipe: Any) -> dict[str, Any]:
    own = {key: getattr(recipe.model, key) for key in ("cls_token", "registers", "final_norm")}
    return own if recipe.model.final_norm else own | {"target": {"kind": "codes", "codebook": "", "norm": "none"}}


@pytest.mark.parametrize("changed", [PIXELS, FRAMES, PREFIXED, NORMLESS], ids=["tubelets", "frames", "class token", "no norm"])
def test_codes_of_a_student_are_those_of_the_training(changed: dict[str, Any], tmp_path: Path) -> None:
    recipe = tokenizer_recipe(**changed)
    folder = write_tokenizer(tmp_path / "tokenizer", recipe)
    more = _more(recipe)
    if "target" in more:
        more["target"]["codebook"] = str(folder)
    student = student_of_pixels(folder, recipe, **more)
    clip = torch.randn(2, 3, 8, 48, 48, generator=torch.Generator().manual_seed(0))
    codes = build_teacher("video", student.teachers["video"], student)(clip)
    seen = clip if recipe.model.kind == "video" else clip[:, :, ::2].transpose(1, 2).flatten(0, 1).unsqueeze(2)
    tensors = load_file(folder / "model.safetensors")
    given = plan_tokenizer(recipe).build().eval()(seen, tensors[VECTORS])
    distances = (given["encoded"][:, :, None] - tensors[VECTORS]).square().sum(-1)
    nearest = distances.argmin(-1).reshape(2, -1)
    assert isinstance(codes, torch.Tensor) and codes.shape == (2, 64, 1) and len(codes.unique()) > 2
    assert torch.equal(codes[..., 0], nearest), "a brute-force argmin"
    assert torch.equal(given["codes"].reshape(2, -1), nearest) and MEAN not in tensors


def test_another_network_or_reading_is_told_with_every_difference(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe(**PIXELS))
    target = {"kind": "codes", "codebook": str(folder)}
    for changed, difference in (
        ({"position": "sinusoid1d"}, "position: sincos3d -> sinusoid1d"),
        ({"target": target}, "target.norm: final -> none"),
        ({"weights": "random"}, "weights: a file -> random"),
    ):
        student = student_of_pixels(folder, tokenizer_recipe(**PIXELS), **changed)
        with pytest.raises(
            ConfigError, match=rf"has an encoder of its own, and teachers.video is another .*{difference}.*weights: "
        ):
            require_same_teacher(student, "video", student.teachers["video"].target, "setting")


def test_its_encoder_is_one_for_any_use(tmp_path: Path) -> None:
    recipe = tokenizer_recipe(**PIXELS)
    folder = write_tokenizer(tmp_path / "tokenizer", recipe)
    checkpoint = read_checkpoint(folder)
    network = describe(checkpoint)
    assert (network.encoder.depth, network.encoder.num_heads, network.grid) == (2, 2, recipe.grid)
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, stored[name.replace("encoder.", "pixels.", 1)]) for name, value in checkpoint.state.items())
    other = write_tokenizer(tmp_path / "other", tokenizer_recipe())
    with pytest.raises(ConfigError, match=r"other: is a tokenizer of a teacher's tokens, and has no encoder of clips"):
        read_checkpoint(other)


def test_damage_of_its_encoder_is_told_by_name(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe(**PIXELS))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["pixels.norm.weight"]
    save_file(tensors, path)
    with pytest.raises(ConfigError, match=r"pixels.norm.weight is none there, and its recipe asks for \(32,\)"):
        read_tokenizer(folder)
