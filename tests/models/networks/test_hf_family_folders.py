"""Folders of transformers: sizes, names in the cache, random weights, and what does not fit, in one line each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mvd_ds
from hf_networks import CASES, write
from mvd_ds.config import ConfigError, TeacherSettings
from mvd_ds.config.networks.hf_folder import find_folder


@pytest.fixture(scope="module")
def dinov3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dinov3")
    write(CASES["dinov3_vit"], folder)
    return folder


def changed(folder: Path, **values: Any) -> None:
    """Change keys of the folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_sizes_and_weights_come_from_the_folder(dinov3: Path) -> None:
    settings = validated({"network": f"hf:{dinov3}"})
    sizes = (settings.kind, settings.embed_dim, settings.depth, settings.num_heads, settings.patch_px, settings.tubelet_frames)
    assert sizes == ("image", 24, 3, 2, 8, 1) and settings.weights == str(dinov3)
    assert validated(settings.model_dump(mode="json")) == settings
    elsewhere = {**settings.model_dump(mode="json"), "network": "hf:/moved/away"}
    assert validated(elsewhere).embed_dim == 24, "a recipe that was written out needs no folder to be read"


def validated(values: dict[str, Any]) -> TeacherSettings:
    return TeacherSettings.model_validate(values)


def test_a_name_is_looked_up_in_the_cache(dinov3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"hf:some/one: .* nothing is downloaded here: fetch it by `hf download some/one`"):
        find_folder("some/one")
    repository = tmp_path / "models--some--one"
    shutil.copytree(dinov3, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    teacher = mvd_ds.build_teacher({"network": "hf:some/one", "weights": "some/one"}, frames=2, size_px=32)
    assert teacher(torch.zeros(1, 3, 2, 32, 32)).shape == (1, 16, 24)


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), {}, "state input_mean and input_std beside it"),
        (
            lambda folder: (folder / "modeling_x.py").write_text("raise SystemExit"),
            {},
            "it brings code of its own (files modeling",
        ),
        (lambda folder: changed(folder, auto_map={"AutoModel": "x.Y"}), {}, "(auto_map in its config.json)"),
        (lambda folder: changed(folder, quantization_config={"bits": 4}), {}, "its weights are quantised"),
        (lambda folder: changed(folder, model_type="dinov4"), {}, "has no model_type dinov4; "),
        (lambda folder: changed(folder, model_type="bert"), {}, "BertModel takes text"),
        (lambda folder: changed(folder, hidden_size="wide"), {}, "hidden_size: it takes a whole number, got wide"),
        (lambda folder: changed(folder, num_hidden_layers=4), {}, "missing: "),
        (lambda folder: (folder / "config.json").unlink(), {}, "the folder has no config.json"),
        (lambda folder: None, {"embed_dim": 48, "num_heads": 4}, "embed_dim is 24 there and 48 in the recipe; num_heads is 2"),
        (lambda folder: None, {"patch_px": 16}, "patch_px is 8 there and 16 in the recipe"),
        (lambda folder: None, {"target": {"blocks": [3]}}, "target.blocks [3] are outside its 3 blocks"),
        (lambda folder: None, {"weights": "nowhere.safetensors"}, "there is no such folder"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(dinov3: Path, tmp_path: Path, change: Any, settings: Any, words: str) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(dinov3, folder)
    change(folder)
    with pytest.raises(ConfigError) as error:
        mvd_ds.build_teacher({"network": f"hf:{folder}", "weights": str(folder), **settings}, frames=2, size_px=32)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_network_of_one_size_says_which(tmp_path: Path) -> None:
    write(CASES["videomae"], tmp_path)
    for frames, side, words in ((4, 48, "set input_px 32"), (8, 32, "set input_frames 4")):
        with pytest.raises(ConfigError, match=words):
            mvd_ds.build_teacher({"network": f"hf:{tmp_path}", "weights": str(tmp_path)}, frames=frames, size_px=side)


@torch.no_grad()
def test_random_weights_are_drawn_by_transformers_from_the_seed(dinov3: Path) -> None:
    values = {"network": f"hf:{dinov3}", "weights": "random", "target": {"norm": "final", "blocks": [1]}}
    one, same, other = (mvd_ds.build_teacher(values, frames=2, size_px=32, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    name = "encoder.network.model.layer.1.mlp.up_proj.weight"
    assert not torch.equal(one[name], other[name]) and 0.01 < one[name].std() < 0.03
    assert "encoder.network.model.layer.2.mlp.up_proj.weight" not in one, "blocks behind the last one that is read"


@torch.no_grad()
def test_bf16_leaves_the_frequencies_of_positions_exact(dinov3: Path) -> None:
    teacher = mvd_ds.build_teacher({"network": f"hf:{dinov3}", "weights": str(dinov3)}, frames=2, size_px=32)
    exact = teacher.encoder.network.rope_embeddings.inv_freq.clone()
    rounded = teacher.to(torch.bfloat16)
    assert torch.equal(rounded.encoder.network.rope_embeddings.inv_freq, exact)
    assert rounded(torch.zeros(1, 3, 2, 32, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16
