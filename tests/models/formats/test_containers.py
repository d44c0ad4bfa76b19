"""Prefixes of compilation, data parallelism and classes around a network come off in any order, whatever holds the tensors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import mvd_ds
import published
from mvd_ds.config import ConfigError

GEOMETRY = {"frames": published.FRAMES, "size_px": published.SIDE}
HEADS = ({"num_heads": 3}, {"num_heads": 2}, GEOMETRY)
PREFIXES = ["".join(words) for words in itertools.permutations(("_orig_mod.", "module.", "model."), 2)] + [
    "_orig_mod.",
    "module.",
    "model.",
    "backbone.",
    "module._orig_mod.module.model.",
]


def stored(tensors: dict[str, Tensor], door: str, folder: Path) -> Path | dict[str, Tensor]:
    if door == "pth":
        torch.save({"state_dict": tensors}, folder / "file.pth")
        return folder / "file.pth"
    if door == "safetensors":
        save_file(tensors, folder / "file.safetensors")
        return folder / "file.safetensors"
    if door == "state":
        return tensors
    folder = folder / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"whatever": 1}))
    if door == "folder":
        save_file(tensors, folder / "model.safetensors")
    elif door == "folder-bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        halves = [dict(list(tensors.items())[half::2]) for half in range(2)]
        for number, half in enumerate(halves):
            save_file(half, folder / f"{number}.safetensors")
        index = {name: f"{number}.safetensors" for number, half in enumerate(halves) for name in half}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("door", ["pth", "safetensors", "state", "folder", "folder-bin", "folder-shards"])
def test_prefixes_come_off(tmp_path: Path, door: str, prefix: str) -> None:
    tensors = {prefix + name: value for name, value in published.videomae().items()}
    model, checkpoint = mvd_ds.open_model(stored(tensors, door, tmp_path), None, *HEADS)
    expected, _ = mvd_ds.open_model(published.videomae(), "videomae", *HEADS)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
    assert any("took the prefix" in note for note in checkpoint.notes)


def test_single_compiled_modules() -> None:
    names = {name.replace("blocks.1.", "blocks.1._orig_mod."): value for name, value in published.videomae().items()}
    mvd_ds.open_model(names, None, *HEADS)


def test_a_teacher_of_timm_takes_them_too(tmp_path: Path) -> None:
    import timm

    state = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).state_dict()
    save_file({f"module._orig_mod.{name}": value for name, value in state.items()}, tmp_path / "vit.safetensors")
    settings = {"network": "timm:vit_tiny_patch16_224", "embed_dim": 192, "input_px": 64}
    mvd_ds.build_teacher(settings | {"weights": str(tmp_path / "vit.safetensors")}, frames=2)


def test_our_own_names_are_left_alone(tmp_path: Path) -> None:
    model = mvd_ds.build_encoder({"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}, 4, 16)
    mvd_ds.save(model, tmp_path / "own")
    assert all("prefix" not in note for note in mvd_ds.read_checkpoint(tmp_path / "own").notes)


def global_pool(classes: bool) -> dict[str, Tensor]:
    """An MAE network that was fine-tuned with global pooling: ``fc_norm`` in place of ``norm``."""
    state = published.mae()
    state["fc_norm.weight"], state["fc_norm.bias"] = state.pop("norm.weight"), state.pop("norm.bias")
    return state | ({"head.weight": torch.randn(5, 40), "head.bias": torch.zeros(5)} if classes else {})


@pytest.mark.parametrize("classes", [True, False])
def test_an_mae_that_was_fine_tuned_with_global_pooling(tmp_path: Path, capsys, classes: bool) -> None:
    from mvd_ds.tools.convert import convert

    torch.save({"model": global_pool(classes)}, tmp_path / "mae.pth")
    convert(tmp_path / "mae.pth", tmp_path / "own", heads=5)
    assert "so the encoder has no norm after its last block" in capsys.readouterr().out
    model, _ = mvd_ds.open_model(tmp_path / "own")
    clip = torch.randn(2, 3, 1, published.SIDE, published.SIDE)
    names = {"kind": "image", "embed_dim": 40, "depth": 3, "num_heads": 5, "mlp_ratio": 2.5, "patch_px": 8, "qkv_bias": "full"}
    settings = {**names, "tubelet_frames": 1, "position": "sincos2d", "cls_token": True, "weights": str(tmp_path / "mae.pth")}
    teacher = mvd_ds.build_teacher(settings, frames=1, size_px=published.SIDE, tubelet_frames=1)
    torch.testing.assert_close(teacher(clip), model(clip)[:, 1:])
    with pytest.raises(ConfigError, match="has no norm after its last block; choose none"):
        mvd_ds.build_teacher(settings | {"target": {"norm": "final"}}, frames=1, size_px=published.SIDE, tubelet_frames=1)


CONFIG_V2 = {
    "model_type": "VideoMAEv2_Base",
    "architectures": ["VideoMAEv2"],
    "model_config": {
        "img_size": published.SIDE,
        "patch_size": published.PATCH,
        "embed_dim": 48,
        "depth": 3,
        "num_heads": 3,
        "mlp_ratio": 2.5,
        "tubelet_size": 2,
        "num_frames": published.FRAMES,
        "layer_norm_eps": 1e-6,
        "init_values": 0.0,
        "num_classes": 0,
    },
}


def test_the_hub_folder_of_videomae_v2(tmp_path: Path) -> None:
    state = {name: value for name, value in published.finetuned().items() if not name.startswith("head.")}
    save_file({f"model.{name}": value for name, value in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_V2))
    model, checkpoint = mvd_ds.open_model(tmp_path)
    assert checkpoint.layout.name == "videomae_v2"
    clip = torch.randn(2, 3, published.FRAMES, published.SIDE, published.SIDE)
    torch.testing.assert_close(model(clip), published.video_features(state, clip, ""), atol=1e-4, rtol=1e-4)


def test_the_classifier_of_mmaction2(tmp_path: Path) -> None:
    state = published.finetuned()
    renamed = {}
    for name, value in state.items():
        theirs = name.replace("patch_embed.proj.", "patch_embed.projection.")
        theirs = theirs.replace("mlp.fc1.", "mlp.layers.0.0.").replace("mlp.fc2.", "mlp.layers.1.")
        renamed[f"cls_head.fc_cls.{name[5:]}" if name.startswith("head.") else f"backbone.{theirs}"] = value
    table = published.sinusoid1d(48, 27)
    renamed["backbone.pos_embed"] = table.unsqueeze(0)
    torch.save({"state_dict": renamed, "meta": {"epoch": 3}}, tmp_path / "mm.pth")
    model, checkpoint = mvd_ds.open_model(tmp_path / "mm.pth", None, {"num_heads": 3}, None, GEOMETRY)
    assert checkpoint.layout.name == "mmaction2"
    clip = torch.randn(2, 3, published.FRAMES, published.SIDE, published.SIDE)
    torch.testing.assert_close(model(clip), published.logits(state, clip, table), atol=1e-4, rtol=1e-4)
    backbone = {name: value for name, value in renamed.items() if name.startswith("backbone.")}
    _, alone = mvd_ds.open_model(backbone, None, {"num_heads": 3}, None, GEOMETRY)
    assert alone.layout.name == "mmaction2_backbone"
