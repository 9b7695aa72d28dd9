import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models.losses import cox_loss, hazards, risk, survival_curve, survival_nll

REFERENCE = Path(__file__).parents[3] / "shared/data/reference/nll_umeml.npz"


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference numbers, which lie beside the checkout: {REFERENCE} is absent")
    return {name: torch.from_numpy(array) for name, array in np.load(REFERENCE).items()}


@pytest.mark.parametrize("number", range(5))
def test_loss_and_gradient_reproduce_the_reference(reference, number):
    logits = reference["logits"].clone().requires_grad_()
    alpha = float(reference["alphas"][number])
    loss = survival_nll(logits, reference["Y"], reference["c"] == 0, alpha=alpha)
    loss.mean().backward()
    torch.testing.assert_close(loss.detach(), reference["per_sample_f64"][number], rtol=0, atol=1e-10)
    torch.testing.assert_close(logits.grad, reference["grad_f64"][number], rtol=0, atol=1e-10)


def test_hazards_survival_and_risk_reproduce_the_reference(reference):
    logits = reference["logits"]
    torch.testing.assert_close(hazards(logits), reference["hazards"], rtol=0, atol=1e-10)
    torch.testing.assert_close(survival_curve(logits), reference["S"], rtol=0, atol=1e-10)
    torch.testing.assert_close(risk(logits), reference["risk"], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("time_bin", "event", "alpha", "expected"),
    [
        (0, True, 0.5, -math.log(1 / 2)),
        (1, True, 0.5, -math.log(1 / 2 * 1 / 4)),
        (2, True, 0.5, -math.log(1 / 2 * 3 / 4 * 4 / 5)),
        (1, False, 0.0, -math.log(1 / 2 * 3 / 4)),
        (1, False, 0.5, -math.log(1 / 2 * 3 / 4) / 2),
        (1, False, 1.0, 0.0),
    ],
)
def test_loss_is_that_counted_by_hand(time_bin, event, alpha, expected):
    logits = torch.logit(torch.tensor([[1 / 2, 1 / 4, 4 / 5]], dtype=torch.float64))
    loss = survival_nll(logits, torch.tensor([time_bin]), torch.tensor([event]), alpha=alpha)
    assert loss.tolist() == pytest.approx([expected], abs=1e-12)


def test_curve_falls_and_a_higher_hazard_is_a_higher_risk():
    logits = torch.tensor([[-2.0, 0.0, 1.0], [-2.0, 0.5, 1.0]])
    assert (survival_curve(logits).diff(dim=1) < 0).all()
    low, high = risk(logits)
    assert -3 < low < high < 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("event", [False, True])
def test_extreme_logits_give_bounded_losses_and_finite_gradients(dtype, event):
    logits = torch.tensor([[1e4] * 4, [-1e4] * 4, [0.0] * 4], dtype=dtype, requires_grad=True)
    loss = survival_nll(logits, torch.full((3,), 3), torch.tensor([event] * 3))
    loss.sum().backward()
    assert (loss <= 2 * -math.log(1e-7) + 1e-3).all()
    assert logits.grad.isfinite().all()


def test_cox_loss_is_torchsurvs_with_ties_as_efron_has_them():
    from torchsurv.loss.cox import neg_partial_log_likelihood

    rng = np.random.default_rng(0)
    time, event = torch.from_numpy(rng.integers(1, 6, 16).astype(float)), torch.from_numpy(rng.random(16) < 0.7)
    logits = torch.from_numpy(rng.normal(size=(16, 4))).requires_grad_()
    log_hazard = torch.log(torch.nn.functional.softplus(logits).sum(1))
    expected = neg_partial_log_likelihood(log_hazard, event, time, ties_method="efron", reduction="sum") / event.sum()
    loss = cox_loss(logits, time, event)
    assert event.sum() > len(time[event].unique())  # there are ties
    torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], rtol=1e-5, atol=1e-7)


def test_cox_loss_counted_by_hand():
    """Three cases die in turn, hazards as 1 : 2 : 4; nobody compares with the last."""
    logits = torch.log(torch.expm1(torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)))  # softplus is 1, 2 and 4
    loss = cox_loss(logits, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, True, True]))
    assert float(loss) == pytest.approx((math.log(7) + math.log(3)) / 3)


def test_without_a_death_cox_loss_is_0_and_extreme_logits_have_finite_gradients():
    logits = torch.tensor([[1e4] * 4, [-1e4] * 4, [0.0] * 4], requires_grad=True)
    time = torch.tensor([1.0, 2.0, 3.0])
    assert float(cox_loss(logits, time, torch.tensor([False] * 3)).detach()) == 0
    cox_loss(logits, time, torch.tensor([True] * 3)).backward()
    assert logits.grad.isfinite().all()
