"""Text towers of folders of transformers give what transformers gives, and what does not fit is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from mvd_ds.config import ConfigError, EncoderSettings, LanguageSettings, TextSettings
from mvd_ds.data.tokens import tokens_of
from mvd_ds.models.text.folder import language_tensors, open_text
from mvd_ds.models.text.head import LanguageHead
from text_folders import KINDS, SPACE, write_text_folder

TEXTS = ["A three circles", "out FAST and back " + "slow " * 20, "three"]


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    folder = tmp_path_factory.mktemp("folder") / request.param
    return request.param, folder, write_text_folder(request.param, folder)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_text_folder("clip", tmp_path / "clip")
    return tmp_path / "clip"


def test_rows_and_vectors_are_those_of_transformers(written: tuple[str, Path, Any]) -> None:
    from transformers import AutoTokenizer

    kind, folder, peer = written
    rows = tokens_of(TextSettings(weights=str(folder))).encode_all(TEXTS)
    theirs = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=10, return_tensors="pt"
    )
    assert np.array_equal(rows, theirs.input_ids.numpy())
    ours, numbers = open_text(str(folder)), torch.from_numpy(rows)
    with torch.no_grad():
        # A SigLIP is asked without a mask: it learnt from rows that are filled up.
        wanted = peer.get_text_features(**theirs) if kind == "clip" else peer.get_text_features(theirs.input_ids)
        torch.testing.assert_close(ours.encode(numbers), functional.normalize(wanted.pooler_output, dim=-1), atol=1e-5, rtol=1e-5)
    assert ours.scale == pytest.approx(float(peer.logit_scale.exp()))
    assert ours.bias == pytest.approx(float(getattr(peer, "logit_bias", torch.zeros(1))))
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_vectors_in_place_of_tokens_and_between_blocks_learn(written: tuple[str, Path, Any]) -> None:
    """Prompts: what stands in place of tokens, or is put in before a block, gets the gradient; the tower gets none."""
    _, folder, peer = written
    ours, rows = open_text(str(folder)), tokens_of(TextSettings(weights=str(folder))).encode_all(TEXTS)
    numbers = torch.from_numpy(rows)
    embedded = ours.embed(numbers).requires_grad_()
    prompts = torch.randn(2, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    seen: list[Tensor] = []

    def between(place: int, tokens: Tensor) -> Tensor:
        seen.append(tokens)
        return torch.cat((tokens[:, :1], tokens[:, 1:2] + prompts[place], tokens[:, 2:]), dim=1)

    torch.testing.assert_close(ours.encode(numbers, embedded), ours.encode(numbers))
    found = ours.encode(numbers, embedded, between)
    found[:, 0].sum().backward()
    assert len(seen) == 2 and embedded.grad is not None and prompts.grad is not None
    assert embedded.grad.abs().amax(dim=(1, 2)).min() > 0 and prompts.grad.abs().amax(dim=1).min() > 0
    assert all(parameter.grad is None for parameter in ours.parameters())
    # The same by transformers' own layers, one after another, with its own mask.
    tower = peer.text_model
    with torch.no_grad():
        hidden = tower.embeddings(input_ids=numbers)
        ahead = torch.full((10, 10), -torch.inf).triu(1) if folder.name == "clip" else None
        for place, layer in enumerate(tower.encoder.layers):
            hidden = torch.cat((hidden[:, :1], hidden[:, 1:2] + prompts[place], hidden[:, 2:]), dim=1)
            hidden = layer(hidden, attention_mask=None if ahead is None else ahead[None, None])
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = tower.final_layer_norm(hidden)
        ends = (numbers == 9).int().argmax(dim=1) if folder.name == "clip" else torch.full((3,), 9)
        pooled = hidden[torch.arange(3), ends]
        wanted = peer.text_projection(pooled) if folder.name == "clip" else tower.head(pooled)
    torch.testing.assert_close(found, functional.normalize(wanted, dim=-1), atol=1e-5, rtol=1e-5)


def test_old_folders_of_clip_end_texts_by_the_largest_number(clip: Path) -> None:
    config = json.loads((clip / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (clip / "config.json").write_text(json.dumps(config))
    network = open_text(str(clip))
    numbers = torch.tensor([[8, 0, 2, 39, 39, 39, 39, 39, 39, 39]])
    assert network.tower.ends(numbers).tolist() == [3], "not the token 2, which is a word"


def test_scale_and_bias_come_from_a_folder_that_has_what_the_loss_asks_for(written: tuple[str, Path, Any]) -> None:
    kind, folder, peer = written
    text = TextSettings(weights=str(folder))

    def scale(**more: Any) -> list[float] | None:
        found = language_tensors(LanguageSettings(text=text, embed_dim=SPACE, **more)).get("language.scale.values")
        return None if found is None else found.tolist()

    assert scale() == [pytest.approx(float(peer.logit_scale))] and scale(scale=3.0) is None
    both = [pytest.approx(float(peer.logit_scale)), pytest.approx(float(getattr(peer, "logit_bias", 0.0)))]
    assert scale(loss="sigmoid") == (both if kind != "clip" else None)


def _edit(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


def _without_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")


def _pickle_alone(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


FAULTS = {
    "no folder": (lambda folder: shutil.rmtree(folder), "there is no such folder"),
    "code": (lambda folder: (folder / "tower.py").write_text("boom"), "no code of a model folder is ever run here"),
    "auto_map": (lambda folder: _edit(folder, "config.json", auto_map={}), "auto_map in its config.json"),
    "a pickle alone": (
        _pickle_alone,
        r"a pickle \(pytorch_model.bin\), and model.safetensors alone is read",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json; write it by transformers"),
    "a bad tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json: "),
    "another family": (
        lambda folder: _edit(folder, "config.json", model_type="bert"),
        "is of a 'bert'; text towers are",
    ),
    "no tower": (lambda folder: _without_tensor(folder, "text_projection.weight"), "has no tensor text_projection.weight"),
    "fewer tokens": (
        lambda folder: _edit(folder, "config.json", text_config={"vocab_size": 5}),
        "tokenizer.json numbers tokens to 11, and its text tower has 5; it is that of another network",
    ),
    "no end": (
        lambda folder: _edit(folder, "config.json", text_config={"vocab_size": 40, "eos_token_id": 33}),
        "its tokenizer ends no text by 33, the eos_token_id of its text tower",
    ),
    "a size that is none": (
        lambda folder: _edit(folder, "config.json", text_config={"hidden_size": "wide"}),
        "hidden_size: it takes a whole number from 1, got wide",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_one_line(clip: Path, fault: str) -> None:
    spoil, wanted = FAULTS[fault]
    spoil(clip)
    with pytest.raises(ConfigError, match=wanted) as caught:
        tokens_of(TextSettings(weights=str(clip)))
        open_text(str(clip))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("language.text.")


def test_a_space_of_another_width_and_settings_of_the_folder_are_refused(clip: Path) -> None:
    encoder = EncoderSettings(embed_dim=16, depth=1, num_heads=2, patch_px=8)
    settings = LanguageSettings(text=TextSettings(weights=str(clip)), embed_dim=512)
    with pytest.raises(ConfigError, match=f"language.embed_dim 512: texts of .* have vectors of {SPACE}; set it to that"):
        LanguageHead(settings, encoder)
    for more in ({"depth": 2}, {"context": 77}, {"causal": False}, {"tokenizer": "x"}):
        with pytest.raises(ValueError, match=r"with language\.text\.weights it is as the folder says: remove it"):
            TextSettings(weights=str(clip), **more)
    with pytest.raises(ValueError, match=r"language\.text\.frozen is for a tower of language.text.weights"):
        TextSettings(frozen=True)
