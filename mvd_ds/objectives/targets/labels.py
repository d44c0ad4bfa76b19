"""The loss of a class head on clips of which some have no label."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

UNLABELLED = -1
"""Class of a clip without one."""


def label_loss(logits: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of the labelled rows at this temperature, summed, over the number of all rows.

    Clips without a label add nothing but themselves to the number: the loss of a step is the same however it is split.

    Args:
        logits: (R, classes), any float type.
        label: int64 (R,), ``UNLABELLED`` for rows without one.
        temperature: logits are divided by this. Source: SupMAE, 10.

    Returns:
        Scalar fp32, 0 without any label.
    """
    entropies = functional.cross_entropy(logits.float() / temperature, label, ignore_index=UNLABELLED, reduction="sum")
    return entropies / len(label)
