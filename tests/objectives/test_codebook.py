"""Codebooks: five steps against recurrences in NumPy, the same on any number of ranks, dead codes, the calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.config.tokenizers.settings import TokenizerSettings
from mvd_ds.objectives.codebook import Codebook, FixedStandardiser
from mvd_ds.objectives.moving_statistics import load_statistics, settle_statistics, statistics_state, update_statistics

CODES, WIDTH, TOKENS, CLIPS, STEPS = 6, 3, 10, 4, 5
OPEN = torch.zeros(())


def _settings(method: str, dead_below: float = 0.0) -> TokenizerSettings:
    values = {"method": method, "codes": CODES, "decay": 0.8, "dead_below": dead_below, "start_tokens": 1}
    return TokenizerSettings.model_validate(values)


def _codebook(method: str, dead_below: float = 0.0) -> Codebook:
    book = Codebook(_settings(method, dead_below), WIDTH, TOKENS, CLIPS, 2 * CLIPS, lambda tokens: tokens[:CODES])
    start = torch.randn(CODES, WIDTH, generator=torch.Generator().manual_seed(7))
    book.vectors.copy_(torch.nn.functional.normalize(start, dim=-1) if method == "vq" else start)
    return book


def _steps() -> list[tuple[Tensor, Tensor]]:
    """Tokens (clips, tokens, width) and codes of every step; code 5 never gets a token, code 4 in the first step alone."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for step in range(STEPS):
        tokens = torch.randn(CLIPS, TOKENS, WIDTH, generator=generator)
        found.append((tokens, torch.randint(0, CODES - 1 if step == 0 else CODES - 2, (CLIPS, TOKENS), generator=generator)))
    return found


def _places(step: int) -> Tensor:
    return torch.arange(step * CLIPS, (step + 1) * CLIPS)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.mark.parametrize("method", ["vq", "kmeans"])
