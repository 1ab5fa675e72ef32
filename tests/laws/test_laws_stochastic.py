"""Law 5 for steps that draw noise, where the drift bends: their order along one Brownian path, and their order in law.

Both without chance: along the path the truth is a fine walk of another solver on the same path; in law the expectations are
carried back from the last step to the first by quadrature over every draw, and the truth is the mixture's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, product

import laws_parts as parts
import numpy as np
import pytest
import torch
from probes import moments, slope

from unnoise.denoisers.denoiser import Denoiser
from unnoise.laws import Estimate
from unnoise.oracles import Mixture
from unnoise.rng import Rng
from unnoise.samplers import (
    DDIM,
    SEEDS,
    Adams,
    Ancestral,
    Churn,
    Denoise,
    EulerMaruyama,
    ReverseDiffusion,
    SDEDPMSolverMultistep,
    SingleStep,
    sample,
)
from unnoise.samplers.multistep import History

# Along one path


class TwoPoints(Denoiser):
    """The exact denoiser of x_0 = -1 or 1, which touches each number alone, with all it can know beside the mean."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, xt, t, cond=None):
        point = self.process.at(t, xt)
        mean = torch.tanh(xt * point.alpha / point.sigma**2)
        return Estimate(mean, variance=1 - mean**2, fraction=mean**2)


STATES = torch.linspace(-6, 6, 400, dtype=torch.float64)[None]
SPAN = (-1.5, 0.0)  # of log(alpha/sigma): steps of whole pieces of the tree, before the paths part at 0


def even(process, steps):
    """Even steps in log(alpha/sigma) over the span."""
    top, low = SPAN
    half_log_snr = torch.linspace(top, low, steps + 1, dtype=torch.float64)
    return process.points(process.schedule.time(2 * half_log_snr))


def end(process, step, steps, seed=0):
    """Where a walk along the path of `seed` ends, over alpha: the same on every process."""
    points, rng = even(process, steps), Rng.from_seeds([seed])
    start = points[0].alpha * STATES
    out = sample(TwoPoints(process), step, lambda _: points, start.shape, start=start, rng=rng, dtype=torch.float64)
    return out / points[-1].alpha


@lru_cache
def path(variable, eta):
    """The walk of many steps, of a solver whose drift is of the second order."""
    return end(parts.process("EDM"), SEEDS(2, variable, eta=eta, brownian=True), 1024)


def strength(step):
    """eta of the reverse SDE that a step discretises."""
    if isinstance(step, (EulerMaruyama, ReverseDiffusion)):
        return step.noise**2
    return step.eta if isinstance(step, (Adams, SingleStep)) else step.eta**2


STRONG = {name: step for name, step in parts.STEPS.items() if step.strong_order is not None} | {
    "ddim, eta 0.3": DDIM(eta=0.3),
    "half euler-maruyama": EulerMaruyama(0.5),
    "reverse diffusion, more": ReverseDiffusion(1.5),
}


@pytest.mark.parametrize("name", STRONG)
def test_strong_order(name):
    step, counts = replace(STRONG[name], brownian=True), (16, 32, 64, 128)
    variable = getattr(step, "variable", "x0")
    truth = path(variable, strength(step))
    for process in (parts.process("EDM"), parts.process("cosine")):
        errors = [float((end(process, step, n) - truth).square().mean().sqrt()) for n in counts]
        assert slope(errors, counts) == pytest.approx(step.strong_order, abs=0.2), errors
    elsewhere = float((end(process, step, counts[-1], seed=1) - truth).square().mean().sqrt())
    assert elsewhere > 10 * errors[-1]


def test_the_ancestral_step_is_the_exponential_one_path_and_all():
    process, seeds = parts.process("cosine"), SEEDS(1, brownian=True)
    ours, theirs = (end(process, step, 24) for step in (Ancestral(brownian=True), seeds))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("step", [Ancestral(), DDIM(eta=0.5), EulerMaruyama(), ReverseDiffusion()], ids=str)
def test_finer_grids_agree_along_one_path_alone(step):
    """Of n and 2 n steps: each doubling halves the distance with one path; with fresh draws they stay apart."""
    process, apart = parts.process("linear VP"), {}
    for brownian in (True, False):
        ends = [end(process, replace(step, brownian=brownian), n) for n in (16, 32, 64, 128)]
        apart[brownian] = [float((b - a).square().mean().sqrt()) for a, b in pairwise(ends)]
    assert [a / b for a, b in pairwise(apart[True])] == pytest.approx([2, 2], abs=0.35), apart
    assert min(apart[False]) > 5 * max(apart[True]), apart


