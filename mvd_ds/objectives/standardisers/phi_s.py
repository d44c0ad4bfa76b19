"""PHI-S: a rotation after which all channels have one variance, and one scale for all of them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mvd_ds.config import ConfigError
from mvd_ds.objectives.moving_statistics import exact_sums
from mvd_ds.objectives.standardisers.hadamard import equalising_rotation
from mvd_ds.objectives.standardisers.standardiser import Standardiser


class PhiSStandardiser(Standardiser):
    """y = mean(e)^(-1/2) H U^T (x - m), where m is the mean and U diag(e) U^T the covariance of the calibration tokens.

    H is a Hadamard matrix, so every channel of y has variance 1 there, no direction is stretched against another, and
    x = m + mean(e)^(1/2) U H^T y. Nothing moves after the calibration. Source: PHI-S (RADIO, arXiv 2410.01680). Differs: where
    RADIO makes a random matrix of +1 and -1 orthogonal, ``equalising_rotation`` gives equal variances too.
    """

    rounds: ClassVar[tuple[int, ...]] = (0,)
    mean: Tensor
    rotation: Tensor
    scale: Tensor

    def __init__(self, width: int, name: str) -> None:
        super().__init__(width, name)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("rotation", torch.eye(width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return (..., D) fp32. The rotation is a product of the features' own type, so that bf16 uses its fast units."""
        centred = (features.float() - self.mean).to(features.dtype)
        return (centred @ self.rotation.T.to(features.dtype)).float() * self.scale

    def undo(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return the deviation that all channels share, the mean, and the rotation, whose transpose undoes it."""
        return (1 / self.scale).expand(self.width), self.mean, self.rotation

    def begin(self, number: int) -> None:
        """Make room for the sums of all products of channels, which only the calibration needs."""
        self.sums = self.sums.new_zeros(1 + self.width + self.width**2)
        super().begin(number)

    @torch.no_grad()
    def observe(self, features: Tensor, standardised: Tensor) -> None:
        """Collect count, sums and products of channels of raw features (..., D) in the calibration, nothing in training."""
        if self.round is not None:
            self.sums += exact_sums(features, products=True)

    def settle(self, sums: Tensor) -> None:
        """Compute mean, rotation and scale on the CPU in fp64, and let the sums go.

        Raises:
            ConfigError: if there were no more tokens than channels, or all of them were equal.
        """
        sums = sums.cpu()
        count, total, products = sums.split((1, self.width, self.width**2))
        if count <= self.width:
            raise ConfigError(
                f"target {self.name}: standardise phi_s estimates a covariance of {self.width} channels, and the calibration "
                f"clips have {int(count)} tokens; raise calibration_clips, or choose standardise running"
            )
        mean = total / count
        covariance = products.view(self.width, self.width) / count - mean.outer(mean)
        variances, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        variances = variances.clamp_min(0)
        # An eigenvector may come with either sign, by the last bit of a sum: its largest component decides.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
        if variances.mean() <= 0:
            raise ConfigError(f"target {self.name}: all features of the calibration clips are equal; there is nothing to learn")
        self.mean.copy_(mean)
        self.rotation.copy_(equalising_rotation(variances) @ vectors.T)
        self.scale.copy_(variances.mean().rsqrt())
        self.sums = self.sums.new_zeros(0)

    def flops(self, tokens: int) -> int:
        """Return the operations of the rotation of ``tokens`` tokens."""
        return 2 * tokens * self.width**2

    def summary(self) -> dict[str, Tensor]:
        """Return the mean magnitude of the channels' means, and the deviation that all rotated channels have."""
        return {"mean": self.mean.abs().mean(), "deviation": 1 / self.scale}
