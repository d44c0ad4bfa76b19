"""The loss of captions over a whole step: any number of ranks and micro batches gives the loss and gradients of one batch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mvd_ds.config import ConfigError, EncoderSettings, LanguageSettings, TextSettings, load_recipe
from mvd_ds.data.synthetic.phrasing import captions_of, words_of
from mvd_ds.data.tokens import Tokens, text_encoder
from mvd_ds.models.initialisation import build_without_weights, initialise
from mvd_ds.models.masked import MaskedPredictor
from mvd_ds.models.text.head import LanguageHead
from mvd_ds.training.language import CaptionLoss, Pairs

ENCODER = EncoderSettings(embed_dim=16, depth=2, num_heads=2, patch_px=8, position="learned", drop_path=0.3)
GRID = (2, 2, 2)
PAIRS = 12


class Micro(NamedTuple):
    rows: slice


def student(language: LanguageSettings) -> MaskedPredictor:
    model = initialise(build_without_weights(lambda: MaskedPredictor(ENCODER, GRID, {}, language=language)), seed=5)
    return model.double().train()


def inputs(language: LanguageSettings) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    masks = torch.stack([torch.randperm(8, generator=generator) for _ in range(PAIRS * 2)]).view(PAIRS, 2, 8)
    texts = [f"caption {number} {'of some words' * (number % 3)}" for number in range(PAIRS)]
    return {
        "clip": torch.randn(PAIRS, 3, 4, 16, 16, generator=generator, dtype=torch.float64),
        "mask": masks[..., :5].sort(dim=-1)[0],
        "masked": masks[..., 5:].sort(dim=-1)[0],
        "drop_path": torch.rand(PAIRS, 2, ENCODER.depth, generator=generator, dtype=torch.float64),
        "captions": torch.from_numpy(Tokens(language.text).encode_all(texts)),
    }


def vectors(model: nn.Module, given: dict[str, Tensor], rows: slice) -> Pairs:
    return Pairs.of(model(**{name: value[rows] for name, value in given.items()}))


def whole_batch(model: MaskedPredictor, given: dict[str, Tensor]) -> Tensor:
    """The loss by one formula in one graph."""
    pairs = vectors(model, given, slice(None))
    losses = []
    for mask in range(pairs.clips.shape[1]):
        scores = pairs.scale[0].exp() * pairs.clips[:, mask] @ pairs.texts.T
        if len(pairs.scale) == 1:
            right = torch.arange(PAIRS)
            losses.append((functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right)) / 2)
        else:
            signs = 2 * torch.eye(PAIRS) - 1
            losses.append(-functional.logsigmoid(signs * (scores + pairs.scale[1])).sum() / PAIRS)
    return torch.stack(losses).mean()


CASES = {
    "softmax": LanguageSettings(embed_dim=8, text=TextSettings(context=48, embed_dim=12, depth=2, num_heads=2)),
    "sigmoid": LanguageSettings(loss="sigmoid", bias=-2.0, embed_dim=8, text=TextSettings(kind="shared", context=48)),
    "all": LanguageSettings(sees="all", weight=0.5, embed_dim=8, text=TextSettings(kind="shared", context=48, causal=False)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("ranks", "micro"), [(1, 12), (1, 3), (2, 6), (3, 2)])
def test_ranks_and_micro_batches_give_one_big_batch(case: str, ranks: int, micro: int) -> None:
    """To 1e-6, loss and gradients of every weight; the mean over micro batches and ranks is what the engine takes."""
    language = CASES[case]
    model, given = student(language), inputs(language)
    expected = language.weight * whole_batch(model, given)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    own = PAIRS // ranks
    batches = [[Micro(slice(first, first + micro)) for first in range(r * own, (r + 1) * own, micro)] for r in range(ranks)]
    with torch.no_grad():
        complete = vectors(model, given, slice(None))

    def gather(value: Tensor) -> list[Tensor]:
        """What every rank has computed, without a group of processes: the same numbers."""
        return list((complete.clips if value.ndim == 3 else complete.texts).split(own))

    found = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for rank in range(ranks):
        loss = CaptionLoss(language, gather, rank)
        steps: list[Any] = loss.prepare(batches[rank], lambda batch: vectors(model, given, batch.rows))
        for batch in steps:
            terms = loss(batch, vectors(model, given, batch.rows), measure=True)
            assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)
            assert terms.terms["language"].item() == pytest.approx(expected.item() / language.weight, rel=1e-6)
            parts = torch.autograd.grad(terms.total, list(model.parameters()))
            found = [total + part / (len(steps) * ranks) for total, part in zip(found, parts, strict=True)]
        assert not loss.kept
    for (name, _), gradient, other in zip(model.named_parameters(), found, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()), msg=name)


def test_what_is_told_of_the_scale() -> None:
    language = CASES["softmax"]
    model, given = student(language), inputs(language)
    terms = CaptionLoss(language, lambda value: [value], 0)(object(), vectors(model, given, slice(None)), measure=True)
    assert terms.measurements["language/scale"].item() == pytest.approx(1 / 0.07)
    assert 0 <= terms.measurements["language/matched"] <= 1 and not math.isnan(terms.total.item())


def test_clips_of_one_video_are_no_wrong_pairs() -> None:
    with pytest.raises(ConfigError, match=r"data.clips_per_video 2 puts clips of one video into it: set it to 1"):
        load_recipe("clip_base", ["data.clips_per_video=2"])


def test_a_balance_of_teachers_is_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match="balance uncertainty is for teachers, and objective language has none"):
        load_recipe("clip_base", ["balance=uncertainty"])


def test_words_in_phrasings_never_read_are_told_where_clips_are() -> None:
    """Clips that show what moves and how without doubt: a tower of bytes tells both by words in held-out phrasings, though
    batches hold the same captions several times, each the wrong one of the others. Chance is 1 of 10 and 1 of 8."""
    settings = LanguageSettings(embed_dim=64, text=TextSettings(context=80, embed_dim=64, depth=2, num_heads=2))
    head = initialise(build_without_weights(lambda: LanguageHead(settings, ENCODER)), seed=0)
    seen = nn.Linear(18, 64, bias=False)
    nn.init.xavier_uniform_(seen.weight, generator=torch.Generator().manual_seed(0))
    encode, generator = text_encoder(settings.text), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([*head.parameters(), *seen.parameters()], lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    loss = CaptionLoss(settings, lambda part: [part], 0)
    every = torch.cat((torch.eye(10).repeat_interleave(8, 0), torch.eye(8).repeat(10, 1)), dim=1)
    for step in range(80):
        classes = torch.randint(80, (64,), generator=generator)
        told = [captions_of(0, "train", 64 * step + place, one // 8, one % 8)[0] for place, one in enumerate(classes.tolist())]
        clips = functional.normalize(seen(every[classes]), dim=-1)[:, None]
        loss(step, Pairs(clips, head.texts(encode(told), []), head.scale()), measure=False).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        clips = functional.normalize(seen(every), dim=-1)
        for label, right in (("what", torch.arange(80) // 8), ("how", torch.arange(80) % 8)):
            words = words_of(label)
            texts = [template.replace("{}", word) for word in words["classes"].values() for template in words["templates"]]
            vectors = head.texts(encode(texts), []).unflatten(0, (-1, len(words["templates"]))).mean(dim=1)
            shares = (clips @ functional.normalize(vectors, dim=-1).mT).argmax(dim=1) == right
            assert shares.float().mean() > 0.6, label
