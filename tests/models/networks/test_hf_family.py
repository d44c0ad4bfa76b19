"""Networks of transformers teach: the tokens of their blocks and their summary are those of transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mvd_ds
from hf_networks import CASES, MEAN, STD, Case, write
from mvd_ds.config import IMAGENET_MEAN, IMAGENET_STD
from mvd_ds.models.networks import hf_family
from mvd_ds.models.networks.family import Reads


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
