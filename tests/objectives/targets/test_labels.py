"""The loss of labels in closed form, with unlabelled rows and without any label."""

from __future__ import annotations

import math

import torch

from mvd_ds.objectives.targets.labels import label_loss


def test_unlabelled_rows_add_no_loss_and_no_gradient() -> None:
    """Logits (2, 0) at temperature 2 give log(1 + e^-1) for class 0; one of four rows is labelled."""
    logits = torch.tensor([[2.0, 0.0], [5.0, -3.0], [0.0, 1.0], [7.0, 7.0]], requires_grad=True)
    loss = label_loss(logits, torch.tensor([0, -1, -1, -1]), temperature=2.0)
    torch.testing.assert_close(loss, torch.tensor(math.log1p(math.exp(-1)) / 4))
    loss.backward()
    assert logits.grad is not None and logits.grad[1:].abs().max() == 0 and logits.grad[0].abs().min() > 0


def test_a_batch_without_labels_has_loss_zero() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = label_loss(logits, torch.full((3,), -1), temperature=10.0)
    loss.backward()
    assert loss == 0 and logits.grad is not None and logits.grad.abs().max() == 0


def test_the_loss_of_a_step_does_not_depend_on_its_split() -> None:
    logits, label = torch.randn(8, 3), torch.tensor([0, -1, -1, 2, 1, 1, -1, -1])
    halves = [label_loss(*part, 1.0) for part in zip(logits.split(2), label.split(2), strict=True)]
    torch.testing.assert_close(torch.stack(halves).mean(), label_loss(logits, label, 1.0))
