"""The code of a token is the brute-force argmin of distances, in parts as in one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvd_ds.models.tokenizers import nearest
from mvd_ds.models.tokenizers.nearest import nearest_codes


@pytest.mark.parametrize("most", [nearest.MOST_SCORES, 40])
@pytest.mark.parametrize("unit", [False, True])
def test_codes_are_a_brute_force_argmin(unit: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "MOST_SCORES", most)
    generator = torch.Generator().manual_seed(0)
    tokens, vectors = torch.randn(3, 7, 5, generator=generator), 2 * torch.randn(11, 5, generator=generator)
    if unit:
        tokens, vectors = (torch.nn.functional.normalize(value, dim=-1) for value in (tokens, vectors))
    distances = ((tokens.double().numpy()[:, :, None] - vectors.double().numpy()) ** 2).sum(-1)
    assert np.array_equal(nearest_codes(tokens, vectors).numpy(), distances.argmin(-1))


def test_the_lengths_of_vectors_count() -> None:
    vectors = torch.tensor([[1.0, 0.0], [10.0, 0.0]])
    assert nearest_codes(torch.tensor([[2.0, 0.0], [9.0, 0.0]]), vectors).tolist() == [0, 1]
