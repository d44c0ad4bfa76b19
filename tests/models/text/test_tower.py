"""Text towers: what a token sees, and what a shared tower has of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvd_ds.config import EncoderSettings, LanguageSettings, TextSettings
from mvd_ds.data.tokens import Tokens
from mvd_ds.models.initialisation import build_without_weights, initialise
from mvd_ds.models.masked import MaskedPredictor

ENCODER = EncoderSettings(embed_dim=16, depth=3, num_heads=2, patch_px=8, layer_scale=0.5, qk_norm="head", norm="rmsnorm")
OWN = TextSettings(context=40, embed_dim=12, depth=2, num_heads=2)


def student(text: TextSettings) -> MaskedPredictor:
    language = LanguageSettings(embed_dim=8, text=text)
    return initialise(build_without_weights(lambda: MaskedPredictor(ENCODER, (2, 2, 2), {}, language=language)), seed=2).eval()


def read(model: MaskedPredictor, numbers: Tensor) -> Tensor:
    assert model.language is not None
    return model.language.text(numbers, model.encoder.blocks)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("text", [OWN, TextSettings(kind="shared", context=40)], ids=["own", "shared"])
def test_what_fills_a_row_up_says_nothing(text: TextSettings, causal: bool) -> None:
    text = text.model_copy(update={"causal": causal})
    model, tokens = student(text), Tokens(text)
    numbers = torch.from_numpy(tokens.encode_all(["a three circles", "ü"]))
    vectors = read(model, numbers)
    other = numbers.masked_fill(numbers == tokens.filling, 7)
    torch.testing.assert_close(read(model, other), vectors)
    changed = numbers.clone()
    changed[:, 1] = 9
    assert (read(model, changed) - vectors).abs().amax(dim=1).min() > 1e-4
    torch.testing.assert_close(read(model, numbers[:1, :20]), vectors[:1], msg="whatever else is in the batch")


def test_a_causal_tower_reads_forwards_alone() -> None:
    """What a token gives does not depend on those behind it: a text that goes on has the same beginning."""
    model, tokens = student(OWN), Tokens(OWN)
    seen: list[Tensor] = []
    assert model.language is not None
    model.language.text.blocks["1"].register_forward_hook(lambda module, inputs, output: seen.append(output))
    for text in ("one", "one more"):
        read(model, torch.from_numpy(tokens.encode_all([text])))
    torch.testing.assert_close(seen[0][:, :4], seen[1][:, :4])
    assert (seen[0][:, 4] - seen[1][:, 4]).abs().max() > 1e-3


def test_a_shared_tower_has_norms_and_embeddings_of_its_own_and_nothing_else() -> None:
    model = student(TextSettings(kind="shared", context=40))
    own = {name for name, _ in model.named_parameters() if name.startswith("language.text.")}
    assert {name.split(".")[2] for name in own} == {"embed", "position", "blocks", "norms", "norm"}
    assert {".".join(name.split(".")[2:4]) for name in own if ".blocks." in name} == {"blocks.0"}
    assert {".".join(name.split(".")[2:4]) for name in own if ".norms." in name} == {"norms.1", "norms.2"}
    state, parameters = model.state_dict(), list(model.parameters())
    assert len({value.data_ptr() for value in state.values()}) == len(state) == len(parameters), "each once"
    numbers = torch.from_numpy(Tokens(TextSettings(context=40)).encode_all(["a", "b"]))
    read(model, numbers).sum().backward()
    shared = model.encoder.blocks[1]
    assert shared.attention.qkv.weight.grad is not None and shared.mlp.expand.weight.grad is not None
    assert shared.norm_attention.weight.grad is None and model.encoder.blocks[0].mlp.expand.weight.grad is None


def test_chosen_blocks_are_shared() -> None:
    text = TextSettings(kind="shared", context=40, blocks=(-1, 0))
    assert text.borrowed(3) == (0, 2)
    model = student(text)
    assert model.language is not None and list(model.language.text.blocks) == ["1"]
