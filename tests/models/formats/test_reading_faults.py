"""Every fault of a file is caught and named, whatever its format; nothing in it is ever executed."""

from __future__ import annotations

import argparse
import pathlib

import pytest
import torch

import mvd_ds
import published
from mvd_ds.config import ConfigError
from mvd_ds.models import build_teacher

CLIP = {"frames": published.FRAMES, "size_px": published.SIDE}
FILES = {
    "mvd": (published.mvd_student, "blocks.1.attn.q_bias", "decoder_vid.blocks.0.mlp.fc1.weight", {"num_heads": 4}),
    "videomae": (published.videomae, "encoder.blocks.1.attn.v_bias", "decoder.blocks.0.mlp.fc2.weight", {"num_heads": 3}),
    "mae": (published.mae, "blocks.2.attn.qkv.bias", "blocks.0.mlp.fc1.weight", {"num_heads": 5}),
    "videomae_finetuned": (published.finetuned, "fc_norm.bias", "blocks.0.mlp.fc2.weight", {"num_heads": 3}),
}


def open_file(name: str, state: dict[str, torch.Tensor], *, path: pathlib.Path | None = None):
    heads = FILES[name][3]
    if path is not None:
        torch.save({"model": state, "args": argparse.Namespace(lr=1.0), "epoch": 3}, path)
    return mvd_ds.open_model(path or state, name, heads, {"num_heads": 2}, CLIP)


def message(name: str, state: dict[str, torch.Tensor], path: pathlib.Path) -> str:
    with pytest.raises(ConfigError) as error:
        open_file(name, state, path=path)
    text = str(error.value)
    assert "\n" not in text and str(path) in text
    return text


@pytest.fixture(params=FILES)
def name(request) -> str:
    return request.param


@pytest.fixture
def state(name) -> dict[str, torch.Tensor]:
    return FILES[name][0]()


def test_a_whole_file_is_read(name, state, tmp_path):
    model, checkpoint = open_file(name, state, path=tmp_path / "file.pth")
    assert checkpoint.layout.name == name and not model.training
    assert {row.theirs for row in checkpoint.rows} == set(state), "every tensor is accounted for"


def test_each_missing_tensor_is_named(name, state):
    for lost in [key for key in state if not key.startswith(("pos_embed", "blocks.1", "blocks.2", "encoder.blocks.1"))]:
        with pytest.raises(ConfigError) as error:
            open_file(name, {key: value for key, value in state.items() if key != lost})
        text = str(error.value)
        of_shape = lost.endswith(("patch_embed.proj.weight", "head.weight")) or "down_" in lost or "encoder_to" in lost
        assert lost in text or of_shape, text


def test_an_extra_tensor(name, state, tmp_path):
    text = message(name, state | {"blocks.0.gamma_1": torch.ones(3)}, tmp_path / "file.pth")
    assert "1 unexpected: blocks.0.gamma_1" in text


def test_another_shape(name, state, tmp_path):
    _, vector, matrix, _ = FILES[name]
    text = message(name, state | {vector: torch.ones(7)}, tmp_path / "file.pth")
    assert f"1 of another shape: {vector} (7,) instead of " in text
    text = message(name, state | {matrix: state[matrix].T.contiguous()}, tmp_path / "file.pth")
    assert f"1 of another shape: {matrix} " in text and "(transposed)" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(name, state, tmp_path, value):
    state[FILES[name][2]][1, 2] = value
    assert f"1 not finite: {FILES[name][2]}" in message(name, state, tmp_path / "file.pth")


def test_integers_are_no_weights(name, state, tmp_path):
    text = message(name, state | {FILES[name][2]: state[FILES[name][2]].long()}, tmp_path / "file.pth")
    assert f"1 not floating point numbers: {FILES[name][2]} (torch.int64)" in text


@pytest.mark.parametrize("name", ["mvd", "videomae", "videomae_finetuned"], indirect=True)
def test_lost_biases_of_queries_and_values_are_said(name, state):
    for key in state:
        if key.endswith(("q_bias", "v_bias")):
            state[key].zero_()
    _, checkpoint = open_file(name, state)
    assert any("all q and v biases of encoder" in note and "are zero" in note for note in checkpoint.notes)


def test_a_table_that_is_not_the_formula_is_read_as_learned(tmp_path):
    state = published.mae()
    state["pos_embed"] += 0.1
    model, checkpoint = open_file("mae", state)
    assert checkpoint.notes[0] == "pos_embed is not the fixed table of MAE encoder: read as learned positions"
    tokens = model.embed(torch.zeros(1, 3, 1, 24, 24))[0]
    bias = state["patch_embed.proj.bias"]
    assert torch.allclose(tokens[1:], bias + state["pos_embed"][0, 1:])
    assert torch.allclose(tokens[:1], state["cls_token"][0] + state["pos_embed"][0, :1])


def test_settings_of_a_recipe_are_compared_one_by_one(recipe, tmp_path):
    torch.save({"model": published.mae()}, tmp_path / "mae.pth")
    chosen = recipe(
        data={"clip": {"frames": 4, "size_px": 32}},
        teachers={"image": {"weights": str(tmp_path / "mae.pth"), "position": "learned", "qkv_bias": "query_value"}},
    )
    with pytest.raises(ConfigError) as error:
        build_teacher("image", chosen.teachers["image"], chosen)
    assert str(error.value) == (
        f"teachers.image.weights {tmp_path}/mae.pth: another architecture: embed_dim is 40 there and 24 in the recipe; "
        "mlp_ratio is 2.5 there and 4.0 in the recipe; position is sincos2d there and learned in the recipe; "
        "qkv_bias is full there and query_value in the recipe"
    )


class Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"model": published.mae(), "hook": Payload(str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError) as error:
        mvd_ds.read_checkpoint(tmp_path / "evil.pth")
    assert "evil.pth: refused: reading it would run pickled code (" in str(error.value) and "open)" in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_other_classes_are_refused_by_name(tmp_path):
    torch.save({"model": published.mae(), "args": pathlib.PurePosixPath("x")}, tmp_path / "file.pth")
    with pytest.raises(ConfigError, match=r"pickled code \(pathlib\.(_local\.)?PurePosixPath\)"):
        mvd_ds.read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a readable PyTorch file"),
        (b"nonsense", "is not a readable PyTorch file"),
        (b"PK\x03\x04 half a zip", "is not a readable PyTorch file"),
    ],
)
def test_files_that_are_no_files(tmp_path, content, words):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as error:
        mvd_ds.read_checkpoint(tmp_path / "file.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list, not tensors by name"),
        ({"model": {"weight": 3}}, "holds no state dict"),
        ({"epoch": 3}, "holds no state dict: it has epoch"),
        ({"a.b": torch.ones(1)}, "is in no format that is known (a.b, ...)"),
        ({"blocks.0.norm1.weight": torch.ones(1)}, "may be VideoMAE's or MVD's; set format to mvd"),
    ],
)
def test_contents_that_are_no_weights(tmp_path, content, words):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ConfigError) as error:
        mvd_ds.read_checkpoint(tmp_path / "file.pth")
    assert words in str(error.value)


def test_wrappers_and_prefixes_of_training_scripts_are_taken_off(tmp_path):
    wrapped = {"module": {f"_orig_mod.{name}": value for name, value in published.mae().items()}, "epoch": 4}
    torch.save(wrapped, tmp_path / "file.pth")
    checkpoint = mvd_ds.read_checkpoint(tmp_path / "file.pth")
    assert checkpoint.layout.name == "mae"
    assert checkpoint.notes == ["took 'module' of epoch, module", "took the prefix '_orig_mod.' off all names"]
