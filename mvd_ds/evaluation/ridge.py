"""Ridge regression in one pass over the data: from sums of products alone, which add up over clips and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Inputs whose variance is a smaller share of their mean square are constants, and get no weight.
CONSTANT = 1e-10


class Sums(NamedTuple):
    """Sums over n rows of inputs x and wanted values y: of the products of (1, x), y and one another."""

    gram: Tensor
    """float64 (1 + D, 1 + D), of (1, x) and (1, x)."""
    cross: Tensor
    """float64 (1 + D, K), of (1, x) and y."""
    square: Tensor
    """float64 (K,), of y * y."""

    @classmethod
    def of(cls, inputs: Tensor, wanted: Tensor) -> Sums:
        """Return the sums over the rows of inputs (n, D) and wanted (n, K)."""
        ones = torch.cat((inputs.new_ones((len(inputs), 1)), inputs), dim=1).double()
        wanted = wanted.double()
        return cls(ones.T @ ones, ones.T @ wanted, (wanted * wanted).sum(0))

    @classmethod
    def none(cls, width: int, channels: int, device: torch.device) -> Sums:
        """Return the sums over no rows."""
        shapes = ((1 + width, 1 + width), (1 + width, channels), (channels,))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def plus(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        return Sums(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))

    def minus(self, other: Sums) -> Sums:
        """Return the sums over the rows that are not those of ``other``, which are some of these."""
        return Sums(*(ours - theirs for ours, theirs in zip(self, other, strict=True)))

    @property
    def rows(self) -> float:
        """Number of rows."""
        return float(self.gram[0, 0])


def ridge(sums: Sums, penalties: Sequence[float]) -> Tensor:
    """Return the weights float64 (P, 1 + D, K) of (1, x) that fit best under each penalty.

    The mean squared error is minimised plus ``penalty`` times the squares of the weights of x over its deviation; the constant
    has no penalty. One eigendecomposition is enough for all penalties.
    """
    count = sums.gram[0, 0]
    means, wanted = sums.gram[0, 1:] / count, sums.cross[0] / count
    squares = sums.gram.diagonal()[1:] / count
    variances = squares - means**2
    scale = torch.where(variances > CONSTANT * squares, variances.clamp_min(1e-300).rsqrt(), 0.0)
    correlations = (sums.gram[1:, 1:] / count - means[:, None] * means) * scale[:, None] * scale
    common = (sums.cross[1:] / count - means[:, None] * wanted) * scale[:, None]
    strengths, directions = torch.linalg.eigh(correlations)
    shares = directions.T @ common
    found = []
    for penalty in penalties:
        weights = scale[:, None] * (directions @ (shares / (strengths.clamp_min(0) + penalty)[:, None]))
        found.append(torch.cat(((wanted - means @ weights)[None], weights)))
    return torch.stack(found)


def relative_errors(sums: Sums, weights: Tensor) -> Tensor:
    """Return the squared errors (K,) of weights (1 + D, K) on the rows of ``sums``, as shares of the variance of y there."""
    errors = sums.square - 2 * (weights * sums.cross).sum(0) + (weights * (sums.gram @ weights)).sum(0)
    return errors / (sums.square - sums.cross[0] ** 2 / sums.gram[0, 0]).clamp_min(1e-12)


def predict(weights: Tensor, inputs: Tensor) -> Tensor:
    """Return float64 (n, K) of weights (1 + D, K) on inputs (n, D)."""
    return inputs.double() @ weights[1:] + weights[0]
