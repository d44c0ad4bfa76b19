"""The balance of targets: today's total to the bit, closed forms, and dropping against loops in Python."""

import pytest
import torch
from torch import Tensor

from mvd_ds.objectives.balance import (
    BALANCES,
    MOMENTUM,
    Balance,
    MeanTarget,
    RelativeBalance,
    UncertaintyBalance,
    surviving_weights,
)
from mvd_ds.objectives.moving_statistics import settle_statistics, update_statistics
from mvd_ds.objectives.terms import Term, combine

TERMS = {"image": Term("smooth_l1", 1.0), "video": Term("l2", 0.25)}
TEACHERS = {"image": "image", "video": "video"}
WIDTHS = {"image": 7, "video": 7}


def _tensors(seed: int = 0, samples: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(samples, 5, 7, generator=generator) * scale for name, scale in (("image", 1.0), ("video", 30.0))}


def test_fixed_without_dropping_is_the_total_of_before_to_the_bit() -> None:
    predictions, targets = _tensors(0), _tensors(1)
    losses = {name: term.compare(predictions[name], targets[name]) for name, term in TERMS.items()}
    expected = torch.stack([term.weight * losses[name] for name, term in TERMS.items()]).sum()
    assert torch.equal(Balance(TERMS, TEACHERS)(losses).total, expected)
    assert torch.equal(combine(predictions, targets, TERMS).total, expected)


def test_dropping_with_probability_0_changes_the_total_by_rounding_alone() -> None:
    predictions, targets = _tensors(0), _tensors(1)
    rows = {name: term.rows(predictions[name], targets[name]) for name, term in TERMS.items()}
    balance = Balance(TERMS, TEACHERS, drop=1e-9)
    assert balance.by_sample and not Balance(TERMS, TEACHERS).by_sample
    total, kept = balance(rows, uniforms=torch.rand(6, 2))
    assert float(total) == pytest.approx(float(combine(predictions, targets, TERMS).total), rel=1e-6)
    assert kept == {"balance/kept_image": 1.0, "balance/kept_video": 1.0}


def _loop(losses: Tensor, weights: list[float], groups: list[int], uniforms: Tensor, drop: float) -> Tensor:
    """UNIC's rule sample by sample, with whole teachers and weights."""
    factors = torch.zeros_like(losses)
    teachers = sorted(set(groups))
    for row in range(losses.shape[1]):
        share = {teacher: sum(w for w, g in zip(weights, groups, strict=True) if g == teacher) for teacher in teachers}
        mean = {
            teacher: sum(w * float(losses[i, row]) for i, (w, g) in enumerate(zip(weights, groups, strict=True)) if g == teacher)
            / share[teacher]
            for teacher in teachers
            if share[teacher]
        }
        worst = max(mean, key=lambda teacher: mean[teacher])
        alive = [teacher for teacher in teachers if teacher == worst or not float(uniforms[row, teacher]) < drop]
        scale = sum(share.values()) / sum(share[teacher] for teacher in alive)
        for i, group in enumerate(groups):
            factors[i, row] = weights[i] * scale if group in alive else 0.0
    return factors


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 2.0, 0.0], [0.0, 0.0, 1.0, 3.0]])
def test_dropping_is_the_rule_sample_by_sample(weights: list[float]) -> None:
    generator = torch.Generator().manual_seed(3)
    losses, uniforms = torch.rand(4, 200, generator=generator), torch.rand(200, 3, generator=generator)
    groups = [0, 0, 1, 2]
    member = torch.nn.functional.one_hot(torch.tensor(groups)).float()
    factors = surviving_weights(losses, torch.tensor(weights), member, uniforms, 0.5)
    assert torch.allclose(factors, _loop(losses, weights, groups, uniforms, 0.5))
    assert torch.allclose(factors.sum(dim=0), torch.full((200,), sum(weights)))


def test_a_dropped_teacher_has_a_gradient_of_zero_and_not_none() -> None:
    rows = {"image": torch.tensor([5.0, 5.0], requires_grad=True), "video": torch.tensor([1.0, 1.0], requires_grad=True)}
    total, kept = Balance({name: Term("l2", 1.0) for name in rows}, TEACHERS, drop=0.5)(rows, uniforms=torch.zeros(2, 2))
    total.backward()
    assert total.item() == 10.0 and kept == {"balance/kept_image": 1.0, "balance/kept_video": 0.0}
    assert rows["image"].grad.tolist() == [1.0, 1.0] and rows["video"].grad.tolist() == [0.0, 0.0]


