"""Model folders: what was written comes back, and every misfit is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mvd_ds.config import ConfigError
from mvd_ds.models import build_teacher, load_strictly, save_model, weights
from mvd_ds.models.formats.writing import write_pickled
from mvd_ds.models.weights import read_recipe
from mvd_ds.runs.student import build_predictor, load_predictor


@pytest.fixture
def folder(video_recipe, tmp_path) -> Path:
    """A folder of stage one whose encoder has the architecture of the small video teacher."""
    save_model(tmp_path / "model", build_predictor(video_recipe).state_dict(), video_recipe, {"step": 12})
    return tmp_path / "model"


def line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_folder_holds_weights_and_description(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["format"], config["version"], config["step"]) == ("mvd_ds", 1, 12)
    names = {name.split(".")[0] + "." + name.split(".")[1] for name in load_file(folder / "model.safetensors")}
    assert {"encoder.blocks", "encoder.norm", "decoders.pixels"} <= names


def test_round_trip(folder):
    model, recipe = load_predictor(folder)
    assert recipe.run.seed == 5
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build_predictor(recipe).parameters(), strict=True))
    assert read_recipe(folder / "model.safetensors") == recipe


def test_saving_replaces_the_whole_folder(folder):
    model, recipe = load_predictor(folder)
    (folder / "old.txt").write_text("old")
    torch.nn.init.zeros_(model.encoder.patch_embed.bias)
    save_model(folder, model.state_dict(), recipe, {})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (load_predictor(folder)[0].encoder.patch_embed.bias == 0).all()


def test_a_write_that_fails_keeps_the_old_model(folder, monkeypatch):
    _, recipe = load_predictor(folder)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(ConfigError) as error:
        save_model(folder, {}, recipe, {})
    assert line(error).endswith("model: the model cannot be written: [Errno 28] No space left on device")
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    load_predictor(folder)


def test_a_swap_that_fails_keeps_the_old_model(folder, monkeypatch):
    model, recipe = load_predictor(folder)
    rename = Path.rename

    def stubborn(self, target):
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(ConfigError, match="cannot be written"):
        save_model(folder, model.state_dict(), recipe, {})
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    load_predictor(folder)


@pytest.mark.parametrize("part", ["", "model.safetensors"])
def test_a_teacher_takes_the_encoder_of_a_folder_or_file(folder, recipe, part):
    chosen = recipe(teachers={"video": {"weights": str(folder / part)}})
    teacher = build_teacher("video", chosen.teachers["video"], chosen)
    stored = load_predictor(folder)[0].encoder.state_dict()
    held = teacher.encoder.state_dict()
    assert set(stored) - set(held) == {"norm.weight", "norm.bias"}, "targets are taken before the final norm"
    assert all(torch.equal(held[name], stored[name]) for name in held)


def test_a_teacher_of_another_architecture_is_refused_with_every_difference(folder, recipe):
    changes = {"embed_dim": 48, "num_heads": 3, "depth": 4, "patch_px": 16, "tubelet_frames": 1, "position": "sincos3d"}
    chosen = recipe(
        teachers={
            "video": changes
            | {"weights": str(folder), "qkv_bias": "full", "cls_token": True, "mlp_ratio": 2.0, "resize": "bilinear"}
        }
    )
    with pytest.raises(ConfigError) as error:
        build_teacher("video", chosen.teachers["video"], chosen)
    message = line(error)
    assert message.startswith(f"teachers.video.weights {folder}: another architecture: ")
    for words in (
        "embed_dim is 40 there and 48 in the recipe",
        "depth is 2 there and 4",
        "num_heads is 2 there and 3",
        "mlp_ratio is 4.0 there and 2.0",
        "patch_px is 8 there and 16",
        "tubelet_frames is 2 there and 1",
        "position is sinusoid1d there and sincos3d",
        "qkv_bias is query_value there and full",
        "cls_token is False there and True",
    ):
        assert words in message


def test_an_image_teacher_from_a_video_folder_is_refused(folder, recipe):
    chosen = recipe(teachers={"image": {"weights": str(folder)}})
    with pytest.raises(ConfigError, match="kind is video there and image in the recipe"):
        build_teacher("image", chosen.teachers["image"], chosen)


def damage(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("encoder.norm.bias"), "1 missing: encoder.norm.bias"),
        (lambda t: t.update({"encoder.extra": torch.ones(1)}), "1 unexpected: encoder.extra"),
        (lambda t: t.update({"encoder.norm.bias": torch.ones(3)}), "1 of another shape: encoder.norm.bias (3,) instead of (40,)"),
        (
            lambda t: [t.pop(name) for name in list(t) if "blocks.1" in name],
            "13 missing: encoder.blocks.1.norm_attention.weight, ",
        ),
        (lambda t: [t.pop(name) for name in list(t) if "blocks.1" in name], " and 7 more"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, recipe, change, words):
    damage(folder, change)
    chosen = recipe(teachers={"video": {"weights": str(folder)}})
    with pytest.raises(ConfigError) as error:
        build_teacher("video", chosen.teachers["video"], chosen)
    assert line(error).startswith(f"teachers.video.weights {folder}: weights do not fit VisionTransformer: ")
    assert words in line(error)


def test_numbers_that_are_not_finite_are_named(folder, recipe):
    damage(folder, lambda tensors: tensors["encoder.norm.bias"][0].fill_(float("nan")))
    chosen = recipe(teachers={"video": {"weights": str(folder)}})
    with pytest.raises(ConfigError) as error:
        build_teacher("video", chosen.teachers["video"], chosen)
    assert line(error) == (
        f"teachers.video.weights: {folder}: is not a whole file of mvd_ds ('mvd_ds'): 1 not finite: encoder.norm.bias"
    )


def test_what_does_not_arrive_is_noticed(folder, recipe, monkeypatch):
    """A loader that leaves biases at zero without an error, as some releases of a popular library do."""
    whole = torch.nn.Module.load_state_dict

    def forgetful(self, state_dict, strict=True, assign=False):
        kept = {name: torch.zeros_like(value) if name.endswith("q_bias") else value for name, value in state_dict.items()}
        return whole(self, kept, strict, assign)

    damage(folder, lambda tensors: [value.fill_(0.5) for name, value in tensors.items() if name.endswith("bias")])
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", forgetful)
    chosen = recipe(teachers={"video": {"weights": str(folder)}})
    with pytest.raises(ConfigError) as error:
        build_teacher("video", chosen.teachers["video"], chosen)
    assert "1 tensors did not arrive as they are in the file: encoder.blocks.0.attention.qkv.q_bias" in line(error)


def test_several_faults_stand_in_one_line_and_nothing_is_copied():
    module = torch.nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(ConfigError) as error:
        load_strictly(module, {"weight": torch.full((2, 2), torch.inf), "scale": torch.ones(1)}, "here")
    assert line(error) == "here: weights do not fit Linear: 1 missing: bias; 1 unexpected: scale; 1 not finite: weight"
    assert torch.equal(module.weight, before)


def test_decoders_are_strict_too(folder):
    damage(folder, lambda tensors: tensors.pop("decoders.pixels.head.bias"))
    with pytest.raises(ConfigError, match=r"model: weights do not fit MaskedPredictor: 1 missing: decoders\.pixels\.head\.bias"):
        load_predictor(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: cannot be read: "),
        (lambda f: (f / "model.safetensors").unlink(), "there is no file "),
        (lambda f: (f / "model.safetensors").write_bytes(b"nonsense"), "model.safetensors: is not a readable safetensors file: "),
        (lambda f: (f / "config.json").write_text('{"format": '), "config.json:1: is not JSON: "),
        (
            lambda f: (f / "config.json").write_text('{"format": "other"}'),
            "is not the description of a model in format mvd_ds, version 1",
        ),
        (lambda f: (f / "config.json").write_text('{"format": "mvd_ds", "version": 1}'), "objective None is not one of"),
    ],
)
def test_spoilt_folders(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ConfigError) as error:
        load_predictor(folder)
    assert words in line(error)


def test_a_missing_folder_names_the_setting(recipe, tmp_path):
    chosen = recipe(teachers={"video": {"weights": str(tmp_path / "nowhere")}})
    with pytest.raises(ConfigError) as error:
        build_teacher("video", chosen.teachers["video"], chosen)
    assert line(error) == (f"teachers.video.weights: {tmp_path}/nowhere: there is no such file or folder")


def test_a_file_without_description_is_refused(recipe, tmp_path):
    save_file({"encoder.norm.weight": torch.ones(3)}, tmp_path / "foreign.safetensors")
    chosen = recipe(teachers={"video": {"weights": str(tmp_path / "foreign.safetensors")}})
    with pytest.raises(ConfigError, match=r"foreign\.safetensors: is in no format that is known"):
        build_teacher("video", chosen.teachers["video"], chosen)
    with pytest.raises(ConfigError, match="its header does not describe the model; give a folder written by `pretrain`"):
        read_recipe(tmp_path / "foreign.safetensors")


def test_a_linked_model_folder_stays_a_link(folder, tmp_path):
    """The run's ``model`` may lead to another disk; a save replaces what is there, and the next one can, too."""
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    for step in (1, 2):
        model, recipe = load_predictor(folder)
        save_model(folder, model.state_dict(), recipe, {"step": step})
        assert folder.is_symlink() and folder.resolve() == elsewhere
        assert json.loads((elsewhere / "config.json").read_text())["step"] == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "model"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_says(folder, tmp_path, umask, mode):
    model, recipe = load_predictor(folder)
    before = os.umask(umask)
    try:
        save_model(folder, model.state_dict(), recipe, {}, average=model.state_dict())
        write_pickled(tmp_path / "encoder.pth", model.encoder.state_dict())
    finally:
        os.umask(before)
    files = [*folder.iterdir(), tmp_path / "encoder.pth"]
    assert {path.name for path in files} == {"config.json", "model.safetensors", "ema.safetensors", "encoder.pth"}
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}
