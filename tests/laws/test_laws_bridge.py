"""The laws of samplers, on bridges whose guesses are exact: which laws they reach, in which pairs, and how fast they converge."""

import math

import laws_parts as parts
import pytest
import torch

from unnoise.oracles import independent, schroedinger
from unnoise.processes import Bridge, Gaussian
from unnoise.rng import Rng
from unnoise.samplers import (
    RK45,
    Ancestral,
    BridgeFlow,
    DPMSolverMultistep,
    Euler,
    EulerMaruyama,
    Heun,
    Uniform,
    sample,
)
from unnoise.schedules import Brownian, LinearVP

PROCESSES = {"brownian": Bridge(Gaussian(Brownian(1.0))), "ou": Bridge(Gaussian(LinearVP(1.0, 1.0)))}
DATA, OTHER = 0.3, -0.4  # the means of the ends


def exact(process: Bridge):
    return schroedinger(*torch.tensor([[DATA], [OTHER]], dtype=torch.float64), 0.5, 1.2, process)


class Still(Rng):
    """No noise at all: what is left of a step is its mean."""

    def _fill(self, draw, event, dtype):
        return torch.zeros(len(self), *event, dtype=dtype)


def pairs_of(process, step, points) -> torch.Tensor:
    """Mean, variance and covariance with its start of what a walk reaches, computed: each step is linear, and its noise is as it
    says."""
    denoiser = exact(process).denoiser(process)
    mean, variance, covariance = OTHER, 1.2, 1.2
    for t, s in zip(points, points[1:], strict=False):
        probes = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        still = Still.from_seeds([0, 1])
        moved = sample(denoiser, step, lambda p, t=t, s=s: [t, s], (2, 1), start=probes, rng=still, dtype=torch.float64)
        a, b = float(moved[1] - moved[0]), float(moved[0])
        h = t.t - s.t
        if s.is_clean:
            noise = 0.0
        elif isinstance(step, Ancestral):
            noise = float(process.posterior(probes, probes, t, s).std) ** 2
        else:
            noise = float(process.diffusion(t, probes)) ** 2 * h
        mean, variance, covariance = a * mean + b, a * a * variance + noise, a * covariance
    return torch.tensor([mean, variance, covariance], dtype=torch.float64)


SDE = pytest.mark.parametrize("step", [Ancestral(), EulerMaruyama()], ids=["ancestral", "euler-maruyama"])


@pytest.mark.parametrize("name", PROCESSES)
@SDE
def test_the_sde_reaches_data_in_the_pairs_of_the_bridge(step, name):
    """At the rate log n / n: n even steps, each with the guess in place of the end, miss a variance of at most sum_k 1 / (k n)."""
    process = PROCESSES[name]
    limit = torch.tensor([DATA, 0.5, float(exact(process).covariance)], dtype=torch.float64)
    for n in (50, 200, 800):
        error = (pairs_of(process, step, Uniform(n)(process)) - limit).abs()
        assert float(error.max()) < math.log(n) / n


@pytest.mark.parametrize("name", PROCESSES)
@SDE
def test_steps_of_the_sde_have_weak_order_one(step, name):
    """To t = 1/4: mean, variance and covariance of the state with where it came from; what is exact needs no order."""
    process, t = PROCESSES[name], 0.25
    law = process.marginal(torch.eye(2)[:, :1].double(), process.point(t), torch.eye(2)[:, 1:].double())
    (a, b), c = law.mean.flatten().tolist(), float(exact(process).covariance)
    variance = a * a * 0.5 + b * b * 1.2 + 2 * a * b * c + float(law.std) ** 2
    limit = torch.tensor([a * DATA + b * OTHER, variance, a * c + b * 1.2], dtype=torch.float64)
    grids = [process.points([1 - (1 - t) * i / n for i in range(n + 1)]) for n in (40, 80, 160)]
    errors = torch.stack([(pairs_of(process, step, points) - limit).abs() for points in grids])
    order = (errors[:-1] / errors[1:]).log2()
    assert bool((((order - 1).abs() < 0.15) | (errors[1:] < 1e-12)).all()), (errors, order)


@pytest.mark.parametrize("name", PROCESSES)
def test_samples_are_as_computed(name):
    """20 steps with their noise, 20,000 samples."""
    process = PROCESSES[name]
    rng = parts.Together(20_000, 3)
    start = OTHER + 1.2**0.5 * rng.spawn(1).normal(1)
    for step in (Ancestral(), EulerMaruyama()):
        end = sample(
            exact(process).denoiser(process), step, Uniform(20), (20_000, 1), start=start, rng=rng, dtype=torch.float64
        )
        found = torch.stack([end.mean(), end.var(), torch.cov(torch.cat([start, end], 1).T)[0, 1]])
        torch.testing.assert_close(found, pairs_of(process, step, Uniform(20)(process)), rtol=0, atol=0.04)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    "inner, order",
    [(Euler(), 1), (Heun(), 2), (DPMSolverMultistep(formula="published"), 2)],
    ids=["euler", "heun", "dpm++"],
)
def test_the_flow_converges_with_the_order_of_its_solver(inner, order, name):
    process = PROCESSES[name]
    mixture = independent(torch.tensor([[-0.7], [0.5]]), torch.tensor([[0.1], [0.9]]), 0.1, 0.2)
    denoiser, start = mixture.denoiser(process), torch.tensor([[-0.3], [0.4], [1.1]], dtype=torch.float64)

    def end(step, n):
        points = lambda p: p.points([0.95 - 0.75 * i / n for i in range(n + 1)])  # noqa: E731
        return sample(denoiser, BridgeFlow(step), points, (3, 1), start=start, dtype=torch.float64)

    fine = end(RK45(atol=1e-10, rtol=1e-10), 1)
    errors = torch.stack([(end(inner, n) - fine).abs().max() for n in (16, 32, 64)])
    measured = (errors[:-1] / errors[1:]).log2()
    assert bool(((measured - order).abs() < 0.3).all()), measured


def test_the_flow_carries_the_marginals():
    """From x_1 = 0.95 of the way: mean and variance of what a Gaussian bridge has at t = 1/10."""
    process = PROCESSES["brownian"]
    pairs = exact(process)
    ends = []
    for t in (0.95, 0.1):
        mean = (1 - t) * DATA + t * OTHER
        variance = (1 - t) ** 2 * 0.5 + t**2 * 1.2 + 2 * t * (1 - t) * float(pairs.covariance) + t * (1 - t)
        ends.append(mean + torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64) * variance**0.5)
    flow = BridgeFlow(RK45(atol=1e-10, rtol=1e-10))
    end = sample(
        pairs.denoiser(process), flow, lambda p: p.points([0.95, 0.1]), (3, 1), start=ends[0], dtype=torch.float64
    )
    torch.testing.assert_close(end, ends[1], rtol=0, atol=1e-7)


def test_example_i_depends_on_its_seed_and_start_alone():
    process = PROCESSES["brownian"]
    denoiser, start = exact(process).denoiser(process), torch.linspace(-1, 1, 5)[:, None]
    whole = sample(denoiser, EulerMaruyama(), Uniform(5), (5, 1), start=start, rng=Rng.from_seeds(range(5)))
    part = sample(denoiser, EulerMaruyama(), Uniform(5), (2, 1), start=start[3:], rng=Rng.from_seeds([3, 4]))
    torch.testing.assert_close(whole[3:], part)