# In law

DATA = Mixture(torch.tensor([[-0.9], [0.7]]), torch.tensor([0.1, 0.06]), torch.tensor([0.4, 0.6]))
FUNCTIONS = (lambda x: x, lambda x: x**2, lambda x: torch.cos(2.5 * x))
STATES_OF_LAW = torch.linspace(-6, 6, 121, dtype=torch.float64)  # the marginals have 1e-9 beyond
GUESSES = 1.6 * torch.cos(torch.pi * (torch.arange(5, dtype=torch.float64) + 0.5) / 5)  # that a step may remember


class Knowing(Denoiser):
    """The mixture's own denoiser, with a fraction of the variances beside."""

    def __init__(self, process):
        super().__init__()
        self.process, self.exact = process, DATA.denoiser(process)

    def forward(self, xt, t, cond=None):
        return replace(self.exact(xt, t), fraction=torch.sigmoid(2 * xt))


class Given(Rng):
    """The draws it is given, one after the other."""

    def __init__(self, draws):
        super().__init__([])
        self.draws = list(draws)

    def normal(self, *event, dtype=torch.float64):
        return self.draws.pop(0).to(dtype)


def lagrange(nodes, x):
    """Lagrange's polynomials of nodes (k,) at x (n,): (n, k)."""
    ratio = (x[:, None, None] - nodes) / (nodes[:, None] - nodes)
    return ratio.masked_fill(torch.eye(len(nodes), dtype=torch.bool), 1.0).prod(-1)


