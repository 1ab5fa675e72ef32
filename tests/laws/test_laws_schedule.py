"""Schedules: their values in the papers, their inverses, their derivatives, their gradients."""

import math

import laws_parts as parts
import pytest
import torch
from torch import nn

from unnoise.errors import UsageProblem
from unnoise.processes import Gaussian
from unnoise.schedules import Cosine, FromBetas, LinearVP, Schedule, cosine_betas, linear_betas

NAMES = list(parts.SCHEDULES)
T = torch.linspace(0.0031, 0.9995, 401, dtype=torch.float64)  # off the integers of a chain, where slopes jump


def abar(schedule: FromBetas, i: int) -> float:
    return float(schedule.alpha(torch.tensor(i / schedule.steps, dtype=torch.float64)) ** 2)


def test_linear_betas_are_ddpms():
    chain = FromBetas(linear_betas(1000))
    assert abar(chain, 0) == 1
    assert abar(chain, 1) == pytest.approx(0.9999, abs=1e-12)
    assert abar(chain, 1000) == pytest.approx(4.0358e-5, rel=1e-5)
    assert abar(FromBetas(linear_betas(4000)), 4000) == pytest.approx(4.24665e-5, rel=1e-6)


def test_cosine_betas_are_improved_ddpms():
    chain = FromBetas(cosine_betas(1000))
    assert float(cosine_betas(1000)[0]) == pytest.approx(4.12842e-5, rel=1e-6)
    assert abar(chain, 1) == pytest.approx(0.99995872, abs=5e-9)
    assert abar(chain, 999) == pytest.approx(2.42877e-6, rel=2.1e-6)
    assert abar(chain, 1000) == pytest.approx(2.42877e-9, rel=2.1e-6)
    assert int((cosine_betas(1000) == 0.999).sum()) == 1  # only the last is cut
    assert float(cosine_betas(4000)[0]) == pytest.approx(9.8658e-6, rel=1e-5)
    assert abar(FromBetas(cosine_betas(4000)), 4000) == pytest.approx(1.518e-10, rel=1e-3)


def test_prior_divergence_of_ddpm():
    """L_T is 2.9e-5 bits/dim for data of unit variance."""
    chain = Gaussian(FromBetas(linear_betas(1000)))
    x0 = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    top = chain.point(1.0)
    nats = chain.marginal(x0, top).kl(chain.prior(x0.shape, top)).mean()
    assert float(nats) / math.log(2) == pytest.approx(2.9e-5, rel=0.01)


def test_truncated_cosine_is_the_guidance_papers():
    schedule = Cosine(-20, 20)
    ends = schedule.log_snr(torch.tensor([0.0, 1.0]).double())
    assert ends.tolist() == pytest.approx([20, -20], abs=1e-9)
    b = math.atan(math.exp(-10))
    a = math.atan(math.exp(10)) - b
    torch.testing.assert_close(schedule.log_snr(T), -2 * torch.log(torch.tan(a * T + b)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(schedule.alpha(T) ** 2, torch.sigmoid(schedule.log_snr(T)), rtol=1e-12, atol=1e-14)


def test_linear_vp_is_edms_sigma_of_t():
    schedule = LinearVP(0.1, 20.0)
    sigma = torch.sqrt(torch.exp(19.9 * T**2 / 2 + 0.1 * T) - 1)
    torch.testing.assert_close(schedule.sigma(T) / schedule.alpha(T), sigma, rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_falls_and_is_inverted_by_time(name):
    schedule = parts.SCHEDULES[name]
    log_snr = schedule.log_snr(T)
    assert bool((log_snr.diff() < 0).all())
    torch.testing.assert_close(log_snr, 2 * (schedule.alpha(T) / schedule.sigma(T)).log(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(schedule.time(log_snr), T, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        Schedule.time(schedule, log_snr), T, rtol=1e-9, atol=1e-10
    )  # bisection, for any schedule


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_finite_differences(name):
    schedule, h = parts.SCHEDULES[name], 1e-6
    closed = schedule.derivatives(T)
    for value, generic in zip(closed, Schedule.derivatives(schedule, T), strict=True):
        torch.testing.assert_close(value, generic, rtol=1e-11, atol=1e-11)
    for value, f in zip(closed, (schedule.alpha, schedule.sigma), strict=True):
        torch.testing.assert_close(value, (f(T + h) - f(T - h)) / (2 * h), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float64_whatever_the_module_is_cast_to(name):
    schedule = parts.SCHEDULES[name]
    before = schedule.log_snr(T)
    process = Gaussian(schedule).half()
    assert process.schedule.log_snr(T).dtype == torch.float64
    assert torch.equal(process.schedule.log_snr(T), before)
    assert torch.equal(schedule.log_snr(T.float()).double(), schedule.log_snr(T.float().double()))


@pytest.mark.parametrize("name", [n for n in NAMES if parts.SCHEDULES[n].prior_std == 1])
def test_variance_preserving(name):
    schedule = parts.SCHEDULES[name]
    torch.testing.assert_close(schedule.alpha(T) ** 2 + schedule.sigma(T) ** 2, torch.ones_like(T), rtol=0, atol=1e-14)


class Learned(Schedule):
    """alpha = 1, sigma = t^power, the power learned."""

    def __init__(self):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return t**self.power


def test_a_learned_schedule_gets_gradients():
    schedule, t = Learned(), T[:50]
    dalpha, dsigma = schedule.derivatives(t)
    torch.testing.assert_close(dsigma, 1.5 * t**0.5)
    assert not dalpha.any()
    dsigma.sum().backward()  # d/dp p t^(p-1) = t^(p-1) (1 + p log t)
    assert float(schedule.power.grad) == pytest.approx(float((t**0.5 * (1 + 1.5 * t.log())).sum()), rel=1e-12)
    process, x = Gaussian(schedule), parts.normal(50, 2)
    schedule.power.grad = None
    process.velocity(x, torch.zeros_like(x), t).square().sum().backward()
    assert float(schedule.power.grad.abs()) > 0
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        assert not schedule.derivatives(t)[1].requires_grad


def test_one_coefficient_per_frequency_is_differentiated_in_t_alone():
    rates = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)

    class Blur(Schedule):
        def alpha(self, t):
            return torch.exp(-rates * t[:, None, None])

        def sigma(self, t):
            return t[:, None, None] ** 2

    dalpha, dsigma = Blur().derivatives(T)
    torch.testing.assert_close(dalpha, -rates * torch.exp(-rates * T[:, None, None]))
    torch.testing.assert_close(dsigma, 2 * T[:, None, None])


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.0], [[0.1]]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(UsageProblem, match="betas"):
        FromBetas(torch.tensor(betas))


def test_too_few_steps_for_linear_betas_are_refused():
    with pytest.raises(UsageProblem, match="21 steps or more"):
        linear_betas(20)
    assert float(linear_betas(21)[-1]) < 1
