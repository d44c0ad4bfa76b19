"""The log variances by which balance uncertainty weighs the losses of targets: learned, and so a part of the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LogVariances(nn.Module):
    """One learned log variance for each target, from 0 on."""

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(targets))

    def reset_parameters(self) -> None:
        """Set all to 0."""
        nn.init.zeros_(self.log_variances)

    def forward(self) -> Tensor:
        """Return them, as a tensor of its own: under ZeRO-3 the parameter is gathered during this call only."""
        return self.log_variances * 1.0
