"""What is written is what was read, to the last bit; what a format cannot hold is refused for a reason."""

from __future__ import annotations

import json

import pytest
import torch

import mvd_ds
import published
from mvd_ds.config import ConfigError
from mvd_ds.models import build_teacher
from mvd_ds.models.saving import WRITTEN

CLIP = {"frames": published.FRAMES, "size_px": published.SIDE}
FILES = {
    "mvd": (published.mvd_student, 4),
    "videomae": (published.videomae, 3),
    "mae": (published.mae, 5),
    "videomae_finetuned": (published.finetuned, 3),
    "mvd_finetuned": (published.finetuned, 3),
}


def opened(name: str, source=None):
    make, heads = FILES[name]
    return mvd_ds.open_model(source if source is not None else make(), name, {"num_heads": heads}, {"num_heads": 2}, CLIP)[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize("name", FILES)
def test_through_ours_and_back(name, tmp_path):
    mvd_ds.save(opened(name), tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]
    ours, checkpoint = mvd_ds.open_model(tmp_path / "ours")
    assert checkpoint.layout.name == "mvd_ds" and checkpoint.recipe is None
    mvd_ds.save(ours, tmp_path / "back.pth", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pth", "ours"]
    written = torch.load(tmp_path / "back.pth", weights_only=True)
    assert written.keys() == {"model"}
    assert same(written["model"], FILES[name][0]())


def test_half_precision_stays_what_it_is(tmp_path):
    state = {name: value.half() for name, value in published.videomae().items()}
    checkpoint = mvd_ds.read_checkpoint(state)
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float16}
    assert next(opened("videomae", state).parameters()).dtype == torch.float32


def test_learned_positions_come_back_too(tmp_path):
    state = published.mae()
    state["pos_embed"] = state["pos_embed"] + 0.3
    mvd_ds.save(opened("mae", state), tmp_path / "back.pth", "mae")
    assert same(torch.load(tmp_path / "back.pth", weights_only=True)["model"], state)


@pytest.mark.parametrize(
    ("name", "to", "words"),
    [
        ("mvd", "videomae", "position is sincos3d and would have to be sinusoid1d"),
        ("videomae", "mvd", "position is sinusoid1d and would have to be sincos3d"),
        ("videomae", "mae", "kind is video and would have to be image"),
        ("mae", "timm", None),
        ("mae", "mae_pretraining", None),
        ("mae", "nonsense", "format 'nonsense' is not written; formats are mvd_ds, mvd, "),
        ("videomae_finetuned", "videomae", "final_norm"),
    ],
)
def test_formats_that_cannot_hold_a_model(name, to, words, tmp_path):
    if words is None:
        mvd_ds.save(opened(name), tmp_path / "out", to)
        return
    with pytest.raises(ConfigError) as error:
        mvd_ds.save(opened(name), tmp_path / "out", to)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_targets_without_a_name_in_the_format_are_named():
    model = mvd_ds.build_student(
        {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_px": 8}, targets={"flow": 8}, frames=2, size_px=16
    )
    with pytest.raises(
        ConfigError, match=r"'mvd' cannot hold this model: it has no place for the decoder of 'flow' \(\d+ tensors\)"
    ):
        mvd_ds.export(model, "mvd")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ConfigError, match=r"back\.pth: cannot be written: .*No space left"):
        mvd_ds.save(opened("mae"), tmp_path / "back.pth", "mae")
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_timm_reads_an_image_teacher_of_ours(tmp_path):
    timm = pytest.importorskip("timm")
    ours = mvd_ds.build_encoder(
        {
            "kind": "image",
            "embed_dim": 192,
            "depth": 12,
            "num_heads": 3,
            "tubelet_frames": 1,
            "position": "sincos2d",
            "qkv_bias": "full",
            "cls_token": True,
        },
        size_px=64,
    ).eval()
    mvd_ds.save(ours, tmp_path / "timm", "timm")
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["architecture"] == "vit_tiny_patch16_224"
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    clip = torch.randn(2, 3, 1, 64, 64)
    torch.testing.assert_close(theirs.forward_features(clip[:, :, 0]), ours(clip), atol=1e-5, rtol=1e-5)
    again, checkpoint = mvd_ds.open_model(tmp_path / "timm", encoder={"num_heads": 3})
    assert checkpoint.layout.name == "timm"
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


def test_a_converted_folder_is_a_teacher(recipe, tmp_path):
    mvd_ds.save(opened("videomae"), tmp_path / "ours")
    settings = {"embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 2.5, "weights": str(tmp_path / "ours")}
    chosen = recipe(data={"clip": {"frames": 6, "size_px": 24}}, teachers={"video": settings}, masking={"ratio": 0.5})
    teacher = build_teacher("video", chosen.teachers["video"], chosen)
    clip = torch.randn(1, 3, 6, 24, 24)
    expected = published.video_features(published.videomae(), clip)
    assert (teacher(clip) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_every_format_that_is_written_says_what_it_is():
    assert all(what.startswith(("file: ", "folder: ")) for what in WRITTEN.values())
