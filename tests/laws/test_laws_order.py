"""Law 5: the measured order of convergence is the declared one. Law 6: there and back.

Walks start and end away from clean data, where every path is smooth.
"""

from itertools import pairwise

import laws_parts as parts
import pytest
import torch

from unnoise.oracles import gaussian
from unnoise.processes.gaussian import CLEAN
from unnoise.samplers import Ancestral, Churn, Euler, Heun, Integers, sample

SPANS = {  # where the path of the mixture bends, in each schedule's own time
    "linear betas": (0.9, 0.1),
    "cosine betas": (0.9, 0.1),
    "linear VP": (0.9, 0.1),
    "cosine": (0.9, 0.15),
    "VE": (0.75, 0.4),
    "EDM": (0.04, 0.004),
    "rectified": (0.9, 0.1),
}
DETERMINISTIC = {name: step for name, step in parts.STEPS.items() if step.order is not None}
WEAK = {name: step for name, step in parts.STEPS.items() if step.order is None}


def walk(steps, top, low):
    """Even steps in t between two points."""
    return lambda process: process.points([top + (low - top) * i / steps for i in range(steps + 1)])


def reference(mixture, process, x, top, low, steps):
    """The probability flow dx/dt = f x - g^2/2 score by the classical fourth-order method, from the exact score."""
    denoiser = mixture.denoiser(process)

    def flow(x, t):
        t = torch.full((len(x),), t, dtype=torch.float64)
        c = process.with_derivatives(t, x)
        f = c.dalpha / c.alpha
        return f * x - c.sigma * (c.dsigma - f * c.sigma) * denoiser.score(x, t)

    h = (low - top) / steps
    for i in range(steps):
        t = top + i * h
        k1 = flow(x, t)
        k2 = flow(x + h / 2 * k1, t + h / 2)
        k3 = flow(x + h / 2 * k2, t + h / 2)
        k4 = flow(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.fixture(scope="module", params=list(SPANS))
def flow(request):
    """A process, states of the mixture at its top, and where the exact flow takes them."""
    process, mixture = parts.process(request.param), parts.smooth_mixture()
    top, low = SPANS[request.param]
    rng = parts.Together(32, seed=2)
    x = process.corrupt(mixture.sample(rng), process.point(top), rng)
    steps = 400 if "betas" in request.param else 200  # whole steps of the chain: it is a cubic between its integers
    return process, mixture, x, reference(mixture, process, x, top, low, steps), (top, low)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_order(flow, name):
    process, mixture, x, truth, span = flow
    step, counts, errors = DETERMINISTIC[name], (20, 40, 80, 160), []
    for steps in counts:
        out = sample(mixture.denoiser(process), step, walk(steps, *span), x.shape, start=x, dtype=torch.float64)
        errors.append(float((out - truth).square().mean().sqrt()))
    assert parts.slope(errors, counts) == pytest.approx(step.order, abs=0.15), errors
