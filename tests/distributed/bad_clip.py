"""``python -m mvd_ds ARGUMENTS`` in which the loss of one clip, VIDEO of the manifest, is not a number."""

from __future__ import annotations

import sys
from typing import Any

import torch

from mvd_ds.cli import main
from mvd_ds.objectives.terms import LossTerms
from mvd_ds.training.masked_prediction import MaskedPrediction

VIDEO = 5
_sound = MaskedPrediction.__call__


def ruined(self: MaskedPrediction, batch: Any, measure: bool) -> LossTerms:
    """``MaskedPrediction.__call__`` of a network that cannot bear this clip."""
    loss = _sound(self, batch, measure)
    return loss._replace(total=loss.total * torch.nan) if VIDEO in batch.sample else loss


if __name__ == "__main__":
    MaskedPrediction.__call__ = ruined  # type: ignore[method-assign]
    sys.exit(main([argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]))
