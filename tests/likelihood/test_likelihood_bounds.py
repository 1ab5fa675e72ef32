"""Bounds in continuous time, of chains, and of dequantised data, against closed forms."""

import math

import likelihood_toys as toys
import pytest
import torch
from torch import nn

from unnoise.errors import UsageProblem
from unnoise.laws import Normal
from unnoise.likelihood import (
    METHODS,
    Chain,
    Continuous,
    Flow,
    ImportanceWeighted,
    Softmax,
    Uniform,
    Variational,
    bin_width,
    continuous_bound,
    diffusion_nats,
    importance_weighted_bound,
    likelihood,
    variational_bound,
)
from unnoise.likelihood.clock import Clock
from unnoise.likelihood.continuous import prior_nats
from unnoise.oracles import Mixture, gaussian
from unnoise.processes import DCT, Gaussian, Process
from unnoise.rng import Rng
from unnoise.samplers import Ancestral, Integers
from unnoise.schedules import VE, Cosine, FromBetas, Learned, linear_betas

STD = 0.5
X0 = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64) * STD
LN2PI = math.log(2 * math.pi)


def oracle(schedule):
    return gaussian(torch.zeros(1).double(), STD**2).denoiser(Gaussian(schedule))


# In continuous time


VDM_ENDS = {"learned": Learned(-5.0, 13.3, units=16).requires_grad_(False), "cosine": Cosine(-5.0, 13.3)}


@pytest.mark.parametrize("name, even_in", [("learned", "log-snr"), ("learned", "time"), ("cosine", "log-snr")])
def test_the_bound_of_gaussian_data_depends_on_the_ends_alone(name, even_in):
    """log-SNR from 13.3 to -5, variance 1/4: 5.956015 nats of diffusion, 0.725798 in all: h(x) + KL(q(z_1) || N(0, 1))."""
    draws = 600
    bound = continuous_bound(
        oracle(VDM_ENDS[name]), X0, toys.FourPoints(draws), draws=draws, even_in=even_in, start=1e-12
    )
    assert float(bound.diffusion.mean().detach()) == pytest.approx(5.956015, abs=2e-5)
    assert float(bound.total.mean().detach()) == pytest.approx(0.725798, abs=2e-5)
    torch.testing.assert_close(bound.prior + bound.diffusion + bound.reconstruction, bound.total)


@pytest.mark.parametrize("name", toys.SCHEDULES)
def test_the_bound_is_tight_for_gaussian_data_in_every_process(name):
    """h(x) and the distance of the prior; where the denoiser knows its variance nothing else is lost."""
    denoiser = oracle(toys.SCHEDULES[name])
    bound = continuous_bound(denoiser, X0, toys.FourPoints(600), draws=600)
    entropy = 0.5 * (LN2PI + 1 + math.log(STD**2))
    process = denoiser.process
    top = process.point(1.0)
    v, prior = top.alpha**2 * STD**2 + top.sigma**2, process.prior((1, 1), top).std ** 2
    gap = 0.5 * (v / prior - 1 - math.log(v / prior))
    assert float(bound.total.mean()) == pytest.approx(entropy + gap, abs=1e-4)


def test_gradients_move_the_ends_and_not_the_interior():
    """By -lambda' E|eps - eps*|^2 / 2 the integral has slope 1/2 c^2 e^l / (1 + c^2 e^l) in its upper end, none in between."""
    schedule = Learned(-3.0, 6.0, units=8)
    with torch.no_grad():
        schedule.height.mul_(40.0)  # far from a straight line
    denoiser, draws = oracle(schedule), 200
    ticking = Clock(denoiser.process, 0.0, 1.0)
    eps = toys.FourPoints().normal(1)
    total = sum(
        diffusion_nats(denoiser, X0, torch.full((4,), (i + 0.5) / draws).double(), ticking, eps).mean()
        for i in range(draws)
    )
    (total / draws).backward()
    error = lambda l: STD**2 * math.exp(l) / (1 + STD**2 * math.exp(l))  # noqa: E731
    low, width = -3.0, 9.0
    assert float(schedule.log_snr_max.grad) == pytest.approx(0.5 * (error(6.0) - error(low)), abs=1e-4)
    assert float(schedule.log_range.grad) == pytest.approx(
        0.5 * error(low) * width, abs=1e-4
    )  # d low / d log width = -width
    for p in schedule.interior:
        assert float(p.grad.abs().max()) < 1e-4
    schedule.zero_grad()
    prior_nats(denoiser.process, X0, 1.0).sum().backward()
    assert float(schedule.log_range.grad.abs()) > 0