def test_five_steps_are_the_recurrences(method: str) -> None:
    book = _codebook(method)
    vectors, share = book.vectors.double().numpy(), np.full(CODES, 1 / CODES)
    members: list[list[np.ndarray]] = [[] for _ in range(CODES)]
    for step, (tokens, codes) in enumerate(_steps()):
        book.observe(tokens, codes, _places(step))
        update_statistics([book], lambda sums: sums, OPEN, 0.0)
        counts = np.zeros(CODES)
        for code in range(CODES):
            own = tokens.double().numpy()[codes.numpy() == code]
            members[code].extend(own)
            counts[code] = len(own)
            if len(own) and method == "vq":
                vectors[code] = _unit(0.8 * vectors[code] + 0.2 * _unit(own.mean(axis=0)))
            elif len(own):
                vectors[code] = np.mean(members[code], axis=0)
        share = 0.8 * share + 0.2 * counts / counts.sum()
        np.testing.assert_allclose(book.vectors.numpy(), vectors, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(book.share.numpy(), share, rtol=1e-5)
    told = {name: float(value) for name, value in book.summary().items()}
    last = counts[counts > 0] / counts.sum()
    assert told["perplexity"] == pytest.approx(np.exp(-np.sum(last * np.log(last))), rel=1e-5)
    assert told["usage"] == pytest.approx(len(last) / CODES) and len(last) == CODES - 2


def test_codes_that_start_again_and_again_are_not_told_as_used() -> None:
    book = _codebook("vq", dead_below=0.9)
    for step, (tokens, _) in enumerate(_steps()):
        book.observe(tokens, torch.zeros(CLIPS, TOKENS, dtype=torch.int64), _places(step))
        update_statistics([book], lambda sums: sums, OPEN, 0.0)
    assert float(book.summary()["usage"]) == pytest.approx(1 / CODES) and float(book.summary()["perplexity"]) == 1.0


@pytest.mark.parametrize("method", ["vq", "kmeans"])
def test_two_ranks_of_small_micro_batches_move_it_as_one_does(method: str) -> None:
    whole, halves = _codebook(method, 0.9), [_codebook(method, 0.9) for _ in range(2)]
    for step, (tokens, codes) in enumerate(_steps()):
        whole.observe(tokens, codes, _places(step))
        update_statistics([whole], lambda sums: sums, OPEN, 0.0)
        for clip in range(CLIPS):
            halves[clip % 2].observe(tokens[clip : clip + 1], codes[clip : clip + 1], _places(step)[clip : clip + 1])
        total = halves[0].sums + halves[1].sums
        for half in halves:
            update_statistics([half], lambda _, total=total: total, OPEN, 0.0)
    for half in halves:
        for own, other in zip(whole.state(), half.state(), strict=True):
            assert torch.equal(own, other)


def test_a_step_that_was_skipped_moves_nothing() -> None:
    book = _codebook("vq", 0.9)
    before = [value.clone() for value in book.state()]
    tokens, codes = _steps()[0]
    book.observe(tokens, codes, _places(0))
    update_statistics([book], lambda sums: sums, torch.ones(()), 0.0)
    assert all(torch.equal(value, other) for value, other in zip(book.state(), before, strict=True))


def test_a_dead_code_starts_again_at_a_token_of_the_step() -> None:
    book = _codebook("vq", dead_below=0.5)
    seen = []
    for step, (tokens, codes) in enumerate(_steps()):
        before = book.vectors[CODES - 1].clone()
        book.observe(tokens, codes, _places(step))
        update_statistics([book], lambda sums: sums, OPEN, 0.0)
        now = book.vectors[CODES - 1]
        seen.append(not torch.equal(before, now))
        if seen[-1]:
            assert (tokens.flatten(0, 1) == now).all(dim=-1).any() and float(book.share[CODES - 1]) == pytest.approx(1 / CODES)
    # 0.8 ** 3 is the first power that leaves less than a half.
    assert seen == [False, False, False, True, False]


def test_the_calibration_puts_the_tokens_of_all_ranks_in_their_places() -> None:
    books = [_codebook("vq") for _ in range(3)]
    clips = torch.randn(2 * CLIPS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(5))
    codes = torch.zeros(2 * CLIPS, TOKENS, dtype=torch.int64)
    for book in books:
        book.begin(1)
    places = torch.arange(2 * CLIPS)
    books[0].observe(clips, codes, places)
    books[1].observe(clips[1::2], codes[1::2], places[1::2])
    books[2].observe(clips[::2], codes[::2], places[::2])
    total = books[1].sums + books[2].sums
    assert torch.equal(total, books[0].sums)
    settle_statistics([books[0]], lambda sums: sums)
    settle_statistics([books[1]], lambda _: total)
    assert torch.equal(books[0].vectors, books[1].vectors) and books[0].vectors.abs().min() > 0
    load_statistics({"codebook": books[2]}, statistics_state({"codebook": books[0]}), "test")
    assert torch.equal(books[2].vectors, books[0].vectors)


def test_fewer_tokens_than_codes_are_told() -> None:
    book = Codebook(_settings("vq"), WIDTH, 1, 2, 2, lambda tokens: tokens)
    book.begin(1)
    with pytest.raises(ConfigError, match=r"tokenizer.codes 6: the calibration clips have 2 tokens"):
        settle_statistics([book], lambda sums: sums)


def test_a_scale_is_that_of_the_calibration_for_good() -> None:
    scale = FixedStandardiser(WIDTH, "video")
    scale.begin(0)
    features = torch.randn(4, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0)) * 3 + 2
    scale.observe(features, features)
    settle_statistics([scale], lambda sums: sums)
    made = scale(features).flatten(0, 1)
    assert made.mean(dim=0).abs().max() < 1e-5 and (made.std(dim=0, correction=0) - 1).abs().max() < 1e-5
    before = scale.mean.clone()
    scale.observe(features * 7, scale(features * 7))
    update_statistics([scale], lambda sums: sums, OPEN, 0.5)
    assert torch.equal(scale.mean, before)
