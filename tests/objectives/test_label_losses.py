"""The losses of tasks: what they are of plain labels, of mixed clips, and of real numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from mvd_ds.objectives.classification import cross_entropy, soft_targets
from mvd_ds.objectives.label_losses import LABEL_LOSSES

OUTPUTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
PARTNER, OWN = torch.tensor([1, 0, 3, 2]), torch.tensor([1.0, 1.0, 0.7, 0.7])


def loss(task: str, outputs: torch.Tensor, label: torch.Tensor, share: torch.Tensor = OWN, **settings: object) -> float:
    recipe = SimpleNamespace(**{"label_smoothing": 0.0, "regression_loss": "smooth_l1", **settings})
    return float(LABEL_LOSSES[task](recipe, 3).loss(outputs, label, PARTNER, share))  # type: ignore[arg-type]


def test_one_class_is_the_cross_entropy_that_it_was() -> None:
    label = torch.tensor([0, 2, 1, 1])
    wanted = cross_entropy(OUTPUTS, soft_targets(label, PARTNER, OWN, 3, 0.1))
    assert loss("classes", OUTPUTS, label, label_smoothing=0.1) == float(wanted)


def test_several_classes_count_by_the_share_of_their_clip() -> None:
    label = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.uint8)
    target = label.float()
    target[2], target[3] = 0.7 * label[2] + 0.3 * label[3], 0.7 * label[3] + 0.3 * label[2]
    wanted = functional.binary_cross_entropy_with_logits(OUTPUTS, target)
    assert loss("multilabel", OUTPUTS, label) == pytest.approx(float(wanted), rel=1e-6)
    smooth = functional.binary_cross_entropy_with_logits(OUTPUTS, target * 0.8 + 0.1)
    assert loss("multilabel", OUTPUTS, label, label_smoothing=0.2) == pytest.approx(float(smooth), rel=1e-6)


def test_real_numbers_have_a_robust_or_a_squared_loss() -> None:
    outputs, label = torch.tensor([[0.0], [0.0]]), torch.tensor([0.5, 3.0])
    share = torch.ones(2)
    assert loss("regression", outputs, label, share) == pytest.approx((0.5 * 0.25 + 2.5) / 2)
    assert loss("regression", outputs, label, share, regression_loss="mse") == pytest.approx((0.25 + 9) / 2)
