"""Blocks of today against formulas written out, and whole encoders against the modules of transformers."""

from __future__ import annotations

import pytest
import torch

import mvd_ds
from mvd_ds.config import EncoderSettings, OptimizerSettings
from mvd_ds.models.acceleration.compiled import compile_blocks
from mvd_ds.models.blocks.rotary import Rotary
from mvd_ds.models.blocks.style import PLAIN, BlockStyle
from mvd_ds.models.initialisation import initialise
from mvd_ds.models.layers import Block, run_blocks
from mvd_ds.training.optim import parameter_groups

MODERN = BlockStyle("rmsnorm", "swiglu", 0.1, "head", None)


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def randomised(block: Block) -> Block:
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


@pytest.mark.parametrize("qk_norm", ["head", "width"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_block_of_today_equals_its_formula(qk_norm, kernel):
    block = randomised(Block(32, 4, 2.0, "full", kernel, 1e-6, MODERN._replace(qk_norm=qk_norm)))
    given = tokens = torch.randn(2, 7, 32)
    weights = {name: value.detach() for name, value in block.named_parameters()}
    normed = rms(tokens, weights["norm_attention.weight"])
    query, key, value = (normed @ weights["attention.qkv.weight"].T + weights["attention.qkv.bias"]).chunk(3, -1)

    def heads(part: torch.Tensor) -> torch.Tensor:
        return part.unflatten(-1, (4, 8)).transpose(1, 2)

    if qk_norm == "width":
        query, key = (rms(part, weights[f"attention.norm_{name}.weight"]) for part, name in ((query, "query"), (key, "key")))
    query, key, value = heads(query), heads(key), heads(value)
    if qk_norm == "head":
        query, key = (rms(part, weights[f"attention.norm_{name}.weight"]) for part, name in ((query, "query"), (key, "key")))
    mixed = ((query @ key.transpose(-1, -2) / 8**0.5).softmax(-1) @ value).transpose(1, 2).flatten(2)
    attended = mixed @ weights["attention.projection.weight"].T + weights["attention.projection.bias"]
    tokens = tokens + weights["scale_attention.weight"] * attended
    normed = rms(tokens, weights["norm_mlp.weight"])
    gate, up = (normed @ weights[f"mlp.{name}.weight"].T + weights[f"mlp.{name}.bias"] for name in ("gate", "expand"))
    hidden = gate * torch.sigmoid(gate) * up
    expected = tokens + weights["scale_mlp.weight"] * (hidden @ weights["mlp.contract.weight"].T + weights["mlp.contract.bias"])
    torch.testing.assert_close(block(given), expected, atol=1e-5, rtol=1e-4)


def test_the_default_style_is_the_block_of_before():
    assert {name for name, _ in Block(16, 2).named_parameters()} == {
        *(f"norm_{part}.{kind}" for part in ("attention", "mlp") for kind in ("weight", "bias")),
        *(f"attention.{name}" for name in ("qkv.weight", "qkv.q_bias", "qkv.v_bias", "projection.weight", "projection.bias")),
        *(f"mlp.{name}.{kind}" for name in ("expand", "contract") for kind in ("weight", "bias")),
    }
    assert BlockStyle.of(EncoderSettings(size="small")) == PLAIN


def turns_of(heads_width: int) -> torch.Tensor:
    return Rotary("rope3d", (1, 2, 4), heads_width)()


STACK = MODERN._replace(rotation="rope3d")


@pytest.mark.parametrize("every", [1, 2])
def test_recomputed_and_compiled_blocks_change_no_gradient(every):
    """Drop path, activation checkpointing and graphs, with all of today's choices at once."""
    outcomes = []
    for checkpoint_every, compiled in ((0, False), (every, False), (every, True)):
        torch.manual_seed(3)
        torch._dynamo.reset()
        stack = torch.nn.Module()
        stack.blocks = torch.nn.ModuleList(randomised(Block(32, 2, style=STACK)) for _ in range(3))
        graphs = compile_blocks(stack, "stack", "aot_eager") if compiled else []
        tokens, factors = torch.randn(2, 8, 32, requires_grad=True), torch.rand(2, 3, 2)
        output = run_blocks(stack.blocks, tokens, factors, checkpoint_every, turns=turns_of(16))
        outcomes.append([output, *torch.autograd.grad(output.square().mean(), [tokens, *stack.parameters()])])
        assert all(graph.fault is None and len(graph.usual) == 1 for graph in graphs)
    for plain, recomputed, compiled in zip(*outcomes, strict=True):
        assert torch.equal(plain, recomputed)
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


def test_the_last_block_gives_what_is_wanted():
    blocks = torch.nn.ModuleList(randomised(Block(32, 2, style=STACK)) for _ in range(2))
    tokens, wanted = torch.randn(2, 8, 32), torch.tensor([[5, 0], [1, 7]])
    found = run_blocks(blocks, tokens, None, 0, wanted, turns_of(16))
    whole = run_blocks(blocks, tokens, None, 0, turns=turns_of(16))
    torch.testing.assert_close(found, whole.gather(1, wanted[:, :, None].expand(-1, -1, 32)), atol=1e-5, rtol=1e-4)


MODEL = {"embed_dim": 40, "depth": 2, "num_heads": 2, "patch_px": 8, "position": "rope3d"}
TODAY = {"registers": 3, "cls_token": True, "layer_scale": 0.1, "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": "head"}


def test_new_parameters_start_by_name_and_are_not_decayed():
    model = mvd_ds.build_student(MODEL | TODAY, targets={"video": 24}, frames=4, size_px=32, seed=5)
    encoder = model.encoder
    assert encoder.registers.weight.shape == (1, 3, 40) and encoder.registers.weight.std().item() == pytest.approx(0.02, rel=0.4)
    scales = {name: value for name, value in model.named_parameters() if ".scale_" in name}
    assert len(scales) == 2 * (2 + 2) and all((value == 0.1).all() for value in scales.values())
    again = initialise(mvd_ds.build_student(MODEL | TODAY | {"depth": 3}, targets={"video": 24}, frames=4, size_px=32, seed=1), 5)
    assert torch.equal(again.encoder.registers.weight, encoder.registers.weight)
    assert torch.equal(again.encoder.blocks[1].mlp.gate.weight, encoder.blocks[1].mlp.gate.weight)
    groups = {group["name"]: {id(p) for p in group["params"]} for group in parameter_groups(model, OptimizerSettings())}
    for name, parameter in model.named_parameters():
        is_free = parameter.ndim == 1 or name.endswith("bias") or "cls_token" in name or "registers" in name
        assert id(parameter) in groups["no_decay" if is_free else "decay"], name


def test_registers_are_seen_and_given_to_nobody():
    encoder = mvd_ds.build_encoder(MODEL | {"registers": 3}, 4, 32)
    clip = torch.randn(2, 3, 4, 32, 32)
    assert encoder.embed(clip).shape == (2, 35, 40) and encoder(clip).shape == (2, 32, 40)
    seen = encoder(clip)
    torch.nn.init.normal_(encoder.registers.weight, std=3.0)
    assert not torch.allclose(encoder(clip), seen)


def dinov3(**more):
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
    config = DINOv3ViTConfig(**sizes, patch_size=8, image_size=32, num_register_tokens=3, layerscale_value=0.5, **more)
    torch.manual_seed(0)
    model = DINOv3ViTModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_registers_rotation_scale_and_swiglu_are_those_of_dinov3(gated):
    """Tokens after the first, the middle and the last block, the class token among them."""
    theirs = dinov3(use_gated_mlp=gated, hidden_act="silu" if gated else "gelu")
    settings = {"kind": "image", "tubelet_frames": 1, "embed_dim": 40, "depth": 3, "num_heads": 2, "patch_px": 8}
    settings |= {"position": "rope2d", "cls_token": True, "registers": 3, "layer_scale": 1e-5, "mlp_ratio": 2.4}
    settings |= {"mlp": "swiglu" if gated else "gelu", "norm_eps": theirs.config.layer_norm_eps}
    ours = mvd_ds.build_encoder(settings, 1, 32).eval()
    fill_from_dinov3(ours, theirs.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    seen = []
    for layer in theirs.model.layer if hasattr(theirs, "model") else theirs.layer:
        layer.register_forward_hook(
            lambda _module, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    last = theirs(pixels).last_hidden_state
    tokens = ours.embed(pixels[:, :, None])
    for block, expected in zip(ours.blocks, seen, strict=True):
        tokens = run_blocks([block], tokens, None, 0, turns=ours.turns())
        assert (tokens - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (ours(pixels[:, :, None]) - ours.without_registers(last)).abs().max() < 1e-5 * last.abs().max()


def fill_from_dinov3(ours: torch.nn.Module, theirs: dict[str, torch.Tensor]) -> None:
    state = {}
    theirs = {name.removeprefix("model."): value for name, value in theirs.items()}
    for name in ours.state_dict():
        parts = name.split(".")
        layer = f"layer.{parts[1]}." if parts[0] == "blocks" else ""
        inside = ".".join(parts[2:])
        if name == "patch_embed.weight":
            state[name] = theirs["embeddings.patch_embeddings.weight"].unsqueeze(2)
        elif inside == "attention.qkv.weight":
            state[name] = torch.cat([theirs[f"{layer}attention.{part}_proj.weight"] for part in "qkv"])
        else:
            state[name] = theirs[layer + NAMES[inside or name]]
    ours.load_state_dict(state)


NAMES = {
    "patch_embed.bias": "embeddings.patch_embeddings.bias",
    "cls_token.weight": "embeddings.cls_token",
    "registers.weight": "embeddings.register_tokens",
    "norm_attention.weight": "norm1.weight",
    "norm_attention.bias": "norm1.bias",
    "attention.qkv.q_bias": "attention.q_proj.bias",
    "attention.qkv.v_bias": "attention.v_proj.bias",
    "attention.projection.weight": "attention.o_proj.weight",
    "attention.projection.bias": "attention.o_proj.bias",
    "scale_attention.weight": "layer_scale1.lambda1",
    "norm_mlp.weight": "norm2.weight",
    "norm_mlp.bias": "norm2.bias",
    "scale_mlp.weight": "layer_scale2.lambda1",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
} | {
    f"mlp.{ours}.{kind}": f"mlp.{theirs}.{kind}"
    for ours, theirs in (("gate", "gate_proj"), ("expand", "up_proj"), ("contract", "down_proj"))
    for kind in ("weight", "bias")
}
