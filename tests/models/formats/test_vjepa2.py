"""V-JEPA 2: random weights of transformers and of the published names, block by block; written, read, and a student's start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import VJEPA2Config, VJEPA2Model

import mvd_ds
from mvd_ds.config import ConfigError, EncoderSettings
from mvd_ds.models.layers import run_blocks

FRAMES, SIDE, DEPTH, HEADS, WIDTH = 6, 32, 3, 2, 48
ENCODER = {"network_style": "vjepa2", "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "patch_px": 8, "mlp_ratio": 2.5}
State = dict[str, torch.Tensor]


def theirs(**more) -> VJEPA2Model:
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": DEPTH, "mlp_ratio": 2.5}
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    geometry = {"patch_size": 8, "crop_size": SIDE, "frames_per_clip": FRAMES}
    model = VJEPA2Model(VJEPA2Config(**sizes, **predictor, **geometry, **more)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=generator)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vjepa2") / "hf"
    theirs().save_pretrained(path)
    return path


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_every_block_gives_the_tokens_of_transformers(folder):
    ours, checkpoint = mvd_ds.open_model(folder)
    assert checkpoint.layout.name == "hf_vjepa2" and ours.settings.position == "rope3d_vjepa2"
    assert ours.settings == EncoderSettings.model_validate(ENCODER).model_copy(update={"network_style": None})
    clip, seen, model = torch.randn(2, 3, FRAMES, SIDE, SIDE), [], theirs()
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    last = model(clip.transpose(1, 2), skip_predictor=True).last_hidden_state
    tokens = ours.embed(clip)
    for block, expected in zip(ours.blocks, seen, strict=True):
        tokens = run_blocks([block], tokens, None, 0, turns=ours.turns())
        assert_near(tokens, expected)
    assert_near(ours(clip), last)


@torch.no_grad()
def test_visible_tokens_alone_give_those_of_transformers(folder):
    ours, model = mvd_ds.open_model(folder)[0], theirs()
    clip = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    visible = torch.stack([torch.randperm(48)[:10] for _ in range(2)])
    tokens = model.encoder.embeddings(clip.transpose(1, 2)).gather(1, visible[:, :, None].expand(-1, -1, WIDTH))
    for layer in model.encoder.layer:
        tokens = layer(tokens, position_mask=visible)[0]
    assert_near(ours(clip, visible[:, None]), model.encoder.layernorm(tokens))


@torch.no_grad()
@pytest.mark.parametrize("norm", ["none", "final"])
def test_it_teaches(folder, norm):
    target = {"blocks": [1], "norm": norm}
    teacher = mvd_ds.build_teacher({**ENCODER, "weights": str(folder), "target": target}, FRAMES, SIDE)
    clip, model = torch.randn(2, 3, FRAMES, SIDE, SIDE), theirs()
    tokens = model.encoder.embeddings(clip.transpose(1, 2))
    for layer in model.encoder.layer[:2]:
        tokens = layer(tokens)[0]
    expected = model.encoder.layernorm(tokens) if norm == "final" else tokens
    wanted = torch.tensor([[0, 47, 5], [9, 1, 30]])
    features = teacher(clip, wanted)
    features = features if isinstance(features, torch.Tensor) else next(iter(features.values()))
    assert_near(features, expected.gather(1, wanted[:, :, None].expand(-1, -1, WIDTH)))


def published(folder: Path, **more: torch.Tensor) -> State:
    """The same weights under the names of the published code."""
    state: State = {}
    for name, value in mvd_ds.read_checkpoint(folder).state.items():
        for ours, original in (
            ("encoder.", ""),
            ("patch_embed.", "patch_embed.proj."),
            ("norm_attention", "norm1"),
            ("norm_mlp", "norm2"),
            ("attention.projection", "attn.proj"),
            ("attention.qkv", "attn.qkv"),
            ("mlp.expand", "mlp.fc1"),
            ("mlp.contract", "mlp.fc2"),
        ):
            name = name.replace(ours, original)
        state[name] = value
    return state | more


def as_published_file(state: State, key: str) -> dict:
    wrapped = {f"module.backbone.{name}": value for name, value in state.items()}
    return {key: wrapped, "predictor": {"module.backbone.mask_tokens.0": torch.zeros(1)}, "epoch": 3, "opt": {"state": {}}}


@torch.no_grad()
def test_files_of_the_published_code_are_read_and_written(folder, tmp_path):
    state = published(folder)
    torch.save(as_published_file(state | {"pos_embed": torch.zeros(1, 48, WIDTH)}, "target_encoder"), tmp_path / "vitx.pt")
    checkpoint = mvd_ds.read_checkpoint(tmp_path / "vitx.pt")
    assert checkpoint.layout.name == "vjepa2"
    assert [row.theirs for row in checkpoint.rows if row.ours is None] == ["pos_embed"]
    assert "V-JEPA 1 has these names and is not read" in checkpoint.notes[-1]
    known = {"num_heads": HEADS}
    model, _ = mvd_ds.open_model(tmp_path / "vitx.pt", encoder=known, clip={"frames": FRAMES, "size_px": SIDE})
    clip = torch.randn(1, 3, FRAMES, SIDE, SIDE)
    assert torch.equal(model(clip), mvd_ds.open_model(folder)[0](clip))
    mvd_ds.save(model, tmp_path / "back.pt", "vjepa2")
    written = torch.load(tmp_path / "back.pt", weights_only=True)
    assert written.keys() == {"encoder", "target_encoder"}
    for part in written.values():
        assert part.keys() == {f"module.backbone.{name}" for name in state}
        assert all(torch.equal(part[f"module.backbone.{name}"], value) for name, value in state.items())


def test_hugging_face_through_ours_and_back(folder, tmp_path):
    mvd_ds.save(mvd_ds.open_model(folder)[0], tmp_path / "ours")
    assert mvd_ds.open_model(tmp_path / "ours")[0].settings.position == "rope3d_vjepa2"
    mvd_ds.save(mvd_ds.open_model(tmp_path / "ours")[0], tmp_path / "back", "huggingface")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert after.keys() == {name for name in before if not name.startswith("predictor.")}
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    again = VJEPA2Model.from_pretrained(tmp_path / "back").eval()
    clip = torch.randn(1, FRAMES, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(*(model(clip, skip_predictor=True).last_hidden_state for model in (again, theirs())))


def forward_of_2_1(state: State, clip: torch.Tensor, side: int) -> torch.Tensor:
    """V-JEPA 2.1 as its code computes a video: a vector for videos, places counted on 16 x 16, pairs as complex numbers."""
    x = F.conv3d(clip, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(2, 8, 8))
    grid, x = x.shape[2:], x.flatten(2).transpose(1, 2) + state["video_mod_embed"]
    places = torch.cartesian_prod(*(torch.arange(count).double() for count in grid))
    places[:, 1:] *= 15 / (side - 1)
    count = WIDTH // HEADS // 3 // 2
    turns = torch.polar(torch.ones(1).double(), (places[:, :, None] * 10000.0 ** -(torch.arange(count) / count)).flatten(1))

    def turned(part: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(part[..., : 6 * count].double().unflatten(-1, (-1, 2)).contiguous())
        return torch.cat((torch.view_as_real(pairs * turns).flatten(-2).float(), part[..., 6 * count :]), -1)

    def norm(value: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(value, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(value: torch.Tensor, name: str) -> torch.Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for block in range(DEPTH):
        name = f"blocks.{block}"
        packed = linear(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").unflatten(-1, (3, HEADS, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        weights = (turned(query) @ turned(key).transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        x = x + linear((weights @ value).transpose(1, 2).flatten(2), f"{name}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
    return norm(x, "norms_block.3")


@torch.no_grad()
def test_files_of_2_1(folder, tmp_path):
    state = published(folder, video_mod_embed=torch.randn(1, 1, WIDTH), img_mod_embed=torch.randn(1, 1, WIDTH))
    for number in range(4):
        for kind in ("weight", "bias"):
            state[f"norms_block.{number}.{kind}"] = state[f"norm.{kind}"] + number
    del state["norm.weight"], state["norm.bias"]
    state |= {"patch_embed_img.proj.weight": torch.randn(WIDTH, 3, 1, 8, 8), "patch_embed_img.proj.bias": torch.randn(WIDTH)}
    saved = as_published_file(state, "ema_encoder") | {"target_encoder": {"its.teacher": torch.zeros(2)}}
    torch.save(saved, tmp_path / "vitx21.pt")
    settings = ENCODER | {"network_style": "vjepa2_1", "weights": str(tmp_path / "vitx21.pt"), "target": {"norm": "final"}}
    assert mvd_ds.read_checkpoint(tmp_path / "vitx21.pt").layout.name == "vjepa2_1"
    teacher = mvd_ds.build_teacher(settings, FRAMES, SIDE)
    clip = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    features = teacher(clip)
    features = features if isinstance(features, torch.Tensor) else next(iter(features.values()))
    assert_near(features, forward_of_2_1(state, clip, SIDE // 8))


def test_sizes_of_the_published_networks():
    """Millions as the published tables round them: 300, 600, 1000 and 2000."""
    sizes = {"large": 300e6, "huge": 600e6, "giant": 1000e6, "gigantic": 2000e6}
    for size, parameters in sizes.items():
        settings = EncoderSettings.model_validate({"network_style": "vjepa2", "size": size})
        with torch.device("meta"):
            model = mvd_ds.models.VisionTransformer(settings, (32, 16, 16))
        assert sum(value.numel() for value in model.parameters()) == pytest.approx(parameters, rel=0.08), size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"qkv_bias": False}, "attention without biases is not built here"),
        ({"hidden_act": "silu"}, "hidden_act silu is not built here"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers: it takes a whole number"),
    ],
)
def test_folders_of_other_networks_are_refused(folder, tmp_path, change, words):
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(ConfigError) as error:
        mvd_ds.read_checkpoint(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_another_style_and_another_place_are_named(folder, tmp_path):
    with pytest.raises(
        ConfigError, match="position is rope3d_vjepa2 there and rope3d in the recipe; rope_side is None there and 16"
    ):
        mvd_ds.build_teacher(ENCODER | {"network_style": "vjepa2_1", "weights": str(folder)}, FRAMES, SIDE)
    with pytest.raises(ConfigError, match="registers is 0 there and 4 in the recipe; norm is layernorm there and rmsnorm"):
        mvd_ds.build_teacher(ENCODER | {"registers": 4, "norm": "rmsnorm", "weights": str(folder)}, FRAMES, SIDE)
    today = mvd_ds.build_encoder(ENCODER | {"registers": 4, "layer_scale": 1e-5}, FRAMES, SIDE)
    mvd_ds.save(today, tmp_path / "today")
    assert mvd_ds.open_model(tmp_path / "today")[0].settings.registers == 4
    with pytest.raises(ConfigError, match=r"registers is 4 and would have to be 0 \(that format has no place for another\)"):
        mvd_ds.save(today, tmp_path / "out", "huggingface")
