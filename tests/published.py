"""Files in the published layouts, made of random numbers, and what the published networks compute from them.

Written from the papers' and repositories' facts (names, shapes, order of operations), on plain dictionaries of tensors and
without any module of the package, so that both can be compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
EPS = 1e-6


class Shape(NamedTuple):
    """Of a network: width, depth, heads, hidden width of its MLPs."""

    width: int
    depth: int
    heads: int
    hidden: int


STUDENT, DECODER = Shape(48, 3, 4, 120), Shape(32, 2, 2, 72)
VIDEO, IMAGE = Shape(48, 3, 3, 120), Shape(40, 3, 5, 100)
FRAMES, SIDE, TUBELET, PATCH = 6, 24, 2, 8
GRID = (3, 3, 3)
#: VideoMAE v2's giant, tiny: its MLPs are 48 / 11 of the width, rounded down in its decoder, its patches have 14 pixels.
GIANT, GIANT_DECODER, GIANT_PATCH = Shape(44, 2, 4, 192), Shape(32, 2, 2, 139), 14


def normal(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fill(state: State, seed: int) -> State:
    """Random values: norms around one, everything else around zero, biases included."""
    generator = normal(seed)
    for name, tensor in state.items():
        tensor.normal_(std=0.2, generator=generator)
        if (".norm" in name and name.endswith("weight")) or name in ("norm.weight", "fc_norm.weight"):
            tensor.add_(1.0)
    return state


def _linear(state: State, name: str, rows: int, columns: int, bias: bool = True) -> None:
    state[f"{name}.weight"] = torch.empty(rows, columns)
    if bias:
        state[f"{name}.bias"] = torch.empty(rows)


def _norm(state: State, name: str, width: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.empty(width), torch.empty(width)


def _blocks(state: State, prefix: str, shape: Shape, full_bias: bool = False) -> None:
    for index in range(shape.depth):
        block = f"{prefix}.{index}"
        _norm(state, f"{block}.norm1", shape.width)
        if full_bias:
            _linear(state, f"{block}.attn.qkv", 3 * shape.width, shape.width)
        else:
            state[f"{block}.attn.q_bias"], state[f"{block}.attn.v_bias"] = torch.empty(shape.width), torch.empty(shape.width)
            _linear(state, f"{block}.attn.qkv", 3 * shape.width, shape.width, bias=False)
        _linear(state, f"{block}.attn.proj", shape.width, shape.width)
        _norm(state, f"{block}.norm2", shape.width)
        _linear(state, f"{block}.mlp.fc1", shape.hidden, shape.width)
        _linear(state, f"{block}.mlp.fc2", shape.width, shape.hidden)


def _patches(state: State, prefix: str, width: int, *patch: int) -> None:
    state[f"{prefix}patch_embed.proj.weight"], state[f"{prefix}patch_embed.proj.bias"] = (
        torch.empty(width, 3, *patch),
        torch.empty(width),
    )


def mvd_student(seed: int = 0, cls_token: bool = False) -> State:
    """``model`` of an MVD pretraining checkpoint, frozen tables included."""
    state: State = {}
    if cls_token:
        state["cls_token"] = torch.empty(1, 1, STUDENT.width)
    _patches(state, "", STUDENT.width, TUBELET, PATCH, PATCH)
    _blocks(state, "blocks", STUDENT)
    _norm(state, "norm", STUDENT.width)
    for name, output in (("img", IMAGE.width), ("vid", VIDEO.width)):
        state[f"mask_token_{name}"] = torch.empty(1, 1, DECODER.width)
        _linear(state, f"down_{name}", DECODER.width, STUDENT.width)
        _blocks(state, f"decoder_{name}.blocks", DECODER)
        _norm(state, f"decoder_{name}.norm", DECODER.width)
        _linear(state, f"decoder_{name}.head", output, DECODER.width)
    _fill(state, seed)
    tables = {"pos_embed": STUDENT.width, "pos_embed_img": DECODER.width, "pos_embed_vid": DECODER.width}
    return state | {name: sincos3d(width).unsqueeze(0) for name, width in tables.items()}


def videomae(seed: int = 1, shape: Shape = VIDEO, decoder: Shape = DECODER, patch: int = PATCH) -> State:
    """``model`` of a VideoMAE pretraining checkpoint, version 1 or 2; it has no position table."""
    return _fill(empty_videomae(shape, decoder, patch), seed)


def empty_videomae(shape: Shape, decoder: Shape, patch: int) -> State:
    """Its names and shapes."""
    state: State = {"mask_token": torch.empty(1, 1, decoder.width)}
    _patches(state, "encoder.", shape.width, TUBELET, patch, patch)
    _blocks(state, "encoder.blocks", shape)
    _norm(state, "encoder.norm", shape.width)
    _blocks(state, "decoder.blocks", decoder)
    _norm(state, "decoder.norm", decoder.width)
    _linear(state, "decoder.head", 3 * TUBELET * patch**2, decoder.width)
    _linear(state, "encoder_to_decoder", decoder.width, shape.width, bias=False)
    return state


def mae(seed: int = 2, side: int = 3, patch: int = PATCH) -> State:
    """``model`` of an MAE encoder checkpoint that was made on a grid of ``side`` x ``side``."""
    state: State = {"cls_token": torch.empty(1, 1, IMAGE.width)}
    _patches(state, "", IMAGE.width, patch, patch)
    _blocks(state, "blocks", IMAGE, full_bias=True)
    _norm(state, "norm", IMAGE.width)
    _fill(state, seed)
    table = torch.cat((torch.zeros(1, IMAGE.width), sincos2d(IMAGE.width, side, side)))
    return state | {"pos_embed": table.unsqueeze(0)}


def finetuned(seed: int = 3, classes: int = 11, shape: Shape = VIDEO, patch: int = PATCH) -> State:
    """``model`` of a checkpoint that VideoMAE or MVD fine-tuned."""
    state: State = {}
    _patches(state, "", shape.width, TUBELET, patch, patch)
    _blocks(state, "blocks", shape)
    _norm(state, "fc_norm", shape.width)
    _linear(state, "head", classes, shape.width)
    return _fill(state, seed)


def _waves(positions: np.ndarray, width: int) -> np.ndarray:
    angles = np.array([[position / 10000 ** (2 * i / width) for i in range(width // 2)] for position in positions])
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1)


def sincos2d(width: int, rows: int, columns: int) -> Tensor:
    row, column = np.divmod(np.arange(rows * columns), columns)
    return torch.from_numpy(np.concatenate((_waves(column, width // 2), _waves(row, width // 2)), axis=1)).float()


def sincos3d(width: int) -> Tensor:
    slots, rows, columns = GRID
    space = sincos2d(width * 3 // 4, rows, columns)
    time = torch.from_numpy(_waves(np.arange(slots), width // 4)).float()
    return torch.cat([torch.cat((time[[slot]].expand(len(space), -1), space), dim=1) for slot in range(slots)])


def sinusoid1d(width: int, tokens: int) -> Tensor:
    table = torch.empty(tokens, width)
    for token in range(tokens):
        for channel in range(width):
            angle = token / 10000 ** (2 * (channel // 2) / width)
            table[token, channel] = np.sin(angle) if channel % 2 == 0 else np.cos(angle)
    return table


def embed(state: State, prefix: str, clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, N, D) by a strided convolution."""
    weight, bias = state[f"{prefix}patch_embed.proj.weight"], state[f"{prefix}patch_embed.proj.bias"]
    if weight.ndim == 4:
        weight = weight.unsqueeze(2)
    return F.conv3d(clip, weight, bias, stride=weight.shape[2:]).flatten(2).transpose(1, 2)


