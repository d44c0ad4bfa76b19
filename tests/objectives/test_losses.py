"""Losses: golden numbers on fixed tensors, gradients, precision, and their weighted sum."""

import pytest
import torch
from torch import Tensor

from mvd_ds.config import LOSS_NAMES
from mvd_ds.objectives.losses import LOSSES, mixed_loss, per_sample, per_token, squared_angle
from mvd_ds.objectives.terms import Term, combine

PREDICTION = torch.tensor([[[3.0, 4.0], [0.5, 0.0]]])
TARGET = torch.tensor([[[0.0, 4.0], [0.0, 2.0]]])
# d = 3, 0, 0.5, -2: by hand (2.5 + 0 + 0.125 + 1.5) / 4; (3 + 0.5 + 2) / 4; (9 + 0.25 + 4) / 4; ((1 - 0.8) + (1 - 0)) / 2;
# (arccos(0.8)^2 + (pi / 2)^2) / 2
GOLDEN = {"smooth_l1": 1.03125, "l1": 1.375, "l2": 3.3125, "cosine": 0.6, "angle": 1.4407474}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_golden(name: str) -> None:
    assert LOSSES[name](PREDICTION, TARGET).item() == pytest.approx(GOLDEN[name], rel=1e-6)


def test_every_loss_a_recipe_may_name_exists() -> None:
    assert set(LOSS_NAMES) == set(LOSSES)


def test_a_mixture_is_the_sum_by_weights_and_a_weight_of_0_leaves_every_bit() -> None:
    mixture = {"cosine": 0.9, "smooth_l1": 0.1}
    assert mixed_loss(mixture, PREDICTION, TARGET).item() == pytest.approx(0.9 * 0.6 + 0.1 * 1.03125, rel=1e-6)
    assert Term(mixture, 1.0).compare(PREDICTION, TARGET) == mixed_loss(mixture, PREDICTION, TARGET)
    prediction, target = (torch.randn(4, 30, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(
        mixed_loss({"smooth_l1": 1.0, "cosine": 0.0}, prediction, target), mixed_loss("smooth_l1", prediction, target)
    )


@pytest.mark.parametrize("loss", [*LOSSES, {"cosine": 0.9, "smooth_l1": 0.1}], ids=str)
def test_losses_of_samples_have_the_loss_as_their_mean_and_the_same_gradient(loss: str | dict[str, float]) -> None:
    prediction, target = (torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    one, rows = prediction.clone().requires_grad_(), prediction.clone().requires_grad_()
    whole, each = mixed_loss(loss, one, target), per_sample(loss, rows, target)
    assert each.shape == (6,) and float(each.mean()) == pytest.approx(float(whole), rel=1e-5)
    whole.backward()
    each.mean().backward()
    assert torch.allclose(one.grad, rows.grad, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_flow_to_the_prediction_only(name: str) -> None:
    prediction, target = PREDICTION.clone().requires_grad_(), TARGET.clone().requires_grad_()
    LOSSES[name](prediction, target).backward()
    assert prediction.grad is not None and prediction.grad.abs().sum() > 0
    assert target.grad is None


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_is_computed_in_fp32(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(4, 300, 16, generator=generator).to(torch.bfloat16) for _ in range(2))
    loss = LOSSES[name](prediction, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSSES[name](prediction.double().float(), target.double().float()).item(), rel=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert LOSSES[name](prediction, target).item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and target \(1, 1, 2\) differ"):
        LOSSES[name](PREDICTION, TARGET[:, :1])


def test_cosine_ignores_length_and_survives_zeros() -> None:
    assert LOSSES["cosine"](PREDICTION, 7 * PREDICTION).item() == pytest.approx(0.0, abs=1e-6)
    prediction = torch.zeros(1, 2, 3, requires_grad=True)
    loss = LOSSES["cosine"](prediction, torch.ones(1, 2, 3))
    loss.backward()
    assert loss.item() == 1.0 and torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("degrees", [0.0, 0.01, 30.0, 179.0, 180.0])
def test_angles_are_exact_and_have_gradients_everywhere(degrees: float) -> None:
    """Small ones keep the digits that the arc cosine of fp32 would lose; the gradient is 2 * angle along the tangent."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    vector = torch.stack((angle.cos(), angle.sin())).float().requires_grad_()
    found = squared_angle(vector, torch.tensor([2.0, 0.0]))
    assert found.item() ** 0.5 == pytest.approx(angle.item(), rel=1e-3, abs=1e-5)
    found.backward()
    assert vector.grad is not None and torch.isfinite(vector.grad).all()
    if 1 < degrees < 180:
        assert vector.grad.norm().item() == pytest.approx(2 * angle.item(), rel=1e-3)


def _terms() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Term]]:
    predictions = {"image": PREDICTION.clone().requires_grad_(), "video": (2 * PREDICTION).requires_grad_()}
    targets = {"image": TARGET, "video": TARGET}
    return predictions, targets, {"image": Term("smooth_l1", 1.0), "video": Term("l2", 0.25)}


def test_combine_weights_the_total_and_reports_the_terms_unweighted() -> None:
    total, terms, _ = combine(*_terms())
    # l2 of d = 6, 4, 1, -2
    assert {name: term.item() for name, term in terms.items()} == {"image": 1.03125, "video": 14.25}
    assert total.item() == 1.03125 + 0.25 * 14.25
    assert total.requires_grad and not any(term.requires_grad for term in terms.values())


def test_a_teacher_moves_its_own_term_only() -> None:
    predictions, targets, terms = _terms()
    before = combine(predictions, targets, terms)
    after = combine(predictions, {**targets, "video": TARGET + 1}, terms)
    assert before.terms["image"] == after.terms["image"] and before.terms["video"] != after.terms["video"]


def test_a_weight_of_zero_still_reaches_every_decoder() -> None:
    predictions, targets, terms = _terms()
    total = combine(predictions, targets, {**terms, "video": Term("l2", 0.0)}).total
    assert total.item() == 1.03125
    total.backward()
    assert predictions["video"].grad is not None and predictions["video"].grad.abs().max() == 0


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_names_must_agree(missing: int) -> None:
    parts = list(_terms())
    parts[missing] = {name: part for name, part in parts[missing].items() if name != "video"}
    with pytest.raises(ValueError, match="must be the same names"):
        combine(*parts)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_single_tokens_have_the_loss_as_their_mean(name: str) -> None:
    prediction, target = (torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    values = per_token(name, prediction, target)
    assert values.shape == (2, 5)
    assert float(values[1, 3]) == pytest.approx(float(LOSSES[name](prediction[1, 3], target[1, 3])), rel=1e-5)
    assert float(values.mean()) == pytest.approx(float(LOSSES[name](prediction, target)), rel=1e-5)
