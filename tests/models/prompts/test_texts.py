"""Prompted texts are those of a loop around transformers' CLIP, and names that do not fit are one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import ConfigError, TextSettings
from mvd_ds.data.tokens import text_encoder
from mvd_ds.models.prompts.texts import PREFIX, ClassNames, PromptedTexts, replaced
from mvd_ds.models.text.folder import open_text
from text_folders import write_text_folder

NAMES = ClassNames(("a", "b"), ("three", "out fast"), (("three",), ("out fast",)))
COUNT = 2


def opened(folder: Path, kind: str = "clip") -> tuple[Any, Any, Any]:
    peer = write_text_folder(kind, folder)
    text = open_text(str(folder))
    language = SimpleNamespace(
        text=text.tower, text_projection=text.projection, scale=SimpleNamespace(values=torch.zeros(1)), settings=None
    )
    towers = SimpleNamespace(language=language, encoder=SimpleNamespace(blocks=()))
    return towers, text_encoder(TextSettings(weights=str(folder))), peer


def looped(peer: Any, row: list[int], name: slice, vectors: Tensor, middle: bool, deep: list[Tensor]) -> Tensor:
    """One text by hand: weights of transformers' modules, and nothing else of ours or of theirs."""
    model = peer.text_model
    table = model.embeddings.token_embedding.weight
    words, end = table[row], name.stop
    ahead = len(vectors) - len(vectors) // 2 if middle else len(vectors)
    tokens = torch.cat((words[:1], vectors[:ahead], words[name], vectors[ahead:], words[end:]))
    tokens = tokens + model.embeddings.position_embedding.weight[: len(tokens)]
    heads = peer.config.text_config.num_attention_heads
    for number, layer in enumerate(model.encoder.layers):
        if 0 < number < len(deep):
            tokens = torch.cat((tokens[:1], deep[number], tokens[1 + len(vectors) :]))
        normed = layer.layer_norm1(tokens)
        parts = [getattr(layer.self_attn, f"{part}_proj")(normed).unflatten(-1, (heads, -1)).transpose(0, 1) for part in "qkv"]
        scores = parts[0] @ parts[1].mT / parts[0].shape[-1] ** 0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        seen = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ parts[2]
        tokens = tokens + layer.self_attn.out_proj(seen.transpose(0, 1).flatten(1))
        tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
    return functional.normalize(peer.text_projection(model.final_layer_norm(tokens)[-1]), dim=-1)


@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_prompted_forward_is_that_of_a_loop_around_transformers(tmp_path: Path, middle: bool, is_deep: bool) -> None:
    if middle and is_deep:
        pytest.skip("deep vectors stand together, behind the beginning")
    towers, encode, peer = opened(tmp_path / "clip")
    texts = PromptedTexts(towers, encode, NAMES, COUNT, middle)
    width, depth = towers.language.text.width, towers.language.text.depth
    generator = torch.Generator().manual_seed(0)
    deep = [torch.randn(COUNT, width, generator=generator) for _ in range(depth)]
    found = texts(deep[0], None, replaced(deep, PREFIX) if is_deep else None)
    assert found.shape[0] == 2 and not torch.allclose(found[0], found[1])
    for number, word in enumerate(NAMES.words):
        whole, bare = (encode([text])[0].tolist() for text in (f" {word}.", f" {word}"))
        end = int(towers.language.text.ends(torch.tensor([whole])))
        name = slice(1, int(towers.language.text.ends(torch.tensor([bare]))))
        wanted = looped(peer, whole[: end + 1], name, deep[0], middle, deep if is_deep else [])
        torch.testing.assert_close(found[number], wanted, atol=1e-5, rtol=1e-4)


def test_vectors_of_clips_and_of_classes_are_those_of_each_alone(tmp_path: Path) -> None:
    towers, encode, _ = opened(tmp_path / "clip")
    texts = PromptedTexts(towers, encode, NAMES, COUNT)
    vectors = torch.randn(3, 1, COUNT, towers.language.text.width, generator=torch.Generator().manual_seed(0))
    of_clips = texts(vectors)
    assert of_clips.shape[:2] == (3, 2)
    for clip in range(3):
        torch.testing.assert_close(of_clips[clip], texts(vectors[clip, 0]))
    torch.testing.assert_close(texts(vectors[:2, 0])[1], texts(vectors[1, 0])[1])
    torch.testing.assert_close(texts(vectors[0, 0], [1]), texts(vectors[0, 0])[1:])


def test_more_vectors_than_a_text_has_places_for_are_one_line(tmp_path: Path) -> None:
    towers, encode, _ = opened(tmp_path / "clip")
    with pytest.raises(
        ConfigError, match=r"prompts: 9 learned vectors and the name 'out fast' are \d+ tokens, and the text tower"
    ):
        PromptedTexts(towers, encode, NAMES, 9)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
@pytest.mark.parametrize("way", ["end", "middle", "deep"])
def test_rows_of_siglip_keep_their_length_and_are_read_at_their_last_place(tmp_path: Path, kind: str, way: str) -> None:
    towers, encode, peer = opened(tmp_path / kind, kind)
    names = ClassNames(("a", "b"), ("three", "a"), (("three",), ("a",)))
    texts = PromptedTexts(towers, encode, names, COUNT, way == "middle")
    model, heads = peer.text_model, peer.config.text_config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    deep = [torch.randn(COUNT, towers.language.text.width, generator=generator) for _ in model.encoder.layers]
    found = texts(deep[0], None, replaced(deep, texts.first) if way == "deep" else None)
    for number, word in enumerate(names.words):
        row = encode([f" {word}."])[0]
        # Filled to its length by one token: all behind the name, its stop and its end.
        filling = int((row == row[-1]).sum())
        same = encode([f" {word}"])[0] == row
        ahead, behind = (1, int(same[: len(row) - filling].sum())) if way == "middle" else (COUNT, 0)
        tokens = model.embeddings.token_embedding.weight[row]
        parts = [deep[0][:ahead], tokens[:behind], deep[0][ahead:], tokens[behind:]] if behind else [deep[0], tokens]
        tokens = torch.cat(parts)[: len(row)] + model.embeddings.position_embedding.weight[: len(row)]
        for place, layer in enumerate(model.encoder.layers):
            if place and way == "deep":
                tokens = torch.cat((deep[place], tokens[COUNT:]))
            normed = layer.layer_norm1(tokens)
            qkv = [getattr(layer.self_attn, f"{part}_proj")(normed).unflatten(-1, (heads, -1)).transpose(0, 1) for part in "qkv"]
            seen = (qkv[0] @ qkv[1].mT / qkv[0].shape[-1] ** 0.5).softmax(-1) @ qkv[2]
            tokens = tokens + layer.self_attn.out_proj(seen.transpose(0, 1).flatten(1))
            tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
        wanted = functional.normalize(model.head(model.final_layer_norm(tokens)[-1]), dim=-1)
        torch.testing.assert_close(found[number], wanted, atol=1e-5, rtol=1e-4)


def test_rows_that_are_filled_up_before_texts_are_one_line(tmp_path: Path) -> None:
    towers, encode, _ = opened(tmp_path / "siglip", "siglip")

    def left(texts: list[str]) -> Tensor:
        return torch.stack([row.roll(int((row == row[-1]).sum())) for row in encode(texts)])

    with pytest.raises(ConfigError, match="fills rows up before texts; set its padding_side to right"):
        PromptedTexts(towers, left, NAMES, COUNT)
