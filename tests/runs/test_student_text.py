"""A student whose text tower comes from a folder of transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mvd_ds.config import ConfigError, TrainingRecipe, load_recipe
from mvd_ds.data.tokens import tokens_of
from mvd_ds.models.text.folder import open_text
from mvd_ds.runs.student import build_predictor
from text_folders import SPACE, write_text_folder

SMALL = [
    *(
        "data.clip.frames=4",
        "data.clip.size_px=32",
        "model.size=null",
        "model.embed_dim=32",
        "model.depth=2",
        "model.num_heads=2",
    ),
    *("model.patch_px=8", "batch.micro=4", "batch.global=4", "engine.precision=fp32"),
]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_tower_of_a_folder_starts_as_it_is_there(tmp_path: Path, frozen: bool) -> None:
    write_text_folder("siglip", tmp_path / "siglip")
    text = f"language.text={{weights: {tmp_path / 'siglip'}, frozen: {str(frozen).lower()}}}"
    recipe = load_recipe("clip_base", [*SMALL, text, f"language.embed_dim={SPACE}", "language.loss=sigmoid"])
    assert isinstance(recipe, TrainingRecipe) and recipe.language is not None
    student, peer = build_predictor(recipe), open_text(str(tmp_path / "siglip"))
    rows = torch.from_numpy(tokens_of(recipe.language.text).encode_all(["three circles", "a"]))
    assert student.language is not None
    found = student.language.texts(rows, student.encoder.blocks)
    torch.testing.assert_close(found, peer.encode(rows))
    assert student.language.scale.values.tolist() == pytest.approx([math.log(peer.scale), peer.bias])
    assert found.requires_grad != frozen
    learning = {name for name, value in student.named_parameters() if value.requires_grad}
    assert any(name.startswith(("language.text.", "language.text_projection.")) for name in learning) != frozen
    assert {"language.scale.values", "language.clip_projection.weight", "encoder.norm.weight"} <= learning


def test_a_space_of_another_width_is_refused_before_training(tmp_path: Path) -> None:
    write_text_folder("clip", tmp_path / "clip")
    recipe = load_recipe("clip_base", [*SMALL, f"language.text={{weights: {tmp_path / 'clip'}}}"])
    assert isinstance(recipe, TrainingRecipe)
    with pytest.raises(ConfigError, match="have vectors of 16; set it to that"):
        build_predictor(recipe)
