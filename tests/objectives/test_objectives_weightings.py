"""Weightings: the table of 2303.00848 in closed form, and that the losses as they are computed are those weightings."""

import math

import pytest
import torch

from unnoise.denoisers import EDM as EDMPreconditioning
from unnoise.denoisers import NetworkDenoiser
from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.objectives import (
    ELBO,
    P2,
    WEIGHTINGS,
    Bound,
    EDMLoss,
    EDMMonotone,
    Flipped,
    Hybrid,
    LogNormal,
    Matching,
    MinSNR,
    Objective,
    Sigmoid,
    Stratified,
    Uniform,
    UniformSteps,
    Weighting,
    implied_weighting,
)
from unnoise.processes import Gaussian, Process
from unnoise.samplers import Ancestral
from unnoise.schedules import EDM, VE, Cosine, FromBetas, LinearVP, Rectified, cosine_betas, linear_betas

L = torch.linspace(-9, 9, 181, dtype=torch.float64)
COSINE, OT = Gaussian(Cosine()), Gaussian(Rectified())


def network(process):
    return NetworkDenoiser(torch.nn.Identity(), process, EDMPreconditioning(0.5))


def sech(x):
    return 1 / torch.cosh(x)


TABLE = {  # objective, process, w(lambda) but for a constant, monotone
    "eps, cosine": (Matching("eps", Uniform()), COSINE, sech(L / 2), False),
    "v, cosine": (Matching("v", Uniform()), COSINE, torch.exp(-L / 2), True),
    "velocity, straight path": (Matching("velocity", Uniform()), OT, torch.exp(-L / 2), True),
    "x0, straight path": (Matching("x0", Uniform()), OT, torch.exp(-L) * sech(L / 4) ** 2, True),
    "EDM": (
        Matching("F", LogNormal()),
        network(Gaussian(EDM())),
        torch.exp(-0.5 * ((L - 2.4) / 2.4) ** 2) * (torch.exp(-L) + 0.25),
        False,
    ),
    "P2, cosine": (Matching("eps", Uniform(), P2(0.5)), COSINE, sech(L / 2) / (1 + torch.exp(L)) ** 0.5, False),
    "min-SNR, cosine": (
        Matching("v", Uniform(), MinSNR(5)),
        COSINE,
        sech(L / 2) * torch.clamp(5 * torch.exp(-L), max=1),
        False,
    ),
    "truncated SNR, cosine": (
        Matching("v", Uniform(), "truncated-snr"),
        COSINE,
        sech(L / 2) * torch.clamp(torch.exp(-L), min=1),
        True,
    ),
    "sigmoid": (Matching("v", Uniform(), Sigmoid(1.5)), COSINE, torch.sigmoid(1.5 - L), True),
    "ELBO": (Matching("x0", Uniform(), "elbo"), COSINE, torch.ones_like(L), True),
}


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_the_paper(row):
    objective, on, expected, monotone = TABLE[row]
    implied = implied_weighting(objective, on, L)
    ratio = implied.weight / expected
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-6, atol=0)
    assert implied.is_monotone == monotone


def test_edm_monotone_is_edms_weighting_held_at_its_peak():
    part = EDMMonotone()
    assert part.peak == pytest.approx(-3.308, abs=5e-4)
    edm = implied_weighting(Matching("F", LogNormal()), network(Gaussian(EDM())), L)
    ours = implied_weighting(Matching("v", Uniform(), "edm-monotone"), COSINE, L)
    top = float(EDMLoss().w(torch.tensor(part.peak).double()))
    above = part.peak < L
    # EDM's loss is its w times 2 / sigma_data^2
    torch.testing.assert_close(ours.weight[above], edm.weight[above] * 0.5 * 0.25, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.weight[~above], torch.full_like(L[~above], top), rtol=1e-9, atol=0)
    assert ours.is_monotone


DENSITIES = {
    "cosine": (Uniform(), COSINE, sech(L / 2) / (2 * math.pi)),
    "straight path": (Stratified(), OT, sech(L / 4) ** 2 / 8),
    "EDM": (LogNormal(), Gaussian(EDM()), torch.exp(-0.5 * ((L - 2.4) / 2.4) ** 2) / (2.4 * math.sqrt(2 * math.pi))),
    "EDM's times on VP": (
        LogNormal(),
        Gaussian(LinearVP()),
        torch.exp(-0.5 * ((L - 2.4) / 2.4) ** 2) / (2.4 * math.sqrt(2 * math.pi)),
    ),
    "even in log-SNR": (Uniform(), Gaussian(VE()), torch.full_like(L, 1 / (2 * math.log(5000)))),
}


