"""Law 7: an objective's minimiser is the oracle. Distributions of time are what they say."""

import math

import laws_parts as parts
import pytest
import torch
from torch import nn

from unnoise.denoisers import EDM, NetworkDenoiser
from unnoise.denoisers.denoiser import Denoiser
from unnoise.denoisers.preconditioning import KINDS
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.likelihood import Discretised
from unnoise.objectives import (
    WEIGHTINGS,
    Bound,
    Flipped,
    Hybrid,
    LogNormal,
    LossSecondMoment,
    Matching,
    Sliced,
    Stratified,
    Uniform,
    UniformSteps,
)
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.samplers import Ancestral
from unnoise.schedules import EDM as EDMSchedule
from unnoise.schedules import FromBetas, linear_betas

COUNT = 20_000
CHAIN = Gaussian(FromBetas(linear_betas(40)))


class Perturbed(Denoiser):
    """The oracle moved by theta times a field of x_t and t, one theta for each example so that each has its gradient."""

    def __init__(self, denoiser, theta, fraction=None):
        super().__init__()
        self.denoiser, self.process, self.theta, self.fraction = denoiser, denoiser.process, theta, fraction

    def forward(self, xt, t, cond=None):
        guess = self.denoiser(xt, t, cond)
        field = torch.cos(1.3 * xt / (1 + self.process.at(t, xt).sigma) + t[:, None])
        fraction = None if self.fraction is None else self.fraction(t, guess)
        return Estimate(guess.mean + self.theta * field, guess.variance, fraction)


def examine(objective, denoiser, cond=None):
    """Mean and standard error of dL/dtheta at the oracle, and L(h) + L(-h) - 2 L(0), on the same numbers."""
    mixture = parts.smooth_mixture()
    x0 = mixture.sample(parts.Together(COUNT, seed=20))

    def loss(theta):
        return objective(denoiser(theta), x0, cond, parts.Together(COUNT, seed=21)).per_example

    theta = torch.zeros(COUNT, 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(theta).sum(), theta)
    with torch.no_grad():
        h = torch.full_like(theta, 0.05)
        second = (loss(h) + loss(-h) - 2 * loss(torch.zeros_like(theta))).mean()
    return float(gradient.mean()), float(gradient.std() / COUNT**0.5), float(second)


def assert_minimum(objective, denoiser):
    mean, error, second = examine(objective, denoiser)
    assert abs(mean) < 4.5 * error
    assert second > 0


MATCHINGS = {
    **{kind: Matching(kind, Uniform(0.1)) for kind in KINDS},
    **{f"weighting {name}": Matching("eps", Uniform(0.1), name) for name in WEIGHTINGS},
    "sliced": Sliced(Uniform(0.1)),
    "a weighting of one's own": Matching("x0", Uniform(0.1), lambda c: torch.sigmoid(c.log_snr)),
}


@pytest.mark.parametrize("process", ["linear VP", "rectified", "VE"])
@pytest.mark.parametrize("objective", MATCHINGS)
def test_the_oracle_minimises_matching(objective, process):
    oracle = parts.smooth_mixture().denoiser(parts.process(process))
    assert_minimum(MATCHINGS[objective], lambda theta: Perturbed(oracle, theta))


def test_the_oracle_minimises_edms_loss():
    """In F, through the preconditioned network itself, at EDM's times."""
    process = Gaussian(EDMSchedule())
    oracle, part = parts.smooth_mixture().denoiser(process), EDM(0.5)

    def denoiser(theta):
        class Net(nn.Module):
            def forward(self, scaled, c_noise, cond=None):
                t = (4 * c_noise).exp() / 80
                c = process.at(t, scaled)
                xt = scaled / part.c_in(c)
                p, q = part.relation(c)
                return p * xt + q * oracle(xt, t).mean + theta * torch.cos(scaled + c_noise[:, None])

        return NetworkDenoiser(Net(), process, part)

    assert_minimum(Matching("F", LogNormal()), denoiser)


@pytest.mark.parametrize(
    "reverse",
    [Ancestral(), Ancestral(variance="large"), Ancestral(variance="optimal"), Ancestral(eta=0.7), Ancestral(mix=0.4)],
)
def test_the_oracle_minimises_the_bound(reverse):
    oracle = parts.smooth_mixture().denoiser(CHAIN)
    assert_minimum(Bound(40, UniformSteps(40), reverse), lambda theta: Perturbed(oracle, theta))


