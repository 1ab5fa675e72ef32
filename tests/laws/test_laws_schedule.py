"""Schedules: their values in the papers, their inverses, their derivatives, their gradients."""

import math

import laws_parts as parts
import pytest
import torch
from torch import nn

from unnoise.errors import UsageProblem
from unnoise.processes import Gaussian
from unnoise.schedules import (
    EDM,
    VE,
    Cosine,
    FromBetas,
    Learned,
    LinearVP,
    Schedule,
    SubVP,
    VariancePreserving,
    cosine_betas,
    linear_betas,
)

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


@pytest.mark.parametrize("name", [n for n in NAMES if isinstance(parts.SCHEDULES[n], VariancePreserving)])
def test_variance_preserving(name):
    schedule = parts.SCHEDULES[name]
    torch.testing.assert_close(schedule.alpha(T) ** 2 + schedule.sigma(T) ** 2, torch.ones_like(T), rtol=0, atol=1e-14)


class Power(Schedule):
    """alpha = 1, sigma = t^power, the power learned."""

    def __init__(self):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return t**self.power


def test_a_learned_schedule_gets_gradients():
    schedule, t = Power(), T[:50]
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


@pytest.mark.parametrize("schedule", [VE(), LinearVP(), SubVP()], ids=["VE", "VP", "sub-VP"])
def test_marginals_are_those_of_the_sde(schedule):
    """Of dx = f x dt + g dw as score-sde writes it: alpha' = f alpha, (sigma^2)' = 2 f sigma^2 + g^2."""
    beta, integral = 0.1 + 19.9 * T, 0.1 * T + 19.9 * T**2 / 2
    f, g2 = {
        VE: (0 * T, 2 * math.log(5000) * (0.01 * 5000**T) ** 2),
        LinearVP: (-beta / 2, beta),
        SubVP: (-beta / 2, beta * (1 - torch.exp(-2 * integral))),
    }[type(schedule)]
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    dalpha, dsigma = Schedule.derivatives(schedule, T)
    torch.testing.assert_close(dalpha, f * alpha, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(2 * sigma * dsigma, 2 * f * sigma**2 + g2, rtol=1e-9, atol=1e-12)
    process, x = Gaussian(schedule), torch.ones(len(T), 1, dtype=torch.float64)
    torch.testing.assert_close(process.drift(x, T)[:, 0], f, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(process.diffusion(T, x)[:, 0] ** 2, g2, rtol=1e-9, atol=1e-12)


def test_ends_of_score_sdes_schedules():
    one = torch.ones(1, dtype=torch.float64)
    assert float(LinearVP().alpha(one)) ** 2 == pytest.approx(4.3186e-5, rel=1e-4)
    torch.testing.assert_close(SubVP().sigma(T), LinearVP().sigma(T) ** 2, rtol=1e-12, atol=0)


def test_vdms_schedule_is_monotone_whatever_its_weights():
    """gamma' > 0 for random weights of either sign, the ends exact, and nearly linear at first."""
    schedule = Learned(-5.0, 13.3)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert schedule.log_snr(ends).tolist() == pytest.approx([13.3, -5.0], abs=1e-12)
    line = 13.3 - 18.3 * T
    assert float((schedule.log_snr(T) - line).detach().abs().max()) < 0.5
    for seed in range(5):
        with torch.no_grad():
            for i, p in enumerate(schedule.interior):
                p.copy_(5 * torch.randn(p.shape, generator=parts.numbers(seed, i), dtype=torch.float64))
        assert bool((schedule.log_snr(T).diff() < 0).all())
        assert schedule.log_snr(ends).tolist() == pytest.approx([13.3, -5.0], abs=1e-9)
    with pytest.raises(UsageProblem, match="log_snr_min"):
        Learned(3.0, 3.0)


def test_gradients_reach_vdms_schedule():
    """Every parameter, through gamma and gamma'; by finite differences."""
    schedule, t = Learned(units=4), T[::40]

    def loss():
        dalpha, _ = schedule.derivatives(t)
        return (schedule.log_snr(t).sin() + dalpha**2).sum()

    loss().backward()
    for p in schedule.parameters():
        flat, h = p.data.view(-1), 1e-5
        flat[-1] += h
        up = float(loss().detach())
        flat[-1] -= 2 * h
        down = float(loss().detach())
        flat[-1] += h
        assert float(p.grad.view(-1)[-1]) == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9)
        assert float(p.grad.abs().max()) > 0


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.0], [[0.1]]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(UsageProblem, match="betas"):
        FromBetas(torch.tensor(betas))


@pytest.mark.parametrize("build", [lambda: VE(5.0, 1.0), lambda: VE(0.0, 1.0), lambda: EDM(0.0)])
def test_impossible_noise_levels_are_refused(build):
    with pytest.raises(UsageProblem, match="sigma_max"):
        build()


@pytest.mark.parametrize("betas", [(-1.0, 1.0), (2.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("kind", [LinearVP, SubVP])
def test_impossible_rates_of_noise_are_refused(kind, betas):
    with pytest.raises(UsageProblem, match="0 <= beta_min <= beta_max"):
        kind(*betas)


def test_too_few_steps_for_linear_betas_are_refused():
    with pytest.raises(UsageProblem, match="21 steps or more"):
        linear_betas(20)
    for betas in (linear_betas, cosine_betas):
        with pytest.raises(UsageProblem, match="steps"):
            betas(0)
    assert float(linear_betas(21)[-1]) < 1