@pytest.mark.parametrize("row", DENSITIES)
def test_densities_of_noise_levels(row):
    times, process, expected = DENSITIES[row]
    inside = (L > -7.5) & (L < 9)  # VE ends at log-SNR -7.8
    ours = implied_weighting(Matching("eps", times), process, L[inside]).density
    rtol = 1e-3 if row == "cosine" else 1e-6  # the cosine is cut at +-20, and so takes 1 + 3e-5 more of the rest
    torch.testing.assert_close(ours, expected[inside], rtol=rtol, atol=0)


@pytest.mark.parametrize("schedule", [Cosine(), LinearVP(), Rectified(), FromBetas(cosine_betas(1000))])
def test_densities_integrate_to_one(schedule):
    process = Gaussian(schedule)
    a, b = schedule.log_snr(torch.tensor([0.999, 0.001], dtype=torch.float64)).tolist()
    grid = torch.linspace(a, b, 20001, dtype=torch.float64)
    density = implied_weighting(Matching("eps", Uniform()), process, grid).density
    assert float(torch.trapezoid(density, grid)) == pytest.approx(0.998, abs=1e-4)


@pytest.mark.parametrize("times", [Uniform(0.001), Stratified(start=0.01), LogNormal(), UniformSteps(1000)])
@pytest.mark.parametrize("process", [COSINE, OT, Gaussian(LinearVP()), Gaussian(FromBetas(linear_betas(1000)))])
@pytest.mark.parametrize("name", ["elbo", "sigmoid", "edm", "edm-monotone"])
def test_an_integral_does_not_depend_on_schedule_or_times(name, times, process):
    implied = implied_weighting(Matching("v", times, name), process, L)
    torch.testing.assert_close(implied.weight, WEIGHTINGS[name].w(L), rtol=1e-8, atol=0)


class OffBy(Denoiser):
    """A guess whose error in eps is 1 in every number."""

    def __init__(self, process, x0):
        super().__init__()
        self.process, self.x0 = process, x0

    def forward(self, xt, t, cond=None):
        c = self.process.at(t, xt)
        return Estimate(self.x0 - c.sigma / c.alpha)