def optimal_fraction(t, guess):
    """log(best / small) / log(large / small) with the textbook's beta and beta~, for the chain of 40."""
    betas = torch.cat([torch.zeros(1).double(), torch.linspace(25e-4, 0.5, 40, dtype=torch.float64)])
    abar = torch.cumprod(1 - betas, 0)
    i = (t * 40).round().long()[:, None]
    now, before = abar[i], abar[(i - 1).clamp(min=0)]
    beta = betas[i]
    small = torch.where(i > 1, beta * (1 - before) / (1 - now), betas[2] * (1 - abar[1]) / (1 - abar[2]))
    best = beta * (1 - before) / (1 - now) + before * (beta / (1 - now)) ** 2 * guess.variance
    return (best / small).log() / (beta / small).log()


def gaussian_oracle():
    """Isotropic Gaussian data with the mixture's role: there the best variance is the same everywhere."""
    from unnoise.oracles import gaussian

    return gaussian(torch.zeros(2).double(), 0.25)


def test_the_best_fraction_minimises_the_bound_and_theta_the_simple_loss():
    data = gaussian_oracle()
    oracle, x0 = data.denoiser(CHAIN), data.sample(parts.Together(COUNT, seed=20))
    objective = Bound(40, UniformSteps(40), Ancestral(variance="learned"))

    def loss(theta):
        def fraction(t, guess):
            return optimal_fraction(t, guess) + theta

        denoiser = Perturbed(oracle, torch.zeros(COUNT, 1).double(), fraction)
        return objective(denoiser, x0, None, parts.Together(COUNT, seed=21)).per_example

    theta = torch.zeros(COUNT, 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(theta).sum(), theta)
    assert abs(float(gradient.mean())) < 4.5 * float(gradient.std()) / COUNT**0.5
    h = torch.full((COUNT, 1), 0.05, dtype=torch.float64)
    assert float((loss(h) + loss(-h) - 2 * loss(0 * h)).mean()) > 0
    # with the optimal fraction the bound is the bound of the optimal variance
    best = Bound(40, UniformSteps(40), Ancestral(variance="optimal"))
    denoiser = Perturbed(oracle, 0.0, optimal_fraction)
    a, b = (o(denoiser, x0, None, parts.Together(COUNT, seed=3)).per_example for o in (objective, best))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


class Channels(Denoiser):
    """eps and fraction as two parameters of the same shape as the data."""

    def __init__(self, eps, fraction):
        super().__init__()
        self.process, self.eps, self.fraction = CHAIN, eps, fraction

    def forward(self, xt, t, cond=None):
        c = self.process.at(t, xt)
        return Estimate((xt - c.sigma * self.eps) / c.alpha, fraction=self.fraction)


def test_hybrid_teaches_eps_by_the_simple_loss_alone():
    x0 = parts.normal(64, 3)
    eps = parts.normal(64, 3, seed=1).requires_grad_()
    fraction = torch.full((64, 3), 0.3, dtype=torch.float64, requires_grad=True)
    bound = Bound(40, UniformSteps(40), Ancestral(variance="learned"), Discretised())
    loss = Hybrid(bound, 0.001)(Channels(eps, fraction), x0, None, parts.Together(64, seed=2))
    hybrid = torch.autograd.grad(loss.per_example.sum(), (eps, fraction))
    rng = parts.Together(64, seed=2)
    t, _ = UniformSteps(40).sample(CHAIN, rng)
    xt = CHAIN.corrupt(x0, t, rng)
    true_eps = CHAIN.noise(xt, x0, t)
    torch.testing.assert_close(hybrid[0], 2 * (eps - true_eps).detach() / 3, rtol=1e-9, atol=1e-9)
    alone = bound(Channels(eps, fraction), x0, None, parts.Together(64, seed=2))
    bounds = torch.autograd.grad(alone.per_example.sum(), (eps, fraction))
    assert float(bounds[0].abs().min()) > 0  # the bound alone would move eps
    torch.testing.assert_close(hybrid[1], 0.001 * bounds[1], rtol=1e-9, atol=1e-12)
    simple = ((eps - true_eps) ** 2).mean(1)
    torch.testing.assert_close(loss.terms["simple"], simple.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss.per_example, simple + 0.001 * alone.per_example, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["eps", "v", "x0", "score", "velocity"])