def test_a_target_without_a_teacher_is_never_dropped() -> None:
    rows = {name: torch.full((4,), value) for name, value in (("image", 5.0), ("video", 1.0), ("labels", 2.0))}
    balance = Balance({name: Term("l2", 1.0) for name in rows}, TEACHERS, drop=0.5)
    assert balance(rows, uniforms=torch.zeros(4, 2)).total.item() == 10.0 + 2.0


def test_uncertainty_is_least_where_each_variance_is_its_loss() -> None:
    log_variances = torch.zeros(2, requires_grad=True)
    losses = {"image": torch.tensor(0.5), "video": torch.tensor(40.0)}
    balance = UncertaintyBalance({name: Term("l2", 1.0) for name in losses}, TEACHERS)
    assert balance.learns and balance(losses, log_variances).total.item() == pytest.approx(0.5 * 40.5)
    optimum = torch.tensor([0.5, 40.0]).log().requires_grad_()
    balance(losses, optimum).total.backward()
    assert torch.allclose(optimum.grad, torch.zeros(2), atol=1e-7)


def _calibrated(target: Tensor, parts: int = 1) -> MeanTarget:
    part = MeanTarget(TERMS["video"], 7)
    for number in part.rounds:
        part.begin(number)
        for micro in target.chunk(parts):
            part.observe(micro)
        settle_statistics([part], lambda sums: sums)
    return part


@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_of_the_mean_target_is_begun_by_the_calibration_and_moves_with_applied_steps(parts: int) -> None:
    first, second = _tensors(1)["video"], _tensors(2)["video"]
    part = _calibrated(first, parts)
    tokens = first.flatten(0, 1).double()
    mean, loss = tokens.mean(dim=0), ((tokens - tokens.mean(dim=0)) ** 2).mean()
    assert torch.allclose(part.mean.double(), mean, rtol=1e-5) and float(part.loss) == pytest.approx(float(loss), rel=1e-6)
    for shut in (1.0, 0.0):
        for micro in second.chunk(parts):
            part.observe(micro)
        update_statistics([part], lambda sums: sums, torch.tensor(shut), 0.5)
        if shut:
            assert float(part.loss) == pytest.approx(float(loss), rel=1e-6)
    tokens = second.flatten(0, 1).double()
    moved = (1 - MOMENTUM) * loss + MOMENTUM * ((tokens - mean) ** 2).mean()
    assert float(part.loss) == pytest.approx(float(moved), rel=1e-5)
    assert torch.allclose(part.mean.double(), (1 - MOMENTUM) * mean + MOMENTUM * tokens.mean(dim=0), rtol=1e-4)


def test_the_mean_of_standardised_targets_is_no_direction() -> None:
    """A cosine to rounding noise would be some number; to no direction at all it costs 1."""
    target = _tensors(1)["video"]
    part = MeanTarget(Term("cosine", 1.0), 7)
    for number in part.rounds:
        part.begin(number)
        part.observe(target - target.flatten(0, 1).mean(dim=0))
        settle_statistics([part], lambda sums: sums)
    assert part.mean.tolist() == [0.0] * 7 and part.loss.item() == 1.0


def test_relative_losses_of_a_student_that_gives_the_mean_are_1_whatever_the_scale() -> None:
    targets = _tensors(1)
    balance = RelativeBalance(TERMS, TEACHERS, widths=WIDTHS)
    for number in (1, 2):
        for name, part in balance.statistics().items():
            part.begin(number)
            part.observe(targets[name])
        settle_statistics(list(balance.statistics().values()), lambda sums: sums)
    predictions = {name: target.flatten(0, 1).mean(dim=0).expand_as(target) for name, target in targets.items()}
    losses = {name: term.compare(predictions[name], targets[name]) for name, term in TERMS.items()}
    assert balance(losses).total.item() == pytest.approx(1.0 + 0.25, rel=1e-5)
    assert set(balance.state_dict()) == {f"parts.of_{name}.{key}" for name in TERMS for key in ("mean", "loss")}


def test_only_relative_has_a_state_and_only_uncertainty_learns() -> None:
    made = {name: kind(TERMS, TEACHERS, 0.0, WIDTHS) for name, kind in BALANCES.items()}
    assert [name for name, balance in made.items() if balance.state_dict()] == ["loss_relative"]
    assert [name for name, balance in made.items() if balance.learns] == ["uncertainty"]
