"""Transformers' own models, randomly initialised and saved by themselves: every layer's features are equal here, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mvd_ds
import published
from mvd_ds.config import ConfigError
from mvd_ds.models import build_teacher

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

LIMIT = 1e-5
SHARED = {"image_size": 40, "patch_size": 8, "num_hidden_layers": 3, "num_attention_heads": 5, "intermediate_size": 70}
DECODER = {
    "decoder_hidden_size": 18,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 50,
}
VIDEO = SHARED | DECODER | {"hidden_size": 30, "num_frames": 6, "tubelet_size": 3, "num_labels": 7}
IMAGE = SHARED | DECODER | {"hidden_size": 20, "decoder_hidden_size": 24}
CLIP = torch.randn(2, 3, 6, 40, 40, generator=published.normal(1))
MASK = torch.rand(2, 50, generator=published.normal(2)).argsort(dim=1) < 37


def peer(name: str, folder: Path, **changes):
    """A model of transformers with random weights, biases included, and the folder it wrote."""
    is_video = name.startswith("VideoMAE")
    config = (transformers.VideoMAEConfig if is_video else transformers.ViTMAEConfig)(
        **((VIDEO if is_video else IMAGE) | changes)
    )
    model = getattr(transformers, name)(config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


def error_of(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max().clamp_min(1)).item()


@torch.no_grad()
def layers(encoder, clip: torch.Tensor) -> list[torch.Tensor]:
    tokens = encoder.embed(clip)
    outputs = [tokens]
    for block in encoder.blocks:
        tokens = block(tokens)
        outputs.append(tokens)
    return outputs


@pytest.mark.parametrize("pooling", [False, True])
@torch.no_grad()
def test_every_layer_of_videomae(tmp_path, pooling):
    model = peer("VideoMAEModel", tmp_path, use_mean_pooling=pooling)
    ours, checkpoint = mvd_ds.open_model(tmp_path)
    assert checkpoint.layout.name == "hf_videomae"
    expected = model(CLIP.transpose(1, 2), output_hidden_states=True)
    for value, wanted in zip(layers(ours, CLIP), expected.hidden_states, strict=True):
        assert error_of(value, wanted) < LIMIT
    assert error_of(ours(CLIP), expected.last_hidden_state) < LIMIT
    assert isinstance(ours.norm, torch.nn.Identity) == pooling


@pytest.mark.parametrize("pooling", [False, True])
@torch.no_grad()
def test_videomae_pretraining(tmp_path, pooling):
    model = peer("VideoMAEForPreTraining", tmp_path, use_mean_pooling=pooling)
    ours, checkpoint = mvd_ds.open_model(tmp_path)
    assert checkpoint.layout.name == "hf_videomae_pretraining"
    assert error_of(ours(CLIP, MASK)["pixels"], model(CLIP.transpose(1, 2), bool_masked_pos=MASK).logits) < LIMIT


@torch.no_grad()
def test_videomae_classifier(tmp_path):
    model = peer("VideoMAEForVideoClassification", tmp_path)
    ours, checkpoint = mvd_ds.open_model(tmp_path)
    assert checkpoint.layout.name == "hf_videomae_classifier"
    assert error_of(ours(CLIP), model(CLIP.transpose(1, 2)).logits) < LIMIT


@torch.no_grad()
def test_every_layer_of_vitmae(tmp_path):
    model = peer("ViTMAEModel", tmp_path, mask_ratio=0.0)
    ours, checkpoint = mvd_ds.open_model(tmp_path)
    assert checkpoint.layout.name == "hf_vitmae"
    in_order = torch.arange(25.0).expand(2, 25)  # without it transformers shuffles patches even where it masks none
    expected = model(CLIP[:, :, 0], noise=in_order, output_hidden_states=True)
    for value, wanted in zip(layers(ours, CLIP[:, :, :1]), expected.hidden_states, strict=True):
        assert error_of(value, wanted) < LIMIT
    assert error_of(ours(CLIP[:, :, :1]), expected.last_hidden_state) < LIMIT


@pytest.mark.parametrize("fixed", [False, True])
@torch.no_grad()
def test_vitmae_pretraining(tmp_path, fixed):
    model = peer("ViTMAEForPreTraining", tmp_path)
    if fixed:  # published files hold the sin-cos tables; models that transformers 5 has just initialised hold zeros
        for part, name, width in ((model.vit.embeddings, "position_embeddings", 20), (model.decoder, "decoder_pos_embed", 24)):
            getattr(part, name)[0, 1:] = published.sincos2d(width, 5, 5)
        model.save_pretrained(tmp_path)
    ours, checkpoint = mvd_ds.open_model(tmp_path)
    assert checkpoint.layout.name == "hf_vitmae_pretraining"
    assert (ours.encoder.settings.position == "sincos2d") == fixed
    expected = model(CLIP[:, :, 0], noise=torch.rand(2, 25, generator=published.normal(3)))
    hidden = expected.mask.bool()
    value = ours(CLIP[:, :, :1], hidden)["pixels"]
    assert error_of(value, expected.logits[hidden].reshape(value.shape)) < LIMIT


NAMES = ["VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification", "ViTMAEModel", "ViTMAEForPreTraining"]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_there_and_back(tmp_path, name):
    changes = {"use_mean_pooling": name != "VideoMAEForPreTraining"} if name.startswith("VideoMAE") else {}
    model = peer(name, tmp_path / "theirs", **changes)
    ours, _ = mvd_ds.open_model(tmp_path / "theirs")
    notes = mvd_ds.save(ours, tmp_path / "again", "huggingface")
    assert [note[:27] for note in notes] == (["ViTMAEModel shuffles patche"] if name == "ViTMAEModel" else [])
    theirs, again = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "again"))
    if name == "ViTMAEForPreTraining":  # transformers 5.23 writes other names for its decoder than it publishes; it reads both
        again = {key.replace("decoder_layers", "decoder_encoder.layer"): value for key, value in again.items()}
    assert theirs.keys() == again.keys()
    assert all(torch.equal(theirs[key], again[key]) for key in theirs)
    reloaded = type(model).from_pretrained(tmp_path / "again").eval()
    for (key, value), other in zip(model.state_dict().items(), reloaded.state_dict().values(), strict=True):
        assert torch.equal(value, other), key


@torch.no_grad()
def test_an_encoder_of_a_student_gives_the_same_features_there(tmp_path):
    """A student of image and video teachers, its encoder as VideoMAEModel, with the pixels that it was trained on."""
    shape = {"embed_dim": 30, "depth": 2, "num_heads": 5, "patch_px": 8, "tubelet_frames": 3, "position": "sinusoid1d"}
    student = mvd_ds.build_student(shape, targets={"image": 8, "video": 8}, frames=6, size_px=40).eval()
    mvd_ds.save(student, tmp_path / "video", "huggingface_encoder")
    theirs = transformers.VideoMAEModel.from_pretrained(tmp_path / "video").eval()
    assert error_of(theirs(CLIP.transpose(1, 2)).last_hidden_state, student.encoder(CLIP)) < LIMIT
    frames = torch.randint(0, 256, (6, 40, 40, 3), dtype=torch.uint8, generator=published.normal(4)).numpy()
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path / "video")
    pixels = processor(list(frames), return_tensors="pt")["pixel_values"].transpose(1, 2)
    ours = mvd_ds.normalise(torch.from_numpy(frames).permute(3, 0, 1, 2)[None])
    assert (pixels - ours).abs().max() < 1e-5
    image = shape | {"kind": "image", "tubelet_frames": 1, "position": "sincos2d", "qkv_bias": "full", "cls_token": True}
    teacher = mvd_ds.build_encoder(image | {"embed_dim": 20}, 1, 40).eval()
    mvd_ds.save(teacher, tmp_path / "image", "huggingface")
    theirs = transformers.ViTMAEModel.from_pretrained(tmp_path / "image").eval()
    in_order = torch.arange(25).expand(2, -1)
    assert error_of(theirs(CLIP[:, :, 0], noise=in_order).last_hidden_state, teacher(CLIP[:, :, :1])) < LIMIT
    assert tuple(transformers.AutoImageProcessor.from_pretrained(tmp_path / "image").image_mean) == (0.485, 0.456, 0.406)


def respell(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name.replace(old, new): value for name, value in tensors.items()}, folder / "model.safetensors")


@torch.no_grad()
def test_both_spellings_of_the_biases_and_of_vitmae(tmp_path):
    model = peer("VideoMAEModel", tmp_path)
    for old, new in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
        respell(tmp_path, f"attention.attention.{old}", f"attention.attention.{new}")
    ours, _ = mvd_ds.open_model(tmp_path)
    assert error_of(ours(CLIP), model(CLIP.transpose(1, 2)).last_hidden_state) < LIMIT
    in_memory = peer("ViTMAEModel", tmp_path / "image")
    from_memory, _ = mvd_ds.open_model(in_memory.state_dict(), encoder={"num_heads": 5})
    from_file, _ = mvd_ds.open_model(tmp_path / "image")
    assert all(torch.equal(a, b) for a, b in zip(from_memory.parameters(), from_file.parameters(), strict=True))


def test_biases_that_a_conversion_lost_are_refused(tmp_path):
    peer("VideoMAEModel", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, value in tensors.items():
        if name.endswith(("q_bias", "v_bias")):
            value.zero_()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="all q and v biases of encoder are zero and its other biases are not"):
        mvd_ds.open_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 4}, "13 missing: encoder.layer.3.layernorm_before.weight"),
        ({"hidden_size": 60}, "of another shape: "),
        ({"hidden_act": "relu"}, "hidden_act relu: only gelu is built here"),
        ({"qv_bias": False}, "attention without biases is not built here"),
        ({"image_size": [40, 48]}, "only squares are built here"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, change, words):
    peer("VideoMAEModel", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as error:
        mvd_ds.open_model(tmp_path)
    assert words in str(error.value)


def test_a_student_of_mvd_is_refused_with_the_reason(tmp_path):
    model, _ = mvd_ds.open_model(published.mvd_student(), encoder={"num_heads": 4}, decoder={"num_heads": 2})
    with pytest.raises(ConfigError) as error:
        mvd_ds.save(model, tmp_path / "out", "huggingface")
    assert "position is sincos3d and would have to be sinusoid1d (that format has no place for a position table" in str(
        error.value
    )
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_a_folder_is_a_teacher(tmp_path, recipe):
    """Pretraining folder, final norm left out: the features before it, as MVD takes them."""
    model = peer("VideoMAEForPreTraining", tmp_path, num_frames=4, tubelet_size=2, image_size=32, use_mean_pooling=True)
    settings = {"embed_dim": 30, "depth": 3, "num_heads": 5, "mlp_ratio": 70 / 30, "weights": str(tmp_path)}
    chosen = recipe(teachers={"video": settings})
    clip = CLIP[:, :, :4, :32, :32]
    expected = model.videomae(clip.transpose(1, 2)).last_hidden_state
    assert error_of(build_teacher("video", chosen.teachers["video"], chosen)(clip), expected) < LIMIT
    chosen = recipe(teachers={"video": settings | {"target": {"norm": "final"}}})
    with pytest.raises(ConfigError, match=r"teachers\.video\.target\.norm final: .* has no norm after its last block"):
        build_teacher("video", chosen.teachers["video"], chosen)