def quadrature(step):
    """Nodes (points, draws) and weights (points,) of all that one step draws."""
    draws = getattr(step, "stages", 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss((8, 8, 5)[draws - 1])
    if getattr(step, "noise", None) == "rademacher":
        nodes, weights = np.array([-1.0, 1.0]), np.ones(2)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    index = torch.tensor(list(product(range(len(nodes)), repeat=draws)))
    return nodes[index], weights[index].prod(-1)


def carried_back(denoiser, step, points):
    """E[f(x_end) | x_start] on the states, for each function: u(x, past) = E u'(x', (guess, *past)), from the end to the start.

    Between states u is a polynomial of degree 5, between the guesses that a multistep method remembers of degree 4.
    """
    states, memory = STATES_OF_LAW, getattr(step, "terms", 1) - 1
    z, weights = quadrature(step)
    table = [len(GUESSES)] * memory
    shape = (len(states), *table, len(z))
    now, *past, drawn = torch.cartesian_prod(*map(torch.arange, shape)).T
    x, edge, width = states[now, None], float(states[-1]), float(states[1] - states[0])
    u = torch.stack([f(states) for f in FUNCTIONS], -1)
    u = u.view(-1, *[1] * memory, len(FUNCTIONS)).expand(-1, *table, -1)
    denoise = Denoise(denoiser, len(x), None, x.device)
    begun = step.init(denoise, x, points)
    for i in reversed(range(len(points) - 1)):
        t, s, state = points[i], points[i + 1], begun
        if isinstance(begun, History):
            values = [(points[i - 1 - j], GUESSES[past[j], None]) for j in range(min(i, memory))]
            state = History(len(points) - 1 - i, begun.noise, values)
        y = step.step(denoise, x, t, s, state, Given(z[drawn].T[..., None]))[0][:, 0].clamp(-edge, edge)
        place = (y + edge) / width
        first = (place.floor().long() - 2).clamp(0, len(states) - 6)
        near = first[:, None] + torch.arange(6)
        if memory:  # the guess at x is the newest of the next step's past
            guess = denoiser(states[:, None], t.over(states)).mean[:, 0]
            u = torch.einsum("xg,yg...->xy...", lagrange(GUESSES, guess), u)
            at = (now, *past[: memory - 1])
            found = u[(at[0][:, None], near, *(p[:, None] for p in at[1:]))]
        else:
            found = u[near]
        found = torch.einsum("rk,rkf->rf", lagrange(torch.arange(6, dtype=torch.float64), place - first), found)
        u = torch.einsum("...zf,z->...f", found.view(*shape, -1), weights)
    return u[(slice(None), *[0] * memory)]  # at the start nothing is remembered


def expectations(values, point):
    """Of functions tabled on the states, under the mixture's marginal: spectrally accurate."""
    means, variances = point.alpha * DATA.means[:, 0], point.alpha**2 * DATA.variances[:, 0] + point.sigma**2
    x = STATES_OF_LAW[:, None]
    density = (DATA.log_weights - (x - means) ** 2 / (2 * variances) - variances.log() / 2).exp().sum(-1)
    return (values * density[:, None]).sum(0) / density.sum()


def error_in_law(step, process, steps):
    """Of the functions' expectations after a walk that starts in the exact marginal."""
    points = process.points(torch.linspace(0.85, 0.3, steps + 1, dtype=torch.float64))
    found = expectations(carried_back(Knowing(process), step, points), points[0])
    truth = expectations(torch.stack([f(STATES_OF_LAW) for f in FUNCTIONS], -1), points[-1])
    return float((found - truth).norm())


def of_one_limit(step):
    """With fresh draws, and churn's noise a rate that the steps share."""
    if isinstance(step, Churn):
        return replace(step, s_churn=3, s_min=0, s_max=1e9)
    return replace(step, brownian=False) if getattr(step, "brownian", False) else step


WEAK = {name: of_one_limit(step) for name, step in parts.STEPS.items() if step.weak_order is not None}


@pytest.mark.parametrize("name", WEAK)
def test_weak_order_of_a_drift_that_bends(name):
    step, counts, order = WEAK[name], (30, 60, 120), WEAK[name].weak_order
    if getattr(step, "terms", 1) == 3:  # while steps are large its order is that of its drift; see below
        counts = (15, 30, 60)
    elif getattr(step, "noise", None) == "rademacher":  # its errors of order 1 and 2 are of one size at 30 steps
        counts = (160, 320, 640)
    elif getattr(step, "variance", None) == "optimal":  # of one number; see below
        order = 2
    errors = [error_in_law(step, parts.process("cosine"), n) for n in counts]
    if getattr(step, "terms", 1) == 3:
        assert order - 0.2 < slope(errors, counts) < 3.2, errors
    else:
        assert slope(errors, counts) == pytest.approx(order, abs=0.2), errors


@pytest.mark.parametrize("step", [SDEDPMSolverMultistep(3, eta=eta) for eta in (0.5, 1.0)], ids=str)
def test_three_terms_are_of_weak_order_two_in_the_end(step):
    """Their error of order 2 is so small that it shows in fine walks alone. On Gaussian data, exactly."""
    process, counts, errors = parts.process("cosine"), (640, 1280, 2560), []
    for steps in counts:
        points = process.points(torch.linspace(0.85, 0.3, steps + 1, dtype=torch.float64))
        a, b = points[0], points[-1]
        _, v = moments(parts.scalar_gaussian(process), step, points, 0.0, 0.25 * a.alpha**2 + a.sigma**2)
        errors.append(abs(v - 0.25 * b.alpha**2 - b.sigma**2))
    assert slope(errors, counts) == pytest.approx(step.weak_order, abs=0.15), errors


class Correlated(Denoiser):
    """The exact denoiser of two correlated normal numbers; it tells the variance of each."""

    covariance = torch.tensor([[0.25, 0.2], [0.2, 0.25]], dtype=torch.float64)

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, xt, t, cond=None):
        point = self.process.at(t[:1], xt)
        snr = float(point.alpha / point.sigma) ** 2
        left = torch.linalg.inv(torch.linalg.inv(self.covariance) + snr * torch.eye(2, dtype=torch.float64))
        return Estimate(xt @ left * snr / float(point.alpha), variance=left.diagonal().expand_as(xt))


def test_the_optimal_variance_is_of_weak_order_one_where_numbers_are_correlated():
    """It is a number for each number: exact, and of order 2, for one alone, while the covariances are left out."""
    process, step, counts, errors = parts.process("cosine"), Ancestral(variance="optimal"), (40, 80, 160), []
    denoiser, unit = Correlated(process), torch.eye(2, dtype=torch.float64)
    marginal = lambda p: p.alpha**2 * denoiser.covariance + p.sigma**2 * unit  # noqa: E731
    for steps in counts:
        points = process.points(torch.linspace(0.85, 0.3, steps + 1, dtype=torch.float64))
        law = marginal(points[0])
        for t, s in pairwise(points):
            move = step.law(process, denoiser(unit, t.over(unit)), unit, t, s)
            law = move.mean.T @ law @ move.mean + (move.std[0] ** 2).diag()
        errors.append(float((law - marginal(points[-1])).norm()))
    assert slope(errors, counts) == pytest.approx(step.weak_order, abs=0.1), errors