def test_estimates_are_unbiased():
    denoiser, n = oracle(VDM_ENDS["cosine"]), 400
    x0 = STD * toys.normal(n, 1)
    for even_in in ("log-snr", "time"):
        found = continuous_bound(denoiser, x0, Rng.from_seeds(range(n)), draws=8, even_in=even_in).diffusion
        assert abs(float(found.mean()) - 5.956015) < 4.5 * float(found.std()) / n**0.5


def test_grey_levels_cost_their_entropy():
    """Four levels of known odds and their exact denoiser: the bound tends to the entropy."""
    odds = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    levels = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    denoiser = Mixture(levels, 0.0, odds).denoiser(Gaussian(Cosine(-14.0, 14.0)))
    each = 60
    x0, weight = levels.repeat_interleave(each, 0), odds.repeat_interleave(each) / each
    result = likelihood(denoiser, x0, Continuous(draws=200), levels=4)
    entropy = -float((odds * odds.log()).sum())
    by_level = result.nats.reshape(4, each)
    error = float((odds**2 * by_level.var(1) / each).sum().sqrt())
    assert abs(float((weight * result.nats).sum()) - entropy) < 4.5 * error
    assert error < 0.04
    assert set(result.parts) == {"prior", "diffusion", "reconstruction"}


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mean, std", [(0.1, 0.02), (0.99, 0.3), (0.0, 5.0)])
def test_softmax_over_levels(levels, mean, std):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    log_prob = Softmax(levels).log_prob(Normal(torch.full_like(x, mean), std), x)
    assert float(torch.logsumexp(log_prob, 0)) == pytest.approx(0, abs=1e-10)
    expected = -0.5 * ((x[:, 0] - mean) / std) ** 2
    torch.testing.assert_close(log_prob, expected - torch.logsumexp(expected, 0), rtol=1e-8, atol=1e-8)


# Of chains


def chain_marginal(denoiser, reverse, points):
    """Mean 0 and variance of what an affine chain gives to x_0, from its own prior: exactly."""
    process = denoiser.process
    variance = process.prior((1, 1), points[0]).std ** 2
    for i, (t, s) in enumerate(zip(points[:-1], points[1:], strict=True)):
        x = torch.tensor([[1.0]], dtype=torch.float64)
        law = reverse.law(
            process, denoiser(x, torch.tensor([t.t]).double()), x, t, s, before=points[i - 1] if i else None
        )
        variance = float(law.mean) ** 2 * variance + float(law.std) ** 2
    return variance


@pytest.mark.parametrize("reverse", [Ancestral(variance="large"), Ancestral(mix=0.8)])
def test_importance_weights_tend_to_the_likelihood_of_the_chain(reverse):
    denoiser = oracle(FromBetas(linear_betas(1000)))
    points = Integers(4)(denoiser.process)
    v = chain_marginal(denoiser, reverse, points)
    n = 200
    x0 = torch.full((n, 1), 0.4, dtype=torch.float64)
    truth = 0.5 * (0.16 / v + math.log(v) + LN2PI)
    bounds = [
        importance_weighted_bound(denoiser, reverse, points, x0, Rng.from_seeds(range(n)), samples=k)
        for k in (1, 8, 60)
    ]
    means, errors = [float(b.mean()) for b in bounds], [float(b.std()) / n**0.5 for b in bounds]
    assert means[0] > means[2] - 4 * errors[0] and means[1] > means[2] - 4 * errors[1]
    assert means[2] == pytest.approx(truth, abs=4.5 * errors[2] + 0.02) and means[2] > truth - 4.5 * errors[2]
    ordinary = variational_bound(denoiser, reverse, points, x0, Rng.from_seeds(range(n, 2 * n)))
    nats = ordinary.total * math.log(2)
    assert abs(means[0] - float(nats.mean())) < 4.5 * (errors[0] ** 2 + float(nats.var()) / n) ** 0.5


