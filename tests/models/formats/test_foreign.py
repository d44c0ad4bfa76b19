"""Descriptions that others wrote: whatever is in them, the answer is one short line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mvd_ds
from mvd_ds.config import ConfigError
from mvd_ds.models.building import is_run_model, open_encoder
from mvd_ds.models.classifiers.classifier_folder import open_classifier
from mvd_ds.models.weights import read_recipe

SHAPE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8, "position": "sinusoid1d"}


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        mvd_ds.open_model(path)
    text = str(error.value)
    assert "\n" not in text and len(text) < len(str(path)) + 400 and text.isprintable(), text
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mvd_ds.save(mvd_ds.build_classifier(SHAPE, 3, 4, 16), tmp_path / "hf", "huggingface")
    mvd_ds.open_model(tmp_path / "hf")
    return tmp_path / "hf"


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "32"},
        {"hidden_size": True},
        {"hidden_size": 10**30},
        {"hidden_size": 0},
        {"num_hidden_layers": 10**9},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3.5},
        {"patch_size": 0},
        {"patch_size": [8, 16]},
        {"patch_size": []},
        {"patch_size": {"height": 8}},
        {"tubelet_size": -2},
        {"image_size": 10**9},
        {"image_size": [16, [16]]},
        {"num_frames": None, "image_size": "x" * 100_000},
        {"layer_norm_eps": "1e-12"},
        {"layer_norm_eps": -1},
        {"layer_norm_eps": float("nan")},
        {"intermediate_size": []},
        {"use_mean_pooling": "yes"},
        {"qkv_bias": [1]},
        {"hidden_act": {"a": ["b" * 10_000]}},
        {"num_channels": "\x1b[2J"},
        {"decoder_hidden_size": 0},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_values_of_wrong_types_and_sizes(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    text = refused(folder)
    assert list(changes)[-1] in text or "intermediate" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' * 200_000, "nested too deeply"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "is not JSON that can be read"),
        ("[]", "is not a JSON object"),
        ("7", "is not a JSON object"),
        ("", "is not JSON"),
        ("<html><body>404</body></html>", "it is a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-LFS pointer"),
    ],
    ids=["deep", "deep-objects", "digits", "list", "number", "empty", "page", "lfs"],
)
def test_text_that_is_no_description(folder: Path, text: str, words: str) -> None:
    (folder / "config.json").write_text(text)
    assert words in refused(folder)
    for door in (open_classifier, read_recipe, is_run_model, lambda path: open_encoder(path, 4, 16)):
        with pytest.raises(ConfigError):
            door(folder)


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{\x00")
    assert "is not JSON" in refused(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "there is no file" in refused(folder)
    with pytest.raises(ConfigError, match="it is no regular file"):
        read_recipe(folder)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "pipe.safetensors"}, "pipe.safetensors: cannot be read: it is no regular file"),
        ({"a": "../hf/model.safetensors"}, "it takes names of files beside it"),
        ({"a": "/etc/hostname"}, "it takes names of files beside it"),
        ({"a": 3}, "it takes names of files beside it, got 3"),
        ({"a": ["x" * 10_000]}, "it takes names of files beside it"),
        ({"a": "none.safetensors"}, "none.safetensors: cannot be read: No such file"),
        ([], "weight_map: it takes an object, got []"),
        ({}, "it lists no tensors"),
    ],
)
def test_an_index_names_files_beside_it(folder: Path, weight_map: Any, words: str) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert words in refused(folder)


@pytest.mark.parametrize(
    "network",
    [
        {"encoder": []},
        {"encoder": {"embed_dim": 10**12, "depth": 1, "num_heads": 2}},
        {"encoder": {"embed_dim": 32, "depth": 10**9, "num_heads": 2}},
        {"encoder": {"embed_dim": "32", "depth": [], "num_heads": 2}},
        {"encoder": {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 0}},
        {"clip": {"frames": "x", "size_px": 16}},
        {"clip": {"frames": 10**7, "size_px": 16}},
        {"clip": 7},
        {"classifier": {"classes": "many"}},
        {"classifier": {"classes": 3, "pooling": {"kind": "none"}}},
        [],
    ],
)
def test_descriptions_in_our_own_format_are_checked_too(tmp_path: Path, network: Any) -> None:
    mvd_ds.save(mvd_ds.build_classifier(SHAPE, 3, 4, 16), tmp_path / "own", "mvd_ds")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    config["network"] = config["network"] | network if isinstance(network, dict) else network
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    refused(tmp_path / "own")


@pytest.mark.parametrize("header", ["[" * 50_000, "[]", "7", '{"format": "mvd_ds", "version": 1, "network": 5}', "{"])
def test_headers_of_safetensors_files(tmp_path: Path, header: str) -> None:
    save_file({"encoder.norm.weight": torch.ones(3)}, tmp_path / "a.safetensors", {"config": header})
    refused(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError):
        read_recipe(tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", [(8, 3, 0, 8, 8), (8, 3, 2, 0, 0), (0, 3, 2, 8, 8), (8, 3, 2, 8, 4)])
def test_patches_of_no_size(shape: tuple[int, ...]) -> None:
    names = {"encoder.patch_embed.proj.weight": torch.zeros(shape), "encoder.patch_embed.proj.bias": torch.zeros(shape[0])}
    with pytest.raises(ConfigError, match="sizes have to be above 0 and patches square"):
        mvd_ds.open_model(names, "videomae")


@pytest.mark.parametrize("block", ["999999999", "9" * 5000])
def test_a_block_number_that_would_build_them_all(block: str) -> None:
    names = {"encoder.patch_embed.weight": torch.zeros(8, 3, 2, 8, 8), f"encoder.blocks.{block}.norm_mlp.weight": torch.zeros(8)}
    with pytest.raises(ConfigError, match="a block numbered 9") as error:
        mvd_ds.open_model(names, "mvd_ds")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 343249461\n", "git-LFS pointer"),
        (b"<!DOCTYPE html><html><head><title>Not found</title></head></html>", "it is a web page"),
        (b"Entry not found\n", "it is a text file"),
        (b"", "it is empty"),
        (b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 100, "it is an MP4 or MOV video"),
    ],
    ids=["lfs", "page", "text", "empty", "video"],
)
def test_what_is_no_file_of_weights_is_told(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert words in refused(path)
    with pytest.raises(ConfigError, match=words):
        mvd_ds.build_teacher({"network": "timm:vit_tiny_patch16_224", "embed_dim": 192, "weights": str(path)}, frames=2)
