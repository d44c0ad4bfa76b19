"""k-means: the iterations of Lloyd against NumPy, a token for every code, the same every time."""

from __future__ import annotations

import numpy as np
import torch

from mvd_ds.models.tokenizers.kmeans import kmeans
from mvd_ds.models.tokenizers.nearest import nearest_codes


def _clusters() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(5, 1, 4, generator=generator)
    return (centres + 0.1 * torch.randn(5, 40, 4, generator=generator)).flatten(0, 1)


def test_its_iterations_are_those_of_lloyd() -> None:
    tokens = _clusters()
    values = tokens.double().numpy()
    centres = values[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(2))[:5].numpy()]
    for _ in range(10):
        own = ((values[:, None] - centres) ** 2).sum(-1).argmin(-1)
        centres = np.stack([values[own == code].mean(axis=0) for code in range(5)])
    found = kmeans(tokens, 5, 10, unit=False, seed=2)
    np.testing.assert_allclose(found.numpy(), centres, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, kmeans(tokens, 5, 10, unit=False, seed=2))


def test_no_code_is_left_without_tokens_where_all_tokens_of_the_draw_are_alike() -> None:
    tokens = torch.cat((torch.ones(200, 3), torch.eye(3)))
    found = kmeans(tokens, 4, 5, unit=False, seed=0)
    assert len(set(nearest_codes(tokens, found).tolist())) == 4


def test_centres_on_the_sphere_have_length_one() -> None:
    tokens = torch.nn.functional.normalize(_clusters(), dim=-1)
    found = kmeans(tokens, 5, 10, unit=True, seed=1)
    assert torch.allclose(found.norm(dim=-1), torch.ones(5))