def run(state: State, prefix: str, tokens: Tensor, shape: Shape) -> Tensor:
    """Blocks: attention with scaled queries and no bias of keys, then the MLP, each behind a norm and added."""
    for index in range(shape.depth):
        name = f"{prefix}.{index}."
        part = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
        bias = part.get("attn.qkv.bias")
        if bias is None:
            bias = torch.cat((part["attn.q_bias"], torch.zeros(shape.width), part["attn.v_bias"]))
        normed = F.layer_norm(tokens, (shape.width,), part["norm1.weight"], part["norm1.bias"], EPS)
        heads = F.linear(normed, part["attn.qkv.weight"], bias).unflatten(-1, (3, shape.heads, -1))
        query, key, value = (heads[:, :, i].transpose(1, 2) for i in range(3))
        scores = (query * (shape.width // shape.heads) ** -0.5) @ key.transpose(-1, -2)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        tokens = tokens + F.linear(mixed, part["attn.proj.weight"], part["attn.proj.bias"])
        normed = F.layer_norm(tokens, (shape.width,), part["norm2.weight"], part["norm2.bias"], EPS)
        hidden = F.gelu(F.linear(normed, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
        tokens = tokens + F.linear(hidden, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
    return tokens


def norm(state: State, name: str, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], EPS)


def student_outputs(state: State, clip: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions of both decoders of an MVD student, (B, M, D)."""
    tokens = embed(state, "", clip) + state["pos_embed"]
    tokens = tokens[~mask].reshape(len(clip), -1, STUDENT.width)
    cls = int("cls_token" in state)
    if cls:
        tokens = torch.cat((state["cls_token"].expand(len(clip), -1, -1), tokens), dim=1)
    encoded = norm(state, "norm", run(state, "blocks", tokens, STUDENT))
    outputs = []
    for name in ("img", "vid"):
        seen = F.linear(encoded, state[f"down_{name}.weight"], state[f"down_{name}.bias"])
        table = state[f"pos_embed_{name}"].expand(len(clip), -1, -1)
        places = [table[kept].reshape(len(clip), -1, DECODER.width) for kept in (~mask, mask)]
        parts = (seen[:, :cls], seen[:, cls:] + places[0], state[f"mask_token_{name}"] + places[1])
        decoded = run(state, f"decoder_{name}.blocks", torch.cat(parts, dim=1), DECODER)[:, -places[1].shape[1] :]
        decoded = norm(state, f"decoder_{name}.norm", decoded)
        outputs.append(F.linear(decoded, state[f"decoder_{name}.head.weight"], state[f"decoder_{name}.head.bias"]))
    return outputs[0], outputs[1]


def video_features(state: State, clip: Tensor, prefix: str = "encoder.", shape: Shape = VIDEO) -> Tensor:
    """The last block of a VideoMAE encoder, before its norm."""
    tokens = embed(state, prefix, clip)
    return run(state, f"{prefix}blocks", tokens + sinusoid1d(shape.width, tokens.shape[1]), shape)


def videomae_outputs(state: State, clip: Tensor, hidden: Tensor, predicted: Tensor, shape: Shape, decoder: Shape) -> Tensor:
    """Predicted pixels, (B, M, P); version 2 predicts only some of the tokens that are hidden from its encoder."""
    tokens = embed(state, "encoder.", clip)
    tokens = (tokens + sinusoid1d(shape.width, tokens.shape[1]))[~hidden].reshape(len(clip), -1, shape.width)
    encoded = norm(state, "encoder.norm", run(state, "encoder.blocks", tokens, shape))
    table = sinusoid1d(decoder.width, hidden.shape[1]).expand(len(clip), -1, -1)
    kept, asked = (table[chosen].reshape(len(clip), -1, decoder.width) for chosen in (~hidden, predicted))
    tokens = torch.cat((F.linear(encoded, state["encoder_to_decoder.weight"]) + kept, state["mask_token"] + asked), dim=1)
    decoded = norm(state, "decoder.norm", run(state, "decoder.blocks", tokens, decoder)[:, kept.shape[1] :])
    return F.linear(decoded, state["decoder.head.weight"], state["decoder.head.bias"])


def image_features(state: State, clip: Tensor) -> Tensor:
    """The last block of an MAE encoder on the first frame of every tubelet, without class token, before its norm."""
    slots = []
    for slot in range(clip.shape[2] // TUBELET):
        tokens = embed(state, "", clip[:, :, slot * TUBELET : slot * TUBELET + 1])
        side = int(tokens.shape[1] ** 0.5)
        tokens = tokens + sincos2d(IMAGE.width, side, side)
        tokens = torch.cat((state["cls_token"].expand(len(clip), -1, -1), tokens), dim=1)
        slots.append(run(state, "blocks", tokens, IMAGE)[:, 1:])
    return torch.cat(slots, dim=1)


def logits(state: State, clip: Tensor, table: Tensor, shape: Shape = VIDEO) -> Tensor:
    """Of a fine-tuned network with a given position table."""
    tokens = run(state, "blocks", embed(state, "", clip) + table, shape)
    return F.linear(norm(state, "fc_norm", tokens.mean(1)), state["head.weight"], state["head.bias"])
