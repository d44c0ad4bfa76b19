"""Hadamard matrices and equalising rotations: orthogonal, flat, and equal variances for every number of channels."""

import pytest
import torch

from mvd_ds.objectives.standardisers.hadamard import equalising_rotation, hadamard

#: Widths of published encoders, and orders that only one construction gives: Paley I (12, 44), II (36), Sylvester (8).
ORDERS = [1, 2, 8, 12, 36, 44, 192, 384, 768, 1024, 1152, 1280, 1408, 1664]


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_plus_and_minus_one_are_orthogonal(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None and torch.equal(matrix.abs(), torch.ones(order, order, dtype=torch.float64))
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [3, 6, 7, 92])
def test_an_order_without_a_construction_is_none(order: int) -> None:
    assert hadamard(order) is None


@pytest.mark.parametrize("width", [3, 7, 30, 92, 12, 64])
def test_any_number_of_channels_is_brought_to_one_variance(width: int) -> None:
    variances = torch.randn(width, generator=torch.Generator().manual_seed(width), dtype=torch.float64).exp()
    rotation = equalising_rotation(variances)
    assert torch.allclose(rotation @ rotation.T, torch.eye(width, dtype=torch.float64), atol=1e-12)
    diagonal = (rotation @ variances.diag() @ rotation.T).diagonal()
    assert torch.allclose(diagonal, variances.mean().expand(width), rtol=1e-12)