def test_matching_is_the_mean_squared_error_of_the_kind(kind):
    process, x0 = parts.process("linear VP"), parts.normal(50, 4)
    guess = parts.normal(50, 4, seed=9)

    class Fixed(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = process

        def forward(self, xt, t, cond=None):
            return Estimate(guess)

    loss = Matching(kind, Uniform(0.05))(Fixed(), x0, None, parts.Together(50, seed=1))
    rng = parts.Together(50, seed=1)
    t = Uniform(0.05).draw(process, rng)
    eps = rng.normal(4)
    c = process.with_derivatives(t, x0)
    xt = c.alpha * x0 + c.sigma * eps

    def value(x0):
        e = (xt - c.alpha * x0) / c.sigma
        return {
            "x0": x0,
            "eps": e,
            "v": c.alpha * e - c.sigma * x0,
            "score": -e / c.sigma,
            "velocity": c.dalpha * x0 + c.dsigma * e,
        }[kind]

    torch.testing.assert_close(loss.per_example, ((value(guess) - value(x0)) ** 2).mean(1), rtol=1e-9, atol=1e-9)
    assert torch.equal(loss.t, t)


def test_dropped_conditions_reach_the_denoiser():
    seen = {}

    class Look(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = CHAIN

        def forward(self, xt, t, cond=None):
            seen.update(cond)
            return Estimate(xt, fraction=torch.full_like(xt, 0.5))

    cond = {"label": torch.full((COUNT,), 4)}
    x0 = torch.zeros(COUNT, 1, dtype=torch.float64)
    bound = Bound(40, UniformSteps(40), Ancestral(variance="learned"), drop=0.2)
    for objective in (Matching("eps", UniformSteps(40), drop=0.2), bound, Hybrid(bound)):
        objective(Look(), x0, cond, parts.Together(COUNT))
        assert set(seen["label"].tolist()) == {4, -1}
        rate = float((seen["label"] == -1).double().mean())
        assert abs(rate - 0.2) < 4 * (0.2 * 0.8 / COUNT) ** 0.5
    assert (cond["label"] == 4).all()


def test_flipped_mirrors_half():
    class Look(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = parts.process("EDM")

        def forward(self, xt, t, cond=None):
            return Estimate(torch.zeros_like(xt))

    x0 = torch.tensor([[1.0, 0.0]]).double().expand(COUNT, 2)

    class Left(Matching):
        def compare_at(self, denoiser, x0, xt, t, cond, importance):
            self.share = float(x0[:, 0].mean())
            return super().compare_at(denoiser, x0, xt, t, cond, importance)

    inner = Left("x0", Uniform(0.1))
    Flipped(inner)(Look(), x0, None, parts.Together(COUNT))
    assert abs(inner.share - 0.5) < 4 * 0.5 / COUNT**0.5


# Distributions of time


@pytest.mark.parametrize("name", parts.TIMES)
@pytest.mark.parametrize("schedule", ["linear betas", "EDM"])
def test_times_lie_in_the_process(name, schedule):
    process = parts.process(schedule)
    t, weight = parts.TIMES[name].sample(process, parts.Together(1000))
    assert t.shape == weight.shape == (1000,) and t.dtype == torch.float64
    assert float(t.min()) > 0 and (float(t.max()) <= 1 or name == "log-normal")
    assert float(weight.mean()) == pytest.approx(1, abs=0.05)


def test_each_example_draws_its_own_time():
    for times in (Uniform(), UniformSteps(1000), LogNormal(), LossSecondMoment(1000)):
        whole, _ = times.sample(parts.process("EDM"), Rng.for_step(5, 7, range(6)))
        part, _ = times.sample(parts.process("EDM"), Rng.for_step(5, 7, [4]))
        assert torch.equal(whole[4:5], part)


def test_uniform_times():
    t = Uniform(0.2).draw(None, parts.Together(COUNT))
    assert float(t.min()) >= 0.2
    assert float(t.mean()) == pytest.approx(0.6, abs=5 * 0.8 / 12**0.5 / COUNT**0.5)
    i = UniformSteps(10).draw(None, parts.Together(COUNT)) * 10
    counts = torch.bincount(i.round().long(), minlength=11)
    assert counts[0] == 0 and float((counts[1:] / COUNT - 0.1).abs().max()) < 5 * (0.09 / COUNT) ** 0.5


@pytest.mark.parametrize("n", [7, 64])
def test_stratified_times_cover(n):
    """One time in each of n equal parts of [0, 1], whoever holds the examples, and each time uniform."""
    rng = lambda places, step: Rng.for_step(1, step, places, total=n)  # noqa: E731
    whole = Stratified().draw(None, rng(range(n), 3))
    assert sorted((whole * n).floor().long().tolist()) == list(range(n))
    halves = torch.cat([Stratified().draw(None, rng(r, 3)) for r in (range(n // 2), range(n // 2, n))])
    assert torch.equal(whole, halves)
    first = torch.cat([Stratified().draw(None, rng([0], step)) for step in range(500)])
    assert float(first.mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / 500) ** 0.5)
    steps = Stratified(n).draw(None, rng(range(n), 3)) * n
    assert sorted(steps.round().long().tolist()) == list(range(1, n + 1))


@pytest.mark.parametrize("schedule", ["EDM", "linear VP", "VE", "rectified"])
def test_log_normal_moments(schedule):
    process = parts.process(schedule)
    t = LogNormal(-1.2, 1.2).draw(process, parts.Together(COUNT))
    log_ratio = -process.schedule.log_snr(t) / 2
    assert float(log_ratio.mean()) == pytest.approx(-1.2, abs=5 * 1.2 / COUNT**0.5)
    assert float(log_ratio.std()) == pytest.approx(1.2, abs=5 * 1.2 / (2 * COUNT) ** 0.5)
    skew = ((log_ratio - log_ratio.mean()) / log_ratio.std()).pow(3).mean()
    assert abs(float(skew)) < 5 * (6 / COUNT) ** 0.5


def test_loss_second_moment_is_unbiased():
    times = LossSecondMoment(20, history=10)
    even = torch.full((20,), 1 / 20, dtype=torch.float64)
    steps = torch.arange(1, 21).double() / 20
    size = torch.linspace(5, 0.1, 20, dtype=torch.float64)
    for i in range(12):  # two more than the history holds: the first two must be forgotten
        assert torch.equal(times.probabilities, even) == (i < 10)
        times.observe(steps, size * (100 if i < 2 else 1 + 0.1 * (-1) ** i))
    p = times.probabilities
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    rms = size * (1.01) ** 0.5
    torch.testing.assert_close(p, 0.999 * rms / rms.sum() + 0.001 / 20, rtol=1e-10, atol=1e-12)
    t, weight = times.sample(None, parts.Together(COUNT))
    i = (t * 20).round().long()
    counts = torch.bincount(i, minlength=21)[1:] / COUNT
    assert float(((counts - p) / (p * (1 - p) / COUNT).sqrt()).abs().max()) < 5
    assert float((weight * 20 * p[i - 1] - 1).abs().max()) < 1e-12
    loss = torch.sin(steps * 3) + 1
    estimate = weight * loss[i - 1]
    assert abs(float(estimate.mean() - loss.mean())) < 5 * float(estimate.std()) / COUNT**0.5
    exact = (p * loss / (20 * p)).sum()
    assert float(exact) == pytest.approx(float(loss.mean()), rel=1e-12)


def test_objectives_tell_adaptive_times_the_unweighted_loss():
    times = LossSecondMoment(40, history=1)
    bound = Bound(40, times, Ancestral())
    oracle = parts.smooth_mixture().denoiser(CHAIN)
    x0 = parts.smooth_mixture().sample(parts.Together(2000))
    for seed in (1, 2):
        loss = bound(oracle, x0, None, parts.Together(2000, seed=seed))
        bound.observe(loss)
    assert int(times.counts.sum()) == 4000
    _, weight = times.sample(CHAIN, parts.Together(5))
    assert float((weight - 1).abs().max()) > 0.01  # it has learned; and the losses seen carry no weights
    weighted = loss.per_example / loss.unweighted
    assert torch.isfinite(weighted).all()


def test_parameters_of_an_objective_are_the_denoisers_and_its_own():
    net = nn.Linear(2, 2)
    denoiser = NetworkDenoiser(net, CHAIN, parts.P.Raw("eps"))
    objective = Matching("eps", Uniform())
    assert set(objective.parameters_of(denoiser, "denoiser")) == set(net.parameters())
    assert objective.turns == ("denoiser",)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Matching("eps", Uniform(), "snr5"), "weighting"),
        (lambda: Matching("eps", Uniform(), drop=1.5), "probability"),
        (lambda: Bound(40, UniformSteps(40), Ancestral(eta=0.0)), "deterministic"),
        (
            lambda: examine(Matching("F", Uniform()), lambda theta: gaussian_oracle().denoiser(CHAIN)),
            "no network output",
        ),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()


def test_log_normal_of_edm_is_the_log_snr_of_the_paper():
    """P_mean -1.2, P_std 1.2 is a log-SNR of mean 2.4 and deviation 2.4."""
    process = parts.process("EDM")
    log_snr = process.schedule.log_snr(LogNormal().draw(process, parts.Together(COUNT)))
    assert float(log_snr.mean()) == pytest.approx(2.4, abs=5 * 2.4 / math.sqrt(COUNT))
