"""The gradients of CoCoOp on two classes, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import PromptSettings
from mvd_ds.models.prompts.head import PromptBase, PromptInput
from mvd_ds.models.prompts.table import build_prompts
from mvd_ds.models.prompts.texts import ClassNames

WIDTH, SCALE, COUNT = 3, 4.0, 2
NAMES = ClassNames(("a", "b"), ("x", "y"), (("x",), ("y",)))


class Means(nn.Module):
    """A text tower whose vector is the mean of its rows: beginning, learned vectors, name, stop and end."""

    width, depth, shape = WIDTH, 1, SimpleNamespace(pooled="first")

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, WIDTH)

    def ends(self, numbers: Tensor) -> Tensor:
        return (numbers == 4).int().argmax(dim=1)

    def forward(self, numbers: Tensor, blocks: Any, rows: Tensor, between: Any) -> Tensor:
        return rows.mean(dim=1)


def encode(texts: list[str]) -> Tensor:
    return torch.tensor([[0, {"x": 1, "y": 2}[text[1]], *([3] if text.endswith(".") else []), 4, 4, 4, 4][:6] for text in texts])


def test_one_step_on_two_classes() -> None:
    torch.manual_seed(0)
    tower = Means()
    language = SimpleNamespace(
        text=tower,
        text_projection=nn.Identity(),
        scale=SimpleNamespace(values=torch.zeros(1)),
        settings=SimpleNamespace(embed_dim=WIDTH),
    )
    towers: Any = SimpleNamespace(language=language, encoder=SimpleNamespace(blocks=()), scale=SCALE)
    head = build_prompts("cocoop", PromptBase(None, NAMES, towers, encode), PromptSettings(context=COUNT, hidden=2), 0)  # type: ignore[arg-type]
    clip = -functional.normalize(torch.randn(1, WIDTH), dim=-1)
    logits = head(PromptInput(vectors=clip))
    functional.cross_entropy(logits, torch.tensor([1])).backward()

    own = {name: value.detach().double().numpy() for name, value in head.named_parameters()}
    x, table = clip[0].double().numpy(), tower.embed.weight.detach().double().numpy()
    inner = own["narrow.weight"] @ x + own["narrow.bias"]
    hidden = np.maximum(inner, 0)
    shift = own["widen.weight"] @ hidden + own["widen.bias"]
    length = 4 + COUNT
    means = np.stack(
        [(table[[0, 1 + c, 3, 4]].sum(0) + own["context.weight"][0].sum(0) + COUNT * shift) / length for c in (0, 1)]
    )
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    units = means / norms
    scores = SCALE * units @ x
    np.testing.assert_allclose(logits[0].detach().numpy(), scores, rtol=1e-5)
    errors = np.exp(scores) / np.exp(scores).sum() - np.array([0.0, 1.0])
    of_units = SCALE * errors[:, None] * x
    of_means = (of_units - units * (units * of_units).sum(1, keepdims=True)) / norms
    of_vector = of_means.sum(0) / length
    of_shift = COUNT * of_vector
    of_inner = (own["widen.weight"].T @ of_shift) * (inner > 0)
    wanted = {
        "context.weight": np.tile(of_vector, (1, COUNT, 1)),
        "widen.weight": np.outer(of_shift, hidden),
        "widen.bias": of_shift,
        "narrow.weight": np.outer(of_inner, x),
        "narrow.bias": of_inner,
    }
    assert set(wanted) == set(own) and hidden.any()
    for name, value in head.named_parameters():
        assert value.grad is not None
        np.testing.assert_allclose(value.grad.numpy(), wanted[name], rtol=1e-4, atol=1e-7, err_msg=name)
