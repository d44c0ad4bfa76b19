"""Soft targets, mixing and losses against timm's and against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy

from mvd_ds.objectives.classification import cross_entropy, logit_distillation, mix_clips, soft_targets

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
def test_soft_targets_are_timms(smoothing: float, share: float) -> None:
    label, partner = torch.tensor([3, 0, 4, 1]), torch.tensor([3, 2, 1, 0])
    ours = soft_targets(label, partner, torch.full((4,), share), 5, smoothing)
    torch.testing.assert_close(ours, mixup_target(label, 5, share, smoothing))
    torch.testing.assert_close(ours.sum(1), torch.ones(4))


def test_every_pair_has_its_own_share() -> None:
    targets = soft_targets(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.25, 1.0]), 2, 0.0)
    assert targets.tolist() == [[0.25, 0.75], [0.0, 1.0]]


def test_cross_entropy_is_timms_and_its_gradient_too() -> None:
    logits = torch.randn(6, 5, generator=GENERATOR, requires_grad=True)
    target = torch.rand(6, 5, generator=GENERATOR).softmax(1)
    ours, theirs = cross_entropy(logits, target), SoftTargetCrossEntropy()(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))
    assert cross_entropy(logits.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_the_divergence_times_the_square_of_the_temperature(temperature: float) -> None:
    student, teacher = torch.randn(3, 4, generator=GENERATOR), torch.randn(3, 4, generator=GENERATOR)
    total = 0.0
    for row in range(3):
        p, q = ([math.exp(v / temperature) for v in logits[row].tolist()] for logits in (teacher, student))
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / 3
    assert float(logit_distillation(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    assert float(logit_distillation(teacher, teacher, temperature)) == pytest.approx(0.0, abs=1e-6)
    frozen = teacher.clone().requires_grad_()
    logit_distillation(student.requires_grad_(), frozen, temperature).backward()
    assert frozen.grad is None and student.grad is not None


def test_clips_are_mixed_as_a_slow_loop_mixes_them() -> None:
    clip = torch.randn(4, 3, 4, 6, 6, generator=GENERATOR)
    partner, share = torch.tensor([1, 0, 3, 2]), torch.tensor([0.3, 0.3, 0.9, 1.0])
    box = torch.tensor([[0] * 6, [0] * 6, [0, 4, 1, 3, 2, 6], [1, 3, 0, 2, 0, 6]])
    expected = clip.clone()
    for row in range(2):
        expected[row] = 0.3 * clip[row] + 0.7 * clip[partner[row]]
    expected[2, :, 0:4, 1:3, 2:6] = clip[3, :, 0:4, 1:3, 2:6]
    expected[3, :, 1:3, 0:2, 0:6] = clip[2, :, 1:3, 0:2, 0:6]
    mixed = mix_clips(clip, partner, share, box)
    torch.testing.assert_close(mixed, expected)
    assert torch.equal(mixed[2:], expected[2:]), "what is cut is copied, to the bit"


def test_unmixed_clips_are_themselves() -> None:
    clip = torch.randn(2, 3, 2, 4, 4, generator=GENERATOR)
    empty = torch.tensor([[0] * 6, [2, 2, 1, 3, 0, 4]])  # the second is a box beyond the last frame, as published CutMix draws
    assert torch.equal(mix_clips(clip, torch.tensor([1, 0]), torch.tensor([1.0, 0.4]), empty), clip)
