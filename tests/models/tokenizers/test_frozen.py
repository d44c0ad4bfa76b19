"""Frozen tokenizers: the codes that a teacher gives are those of the training's network, whatever it computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvd_ds.config import ConfigError, TrainingRecipe, dump, validate
from mvd_ds.models.teachers import build_teacher
from mvd_ds.models.tokenizers.folder import DEVIATION, MEAN, VECTORS, read_tokenizer
from mvd_ds.models.tokenizers.frozen import PlannedTokenizer
from mvd_ds.models.tokenizers.network import Tokenizer
from mvd_ds.runs.tokenizers.learn import plan_tokenizer
from small_tokenizers import KMEANS, TEACHER, student_recipe, tokenizer_recipe, write_tokenizer

PLAIN = {"tokenizer": {"codes": 16, "width": 4, "standardise": "none"}}


@pytest.mark.parametrize("changed", [{}, PLAIN, KMEANS], ids=["vq", "not standardised", "kmeans"])
def test_codes_of_a_teacher_are_those_of_the_training(changed: dict[str, Any], tmp_path: Path) -> None:
    recipe = tokenizer_recipe(**changed)
    folder = write_tokenizer(tmp_path / "tokenizer", recipe)
    student = student_recipe(folder)
    clip = torch.randn(2, 3, 8, 48, 48, generator=torch.Generator().manual_seed(0))
    codes = build_teacher("video", student.teachers["video"], student)(clip)
    features = build_teacher("video", recipe.teachers["video"], recipe)(clip)
    tensors = load_file(folder / "model.safetensors")
    tokens = (features - tensors[MEAN]) / (tensors[DEVIATION] + 1e-6) if MEAN in tensors else features
    network = plan_tokenizer(recipe).build().eval()
    given = network(tokens, tensors[VECTORS])
    assert isinstance(codes, torch.Tensor) and codes.dtype == torch.int64 and codes.shape == (2, 64, 1)
    assert torch.equal(codes[..., 0], given["codes"])
    distances = (given["encoded"][:, :, None] - tensors[VECTORS]).square().sum(-1)
    assert torch.equal(codes[..., 0], distances.argmin(-1)), "a brute-force argmin"


def test_vectors_and_scales_stay_fp32_in_a_teacher_of_bf16(tmp_path: Path) -> None:
    tokenizer = PlannedTokenizer(str(write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe()))).build()
    whole = {name: value.clone() for name, value in tokenizer.named_buffers()}
    tokenizer.to(torch.bfloat16)
    assert {value.dtype for value in tokenizer.parameters()} == {torch.bfloat16}
    assert all(torch.equal(tokenizer.get_buffer(name), value) for name, value in whole.items() if "position" not in name)
    assert tokenizer(torch.randn(1, 64, 32)).shape == (1, 64, 1)


def test_tokens_by_themselves_need_no_others(tmp_path: Path) -> None:
    """Of k-means the teacher is asked for masked tokens alone, and their codes are those of a whole pass."""
    student = student_recipe(write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe(**KMEANS)))
    teacher = build_teacher("video", student.teachers["video"], student)
    clip = torch.randn(2, 3, 8, 48, 48, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([[3, 60, 7], [0, 1, 2]])
    everything = teacher(clip)
    assert torch.equal(teacher(clip, wanted), everything.gather(1, wanted[..., None]))


def test_a_prediction_passes_gradients_straight_through() -> None:
    recipe = tokenizer_recipe()
    network = plan_tokenizer(recipe).build()
    given = network(torch.randn(2, 64, 32), torch.nn.functional.normalize(torch.randn(16, 4), dim=-1))
    assert not given["chosen"].requires_grad
    given["prediction"].square().sum().backward()
    assert network.encoder.to_code is not None and network.encoder.to_code[0].weight.grad.abs().max() > 0


def test_damage_is_told_by_name(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe())
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for wrong, line in (
        (
            {**tensors, VECTORS: tensors[VECTORS][:3].clone()},
            r"codebook.vectors is \(3, 4\) there, and its recipe asks for \(16, 4\)",
        ),
        ({**tensors, "more": torch.zeros(2)}, r"more is \(2,\) there, and its recipe asks for none"),
        ({**tensors, VECTORS: tensors[VECTORS] * float("nan")}, "codebook.vectors has values that are not finite"),
    ):
        save_file(wrong, path)
        with pytest.raises(ConfigError, match=line):
            read_tokenizer(folder)


@pytest.mark.parametrize("network", [None, "timm:test_vit"])
def test_a_tokenizer_in_a_teacher_evaluates_and_does_not_learn(network: str | None, tmp_path: Path) -> None:
    other = (
        {}
        if network is None
        else {"network": network, "embed_dim": 64, "patch_px": 16, "resize": "bilinear", "weights": "random"}
    )
    teachers = {"video": TEACHER if network is None else other}
    student = student_recipe(write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe(teachers=teachers)))
    values = dump(student)
    values["teachers"]["video"] = teachers["video"] | {"target": values["teachers"]["video"]["target"]}
    made = validate(values, "test")
    assert isinstance(made, TrainingRecipe)
    teacher = build_teacher("video", made.teachers["video"], made)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters()) and len(teacher.tokenizers) == 1


def test_an_image_teacher_has_a_code_for_every_token_of_the_clip(tmp_path: Path) -> None:
    image = {**TEACHER, "kind": "image", "tubelet_frames": 1, "position": "sincos2d"}
    folder = write_tokenizer(tmp_path / "tokenizer", tokenizer_recipe(teachers={"video": image}))
    student = student_recipe(folder, **image)
    codes = build_teacher("video", student.teachers["video"], student)(torch.randn(1, 3, 8, 48, 48))
    assert codes.shape == (1, 64, 1) and isinstance(plan_tokenizer(tokenizer_recipe()).structure, Tokenizer)