def test_weights_of_the_exact_chain_are_constant():
    """With the optimal variance q is the chain's own posterior: one trajectory gives the likelihood."""
    denoiser, reverse = oracle(FromBetas(linear_betas(1000))), Ancestral(variance="optimal")
    x0 = STD * toys.normal(6, 1)
    points = Integers(10)(denoiser.process)
    nats = importance_weighted_bound(denoiser, reverse, points, x0, Rng.from_seeds(range(6)), samples=1)
    v = chain_marginal(denoiser, reverse, points)
    torch.testing.assert_close(
        nats, (0.5 * (x0**2 / v + math.log(v) + LN2PI))[:, 0], rtol=0, atol=2e-3
    )  # the prior's end


def test_chains_by_their_names():
    denoiser = toys.mixture().denoiser(toys.process("linear betas"))
    x = toys.mixture().sample(Rng.from_seeds(range(3)))
    ours = likelihood(denoiser, x, Chain(steps=50))
    direct = variational_bound(denoiser, Ancestral(), Integers(50)(denoiser.process), x, Rng.from_seeds(range(3)))
    torch.testing.assert_close(ours.bits, direct.total)
    torch.testing.assert_close(sum(ours.parts.values()), ours.bits)
    assert ours.evaluations.tolist() == [50] * 3
    continuous = toys.mixture().denoiser(toys.process("cosine"))
    optimal = Ancestral(variance="optimal")
    tight = likelihood(continuous, x, ImportanceWeighted(steps=60, reverse=optimal, samples=4))
    flow = likelihood(continuous, x)
    assert float((tight.nats - flow.nats).abs().max()) < 0.3  # a chain of 60 steps is not quite the flow
    assert tight.evaluations.tolist() == [240] * 3
    assert set(METHODS) == {"flow", "continuous", "bound", "importance", "order-agnostic"}


@pytest.mark.parametrize("method", ["flow", "continuous", "bound", "importance"])
def test_example_i_depends_on_seed_i_alone(method):
    denoiser = toys.mixture().denoiser(toys.process("linear betas"))
    x = torch.linspace(-1, 1, 17).double()[torch.tensor([[3, 9], [12, 5], [8, 8]])]
    how = {"bound": Chain(20), "importance": ImportanceWeighted(10, samples=2)}.get(method, method)
    whole = likelihood(denoiser, x, how, rng=Rng.from_seeds([5, 6, 7]), levels=17)
    assert bool(torch.isfinite(whole.bits).all()) and whole.bits.shape == (3,)
    for i, seed in enumerate((5, 6, 7)):
        alone = likelihood(denoiser, x[i : i + 1], how, rng=Rng.from_seeds([seed]), levels=17)
        torch.testing.assert_close(alone.nats, whole.nats[i : i + 1], rtol=1e-9, atol=1e-9)


# Of dequantised data


