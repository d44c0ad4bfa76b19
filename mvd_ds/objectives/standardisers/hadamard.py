"""Hadamard matrices, and rotations after which all channels have one variance whatever their number is."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(order: int) -> Tensor | None:
    """Return a matrix of +1 and -1 with orthogonal rows, or None where the constructions here give none.

    It is the Kronecker product of Sylvester's matrix of the largest power of two with one of Paley's (prime fields): 768 is
    64 x 12, 1,152 is 32 x 36, 1,280 is 64 x 20, 1,408 is 32 x 44.

    Args:
        order: number of rows.

    Returns:
        fp64 (order, order) on the CPU.
    """
    doublings = (order & -order).bit_length() - 1
    for times in range(doublings, -1, -1):
        core = _paley(order >> times)
        if core is not None:
            double = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
            for _ in range(times):
                core = torch.kron(double, core)
            return core
    return None


def _paley(order: int) -> Tensor | None:
    """Return Paley's matrix of this order: I + S for order - 1 = 3 mod 4, the doubled one for order / 2 - 1 = 1 mod 4."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 4 == 0 and _is_prime(order - 1):
        return torch.eye(order, dtype=torch.float64) + _bordered(order - 1, -1.0)
    half = order // 2
    if order % 4 == 0 and half % 4 == 2 and _is_prime(half - 1):
        one = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        other = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(_bordered(half - 1, 1.0), one) + torch.kron(torch.eye(half, dtype=torch.float64), other)
    return None


def _bordered(prime: int, side: float) -> Tensor:
    """Return (prime + 1, prime + 1): the quadratic characters of i - j, with a row of 1 and a column of ``side``, 0 between."""
    squares = {number * number % prime for number in range(1, prime)}
    character = torch.tensor([0.0] + [1.0 if number in squares else -1.0 for number in range(1, prime)], dtype=torch.float64)
    index = torch.arange(prime)
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 1:], matrix[1:, 0] = 1.0, side
    matrix[1:, 1:] = character[(index[:, None] - index) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def equalising_rotation(variances: Tensor) -> Tensor:
    """Return the orthogonal Q for which Q diag(variances) Q^T has one value on its whole diagonal.

    Where a Hadamard matrix exists, Q is that matrix over the root of its order, whatever the variances are. For other numbers of
    channels, Q is a Hartley matrix, whose magnitudes differ by a factor of sqrt 2 at most, followed by plane rotations that
    bring one channel after the other to the mean. Source: PHI-S (arXiv 2410.01680); Bendel, Mickey 1978.

    Args:
        variances: fp64 (D,), eigenvalues of a covariance.

    Returns:
        fp64 (D, D) on the CPU.
    """
    width = len(variances)
    matrix = hadamard(width)
    if matrix is not None:
        return matrix / math.sqrt(width)
    index = torch.arange(width, dtype=torch.float64)
    angle = 2 * math.pi * index.outer(index) / width
    rotation = (angle.cos() + angle.sin()) / math.sqrt(width)
    covariance = rotation @ variances.diag() @ rotation.T
    mean = variances.mean()
    for _ in range(width - 1):
        low, high = int(covariance.diagonal().argmin()), int(covariance.diagonal().argmax())
        below, above, product = covariance[low, low] - mean, covariance[high, high] - mean, covariance[low, high]
        if above <= 0 or below >= 0:
            break
        tangent = (product - (product.square() - below * above).clamp_min(0).sqrt().copysign(-product)) / above
        cosine = 1 / (1 + tangent.square()).sqrt()
        plane = torch.stack((torch.stack((cosine, -cosine * tangent)), torch.stack((cosine * tangent, cosine))))
        pair = torch.tensor([low, high])
        rotation[pair] = plane @ rotation[pair]
        covariance[pair] = plane @ covariance[pair]
        covariance[:, pair] = covariance[:, pair] @ plane.T
        covariance[low, low] = mean
    return rotation