@pytest.mark.parametrize("process", [COSINE, OT, Gaussian(VE()), Gaussian(FromBetas(linear_betas(1000)))])
@pytest.mark.parametrize("compare", ["eps", "x0", "v", "score", "velocity"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_losses_as_computed_have_the_weighting_they_imply(name, compare, process):
    """At an error of 1 in eps a loss is u(lambda) = w / (2 p); and a named weighting is one loss for every kind."""
    objective = Matching(compare, Uniform(0.01), name)
    t = torch.linspace(0.03, 0.97, 31, dtype=torch.float64)
    x0 = torch.randn(31, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = process.at(t, x0)
    eps = torch.randn(31, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    xt = point.alpha * x0 + point.sigma * eps
    loss = objective.compare_at(OffBy(process, x0), x0, xt, t, None, torch.ones_like(t)).per_example
    implied = implied_weighting(objective, process, process.schedule.log_snr(t))
    torch.testing.assert_close(loss, implied.weight / (2 * implied.density), rtol=1e-6, atol=0)
    if name != "constant":
        same = Matching("eps", Uniform(0.01), name).compare_at(OffBy(process, x0), x0, xt, t, None, torch.ones_like(t))
        torch.testing.assert_close(loss, same.per_example, rtol=1e-6, atol=0)


def test_factors_of_min_snr_on_each_kind():
    """min(SNR, g) on x0, min(SNR, g) / SNR on eps, min(SNR, g) / (SNR + 1) on v."""
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    point = COSINE.with_derivatives(t, torch.zeros(9, 1))
    snr = (point.alpha / point.sigma) ** 2
    least = snr.clamp(max=5)
    for kind, expected in {"x0": least, "eps": least / snr, "v": least / (snr + 1)}.items():
        objective = Matching(kind, Uniform(), "min-snr")
        _, q = objective.relation(None, point)
        torch.testing.assert_close(objective.weight(point, q, torch.ones(9)), expected, rtol=1e-10, atol=0)


def test_p2_on_the_linear_chain():
    """Linear betas, T = 1000: gamma 1 gives 1 - abar exactly; means over the chain 0.806 and 0.724."""
    process = Gaussian(FromBetas(linear_betas(1000)))
    t = torch.arange(1, 1001).double() / 1000
    point = process.at(t, torch.zeros(1000, 1))
    one = P2(1.0)(point)[:, 0]
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    torch.testing.assert_close(one, 1 - abar, rtol=1e-9, atol=1e-15)
    assert float(one.mean()) == pytest.approx(0.724, abs=5e-4)
    assert float(P2(0.5)(point).mean()) == pytest.approx(0.806, abs=5e-4)
    at = [i - 1 for i in (1, 10, 100, 259, 500, 1000)]
    assert P2(0.5)(point)[at, 0].tolist() == pytest.approx(
        [0.0100, 0.04353, 0.3209, 0.70693, 0.95990, 0.99998], rel=5e-4
    )
    assert float((P2(0.0)(point) - 1).abs().max()) == 0


def test_the_elbo_weighting_is_the_bound_of_gaussian_data():
    """1/2 int c^2 e^l / (1 + c^2 e^l) dl = 1/2 ln(1 + c^2 e^l): I-MMSE, for data N(0, c^2) and their exact denoiser."""
    implied = implied_weighting(Matching("v", Uniform(), ELBO()), COSINE, torch.linspace(-19.9, 5, 40001).double())
    grid, c2 = implied.log_snr, 0.25
    error = c2 * grid.exp() / (1 + c2 * grid.exp())  # E|eps - eps*|^2
    integral = 0.5 * torch.trapezoid(implied.weight * error, grid)
    assert float(integral) == pytest.approx(0.5 * math.log1p(c2 * math.exp(5)), abs=1e-6)


def test_what_implies_no_weighting_says_so():
    class Cold(Process):
        pass

    chain = Gaussian(FromBetas(linear_betas(100)))

    class Judged(Objective):
        pass

    with pytest.raises(UsageProblem, match="Judged objective compares no noise"):
        implied_weighting(Judged(), chain)
    with pytest.raises(UsageProblem, match="Cold process has no log-SNR"):
        implied_weighting(Matching("eps", Uniform()), Cold())
    with pytest.raises(UsageProblem, match="no network output"):
        implied_weighting(Matching("F", Uniform()), COSINE)
    with pytest.raises(UsageProblem, match=r"known: .*min-snr"):
        Matching("eps", Uniform(), "min-snt")
    flipped = implied_weighting(Flipped(Matching("eps", Uniform())), chain)
    assert len(flipped.log_snr) == 400 and not flipped.is_monotone


def test_every_named_weighting_is_one():
    assert all(isinstance(w, Weighting) for name, w in WEIGHTINGS.items() if name != "constant")


def test_the_bound_of_a_long_chain_weights_as_the_elbo():
    """T (e^(lambda_s - lambda_t) - 1) / (-dlambda/dt) for the small variance, in bits: 1 / ln 2 as T grows, at first order."""
    inside = L[(L > -4) & (L < 4)]
    errors = []
    for steps in (1000, 4000):
        chain = Gaussian(FromBetas(linear_betas(steps)))
        bound = Bound(steps, UniformSteps(steps), Ancestral())
        weight = implied_weighting(bound, chain, inside).weight * math.log(2)
        t = chain.schedule.time(inside)
        s = t - 1 / steps
        slope = -(chain.schedule.log_snr(t + 1e-6) - chain.schedule.log_snr(t - 1e-6)) / 2e-6
        expected = steps * torch.expm1(chain.schedule.log_snr(s) - chain.schedule.log_snr(t)) / slope
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=0)
        errors.append(float((weight - 1).abs().max()))
    assert errors[0] < 0.05 and errors[1] == pytest.approx(errors[0] / 4, rel=0.1)


def test_hybrid_weights_as_its_simple_loss():
    chain = Gaussian(FromBetas(linear_betas(1000)))
    times = UniformSteps(1000)
    bound = Bound(1000, times, Ancestral(variance="learned"))
    for weighting in (None, P2(1.0), MinSNR()):
        hybrid = implied_weighting(Hybrid(bound, weighting=weighting), chain, L)
        simple = implied_weighting(Matching("eps", times, weighting or "eps"), chain, L)
        torch.testing.assert_close(hybrid.weight, simple.weight, rtol=1e-12, atol=0)
    with pytest.raises(UsageProblem, match="ELBO weights an integral"):
        Hybrid(bound, weighting=ELBO())