def test_the_offset_is_that_of_the_datas_quantisation():
    """bits/dim = -log2 p / D + log2((K - 1) / 2): 6.994 for 256 levels in [-1, 1], 3 for 17, -1 for 2."""
    denoiser = gaussian(torch.zeros(2).double(), 0.25).denoiser(toys.process("cosine"))
    x = torch.zeros(3, 2, dtype=torch.float64)
    for levels, offset in ((256, 6.9944), (17, 3.0), (2, -1.0)):
        result = likelihood(denoiser, x, Flow(solver="rk4", steps=20), levels=levels)
        torch.testing.assert_close(result.parts["dequantisation"], torch.full((3,), offset).double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(result.parts["density"] + result.parts["dequantisation"], result.bits)


def masses(levels, mean, std):
    """The mass of N(mean, std^2) in the bin of each level."""
    centre = torch.linspace(-1, 1, levels, dtype=torch.float64)
    half = bin_width(levels) / 2
    ndtr = torch.special.ndtr
    return ndtr((centre + half - mean) / std) - ndtr((centre - half - mean) / std)


def test_many_draws_give_the_mass_of_the_bin():
    """One draw bounds -log of the mass; the mean of many densities is the mass itself."""
    levels, mean, std, n = 5, 0.1, 0.3, 300
    denoiser = gaussian(torch.tensor([mean]).double(), std**2).denoiser(toys.process("cosine"))
    for k in (1, 2):
        x = torch.full((n, 1), -1 + k * bin_width(levels), dtype=torch.float64)
        truth = -math.log(float(masses(levels, mean, std)[k]))
        one = likelihood(denoiser, x, Flow(solver="rk4", steps=15), levels=levels).nats
        many = likelihood(denoiser, x, Flow(solver="rk4", steps=15, draws=6), levels=levels).nats
        assert float(one.mean()) > float(many.mean()) > truth - 4.5 * float(many.std()) / n**0.5
        assert float(torch.exp(-one).mean()) == pytest.approx(
            math.exp(-truth), abs=4.5 * float(torch.exp(-one).std()) / n**0.5
        )


class Table(nn.Module):
    """Mean and log deviation for each level, as twice the channels."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.table = levels, nn.Parameter(torch.tensor([[0.0, 0.0]] * levels, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        k = ((x + 1) / bin_width(self.levels)).round().long()
        return self.table[k[:, 0]]


def test_variational_dequantisation_is_a_density_and_tightens_the_bound():
    """Wide bins of a narrow Gaussian: trained by its own bound, it comes nearer the true bits than uniform noise."""
    levels, mean, std, n = 5, 0.1, 0.2, 500
    mass = masses(levels, mean, std)
    k = torch.tensor([1, 2, 3]).repeat_interleave(n)
    x = (-1 + k.double() * bin_width(levels))[:, None]
    weight = mass[k] / n
    dequantiser = Variational(Table(levels))

    def bound(part, seed):
        y, log_q = part(x, levels, Rng.from_seeds(range(seed, seed + len(x))))
        assert float((y - x).abs().max()) <= bin_width(levels) / 2
        return (weight * (log_q - Normal(torch.full_like(y, mean), std).log_prob(y))).sum(), y, log_q

    optimiser = torch.optim.Adam(dequantiser.parameters(), lr=0.1)
    for step in range(60):
        optimiser.zero_grad()
        bound(dequantiser, 10_000 * step)[0].backward()
        optimiser.step()
    with torch.no_grad():
        variational, _, log_q = bound(dequantiser, 10**6)
        uniform = bound(Uniform(), 10**6)[0]
    exact = -float((mass[1:4] * mass[1:4].log()).sum())
    assert exact - 0.01 < float(variational) < float(uniform) - 0.5 * (float(uniform) - exact)
    inverse = torch.exp(-log_q).reshape(3, n)  # of expectation the width of the bin, if q is a density on it
    assert float(((inverse.mean(1) - bin_width(levels)) / (inverse.std(1) / n**0.5)).abs().max()) < 4.5
    denoiser = gaussian(torch.tensor([mean]).double(), std**2).denoiser(toys.process("cosine"))
    how = Flow(dequantiser=dequantiser)
    through = likelihood(denoiser, x[::25], how, rng=Rng.from_seeds(range(0, 60)), levels=levels)
    y, log_q = dequantiser(x[::25], levels, Rng.from_seeds(range(0, 60)))
    expected = log_q - Normal(torch.full_like(y, mean), std).log_prob(y)
    torch.testing.assert_close(through.nats, expected.detach(), rtol=0, atol=2e-3)


class Cold(Process):
    pass


@pytest.mark.parametrize(
    "run, words",
    [
        (lambda d: likelihood(d, X0, Continuous(draws=0)), "draws"),
        (lambda d: likelihood(d, X0, Continuous(even_in="sigma")), "even in"),
        (lambda d: likelihood(d, X0, Flow(draws=0), levels=256), "draws is 0"),
        (lambda d: likelihood(d, X0, "flow", levels=1), "levels is 1"),
        (lambda d: likelihood(d, X0, ImportanceWeighted(5, samples=0)), "samples is 0"),
        (lambda d: likelihood(d, X0, Chain(5, Ancestral(eta=0.0))), "deterministic"),
        (lambda d: likelihood(d, X0, ImportanceWeighted(5, Ancestral(eta=0.0))), "deterministic"),
        (
            lambda d: likelihood(
                gaussian(torch.zeros(1, 4, 4), 1.0).denoiser(Gaussian(VE(), DCT())),
                torch.zeros(1, 1, 4, 4),
                "continuous",
                levels=8,
            ),
            "basis",
        ),
    ],
)
def test_mistakes(run, words):
    with pytest.raises(UsageProblem, match=words):
        run(oracle(FromBetas(linear_betas(1000))))


def test_processes_without_a_bound_say_so():
    denoiser = oracle(VE())
    denoiser.process = Cold()
    with pytest.raises(UsageProblem, match="Cold process has no bound in continuous time"):
        likelihood(denoiser, X0, "continuous")
