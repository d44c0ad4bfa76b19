"""Networks of transformers teach: the tokens of their blocks and their summary are those of transformers itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn

import mvd_ds
from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD, ConfigError, TeacherSettings
from mvd_ds.config.hf_folder import find_folder
from mvd_ds.models.networks import hf_family
from mvd_ds.models.networks.family import Reads

WIDTH = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**WIDTH, "vocab_size": 20, "max_position_embeddings": 8}
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


class Case(NamedTuple):
    """A tiny network of transformers: its config, its class, the module inside that gives tokens, and its sizes."""

    config: Any
    kind: str
    inside: str
    prefix: int
    frames: int = 1
    side: int = 32
    inputs: str = "pixel_values"
    norm: str = "layernorm"


def _siglip2(**more: Any) -> Any:
    return transformers.Siglip2Config(text_config=TEXT, vision_config={**WIDTH, "patch_size": 8, "num_patches": 16, **more})


CASES = {
    "vjepa2": Case(
        transformers.VJEPA2Config(
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            mlp_ratio=2,
            patch_size=8,
            crop_size=32,
            frames_per_clip=8,
            pred_hidden_size=12,
            pred_num_hidden_layers=1,
            pred_num_attention_heads=2,
        ),
        "VJEPA2Model",
        "encoder",
        0,
        8,
        inputs="pixel_values_videos",
    ),
    "videomae": Case(
        transformers.VideoMAEConfig(
            **WIDTH,
            image_size=32,
            patch_size=8,
            num_frames=4,
            use_mean_pooling=False,
            decoder_hidden_size=12,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=24,
        ),
        "VideoMAEForPreTraining",
        "videomae",
        0,
        4,
    ),
    "videomae fine-tuned": Case(
        transformers.VideoMAEConfig(**WIDTH, image_size=32, patch_size=8, num_frames=4, use_mean_pooling=True, num_labels=3),
        "VideoMAEForVideoClassification",
        "videomae",
        0,
        4,
        norm="",
    ),
    "vit_mae": Case(
        transformers.ViTMAEConfig(
            **WIDTH,
            image_size=32,
            patch_size=8,
            decoder_hidden_size=12,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=24,
            mask_ratio=0.75,
        ),
        "ViTMAEForPreTraining",
        "vit",
        1,
    ),
    "dinov2_with_registers": Case(
        transformers.Dinov2WithRegistersConfig(**WIDTH, image_size=56, patch_size=8, num_register_tokens=4, use_swiglu_ffn=True),
        "Dinov2WithRegistersModel",
        "",
        5,
    ),
    "dinov3_vit": Case(
        transformers.DINOv3ViTConfig(**WIDTH, image_size=32, patch_size=8, num_register_tokens=2),
        "DINOv3ViTModel",
        "",
        3,
        norm="norm",
    ),
    "siglip": Case(
        transformers.SiglipConfig(text_config=TEXT, vision_config={**WIDTH, "patch_size": 8, "image_size": 32}),
        "SiglipModel",
        "vision_model",
        0,
        norm="post_layernorm",
    ),
    "siglip2": Case(_siglip2(), "Siglip2Model", "vision_model", 0, norm="post_layernorm"),
    "clip": Case(
        transformers.CLIPConfig(text_config=TEXT, vision_config={**WIDTH, "patch_size": 8, "image_size": 32}),
        "CLIPModel",
        "vision_model",
        1,
        norm="post_layernorm",
    ),
    "vit, in no row": Case(
        transformers.ViTConfig(**WIDTH, image_size=32, patch_size=8, num_labels=3), "ViTForImageClassification", "vit", 1
    ),
}


def write(case: Case, folder: Path, seed: int = 0) -> nn.Module:
    """Write a folder as transformers does, with weights large enough that every layer matters, and a processor."""
    torch.manual_seed(seed)
    model = getattr(transformers, case.kind)(case.config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD, "size": {"height": 32, "width": 32}})
    )
    return model


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path, nn.Module]:
    case, folder = CASES[request.param], tmp_path_factory.mktemp("hf")
    return case, folder, write(case, folder)


def build(case: Case, folder: Path, **more: Any) -> Any:
    return mvd_ds.build_teacher(
        {"network": f"hf:{folder}", "weights": str(folder), "input_px": case.side, **more},
        frames=max(case.frames, 2),
        size_px=case.side,
    )


def theirs(case: Case, model: Any, pixels: Tensor) -> Any:
    """What transformers gives for pixels in [0, 1], (B, C, T, H, W), with all hidden states."""
    shape = (3, 1, 1, 1)
    clip = (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    inside = model.get_submodule(case.inside)
    if case.frames > 1:
        given = {case.inputs: clip.transpose(1, 2)}
    elif case.kind == "Siglip2Model":
        patches = clip[:, :, 0].unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(len(clip), 16, -1)
        given = {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(len(clip), 16),
            "spatial_shapes": torch.full((len(clip), 2), 4),
        }
    else:
        given = {"pixel_values": clip[:, :, 0]}
    if case.kind.startswith("ViTMAE"):
        given["noise"] = torch.arange(16.0).expand(len(clip), -1)
        model.config.mask_ratio = 0.0
    seen: list[Tensor] = []
    stack = max((m for m in inside.modules() if isinstance(m, nn.ModuleList)), key=len)
    handles = [block.register_forward_hook(lambda m, i, o: seen.append(o if isinstance(o, Tensor) else o[0])) for block in stack]
    output = inside(**given)
    for handle in handles:
        handle.remove()
    return output, seen


@torch.no_grad()
def test_tokens_are_those_of_transformers(written: tuple[Case, Path, nn.Module]) -> None:
    case, folder, model = written
    pixels = torch.rand(2, 3, case.frames, case.side, case.side)
    shape = (3, 1, 1, 1)
    clip = (pixels - torch.tensor(IMAGENET_MEAN).view(shape)) / torch.tensor(IMAGENET_STD).view(shape)
    _, hidden = theirs(case, model, pixels)
    assert len(hidden) == 3
    for block in (0, 1, -1):
        network = build(case, folder, target={"blocks": [block]}).network
        torch.testing.assert_close(network.read(clip).tokens[block % 3], hidden[block][:, case.prefix :], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_summaries_heads_and_attention_are_those_of_transformers(
    written: tuple[Case, Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, folder, model = written
    everything = Reads((), bool(case.norm), (0, 2), (1,), (0, 1))
    monkeypatch.setattr(hf_family, "reads_of", lambda settings, count: everything)
    network = build(case, folder, target={"norm": "final" if case.norm else "none"}).network
    pixels = torch.rand(2, 3, case.frames, case.side, case.side)
    shape = (3, 1, 1, 1)
    read = network.read((pixels - torch.tensor(IMAGENET_MEAN).view(shape)) / torch.tensor(IMAGENET_STD).view(shape))
    inside = model.get_submodule(case.inside)
    model.set_attn_implementation("eager")
    output, hidden = theirs(case, model, pixels)
    normed = [getattr(inside, case.norm)(tokens) if case.norm else tokens for tokens in hidden]
    for block, found in read.summaries.items():
        pooled = getattr(output, "pooler_output", None)
        has_own = block == 2 and pooled is not None
        mean = normed[block].mean(1) if not case.prefix else normed[block][:, 0]
        torch.testing.assert_close(found, pooled if has_own else mean, atol=1e-5, rtol=1e-5)
    weights = attention_of(case, model, pixels)
    for block, found in read.attention.items():
        expected = weights[block].mean(1)
        expected = expected[:, 0, case.prefix :] if case.prefix else expected.mean(1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    query, key, _ = read.qkv[1].unbind(2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    seen = weights[1][:, :, case.prefix :, case.prefix :]
    torch.testing.assert_close(scores.softmax(-1), seen / seen.sum(-1, keepdim=True), atol=1e-5, rtol=1e-4)
    assert read.tokens == {} and query.shape[2:] == (2, 12)


def attention_of(case: Case, model: Any, pixels: Tensor) -> list[Tensor]:
    """The attention weights (B, heads, N, N) of all blocks, as the eager attention of transformers computes them."""
    seen: list[Tensor] = []
    softmax = torch.nn.functional.softmax

    def keep(scores: Tensor, *arguments: Any, **options: Any) -> Tensor:
        weights = softmax(scores, *arguments, **options)
        if weights.ndim == 4:
            seen.append(weights)
        return weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", keep)
        theirs(case, model, pixels)
    return seen


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
