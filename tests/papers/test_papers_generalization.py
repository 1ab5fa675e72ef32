"""Generalisation along training: the moments, the losses and the densities of its experiment, and its recipe."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import NetworkDenoiser
from unnoise.errors import UsageProblem
from unnoise.model import Model, train_model
from unnoise.networks.random_features import RandomFeaturesOptions
from unnoise.oracles import finite_set
from unnoise.papers.generalization import (
    START,
    TAUS,
    Generalization,
    Line,
    Whitened,
    _reached,
    score_moments,
    two_modes,
)
from unnoise.processes import Gaussian
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.schedules import ExponentialVE
from unnoise.training import TrainingOptions


def test_diffusion_of_the_tutorial():
    """dx = 25^t dw: its coefficient, and the deviation it adds up to."""
    process = Gaussian(ExponentialVE(25.0))
    t = torch.tensor([0.01, 0.065, 0.5, 1.0], dtype=torch.float64)
    x = torch.zeros(4, 1, dtype=torch.float64)
    torch.testing.assert_close(process.diffusion(t, x)[:, 0], 25**t)
    assert float(process.schedule.sigma(t[1:2])) ** 2 == pytest.approx(0.0807, abs=5e-5)
    u = torch.linspace(0, 0.5, 20_001, dtype=torch.float64)
    assert float(process.schedule.sigma(t[2:3])) ** 2 == pytest.approx(float(torch.trapezoid(625**u, u)), rel=1e-6)
    with pytest.raises(UsageProblem, match="above 1"):
        ExponentialVE(1.0)


def test_moments_by_noising_each_example():
    """The empirical loss itself: every example, a fine grid of noises, targets -z; the same times."""
    x0 = torch.tensor([[-1.5], [0.3], [2.0]], dtype=torch.float64)
    network = RandomFeaturesOptions(12).build((1,)).double()
    denoiser = NetworkDenoiser(network, Gaussian(ExponentialVE()), Whitened(2.0))
    found = score_moments(denoiser, finite_set(x0), times=6, nodes=3000)
    z = torch.linspace(-7, 7, 4001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / torch.exp(-z * z / 2).sum()
    gram, cross = torch.zeros(12, 12, dtype=torch.float64), torch.zeros(1, 12, dtype=torch.float64)
    at, weights = np.polynomial.legendre.leggauss(6)
    for node, weight in zip(at, weights / 2, strict=True):
        t = 1e-5 + (1 - 1e-5) * (node + 1) / 2
        sigma = math.sqrt((25 ** (2 * t) - 1) / (2 * math.log(25)))
        xt = (x0 + sigma * z).reshape(-1, 1)
        told = torch.full((len(xt),), math.log(sigma), dtype=torch.float64)
        phi = network.features(xt / math.sqrt(sigma**2 + 4), told)
        mass = weight * (density / 3).repeat(3)[:, None]
        gram += phi.T @ (mass * phi)
        cross -= (mass * z.repeat(3)[:, None]).T @ phi
    torch.testing.assert_close(found.gram, gram, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.cross, cross, rtol=1e-4, atol=1e-5)


def test_moments_are_the_gradient_of_the_recipes_objective():
    """The flow's first direction is that of the loss by which `unnoise train` would move A, within its noise."""
    line = Line(2.0, width=20)
    x0 = line.data.sample(Rng.from_seeds(range(20_000)))
    objective = Generalization().objective(Spec((1,)))
    loss = objective(line.denoiser, x0, None, Rng.for_step(0, 0, range(20_000))).per_example
    (gradient,) = torch.autograd.grad(loss.mean(), [line.denoiser.network.A])
    assert float(loss.detach().mean()) == pytest.approx(1, abs=0.05)  # |z|^2, untrained
    expected = -2 * line.flow().cross / 20
    assert float((gradient - expected).norm() / expected.norm()) < 0.06


def test_population_loss_of_the_empirical_flow_turns_up():
    line = Line(3.0, width=100)
    population, flow = line.flow(), line.flow(line.examples(10, 0))
    losses = [population.loss(flow.weights(tau)) for tau in TAUS]
    best = losses.index(min(losses))
    assert 0 < best < len(losses) - 1 and losses[-1] > 1.05 * losses[best]


def test_denoising_loss_has_a_floor_and_the_flow_stays_above_it():
    """The least loss is 1 less the power of sigma times the score: both by quadrature, the second without features."""
    line = Line(2.0, width=200)
    flow = line.flow()
    exact = score_moments(line.denoiser, line.data).loss(flow.weights(1e12))
    t = torch.linspace(1e-5, 1, 400, dtype=torch.float64)
    x = torch.linspace(-60, 60, 4001, dtype=torch.float64)[:, None]
    process = line.denoiser.process
    floors = []
    for u in t:
        told = u.expand(len(x))
        p = line.data.log_prob(x, process, told).exp()
        score = line.data.denoiser(process).score(x, told)
        floors.append(1 - float((p * (process.schedule.sigma(u) * score[:, 0]).square()).sum() / p.sum()))
    floor = float(torch.trapezoid(torch.tensor(floors, dtype=torch.float64), t))
    assert floor < exact < floor + 0.01


def test_densities_integrate_to_one_and_the_exact_score_gives_them_back():
    line = Line(2.0)
    h = float(line.x[1] - line.x[0])
    A = torch.randn(1, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(line.density(line.phi @ A.T).sum() * h) == pytest.approx(1)
    told = torch.full((len(line.x),), START, dtype=torch.float64)
    process = line.denoiser.process
    p = line.data.log_prob(line.x, process, told).exp()
    torch.testing.assert_close(line.density(line.data.denoiser(process).score(line.x, told)), p, rtol=2e-3, atol=1e-6)
    with torch.no_grad():  # the score of the network, as the flow's weights give it and as the denoiser does
        line.denoiser.network.A.copy_(line.flow().weights(1e3))
        x0 = line.denoiser(line.x, told).mean
        score = (x0 - line.x) / process.point(START).sigma ** 2
    torch.testing.assert_close(line.phi @ line.flow().weights(1e3).T, score, rtol=1e-5, atol=1e-6)


def test_a_long_training_on_the_population_comes_near():
    """What is left is the model's: far below one on 30 examples."""
    line = Line(3.0)
    assert line.divergence(line.flow().weights(1e9)) < 0.05
    assert two_modes(3.0).covariance.item() == pytest.approx(10)


def test_the_quadrature_has_converged():
    """Twice as many times and nodes: the curve of a divergence moves by less than two in a hundred, up to tau = 10^13."""
    line = Line(3.0, seed=4)
    data = line.examples(100, 4)
    flows = [line.flow(data), score_moments(line.denoiser, data, times=192, nodes=800)]
    for tau in (1e4, 1e7, 1e10, 1e13):
        coarse, fine = (line.divergence(flow.weights(tau)) for flow in flows)
        assert coarse == pytest.approx(fine, rel=0.02)


def test_times_between_times_are_interpolated():
    values = torch.tensor([[4.0, 1.0] + [0.1] * (len(TAUS) - 2)], dtype=torch.float64)
    expected = 0.2 * (1 + math.log(2) / math.log(10))  # log10 tau: from 0.2 on the way to 0.4
    assert float(_reached(values)) == pytest.approx(expected)
    assert float(_reached(torch.ones(1, len(TAUS), dtype=torch.float64))) == math.inf


def test_random_features_are_a_recipe_that_trains_and_samples(tmp_path):
    training = TrainingOptions(steps=60, batch_size=64, lr=3.0, ema=None, precision="fp32")
    recipe = replace(Generalization(), data="digits", features=300, training=training)
    spec = Spec((1, 8, 8), levels=17, std=0.75)
    assert [p.shape for p in recipe.denoiser(spec).parameters()] == [(64, 300)]
    model, result = train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    assert result.loss < 0.8  # untrained: 1
    again = Model.load(tmp_path / "run", weights="model")
    torch.testing.assert_close(again.denoiser.network.W, model.denoiser.network.W)
    assert again.sample(range(2)).isfinite().all()
    with pytest.raises(UsageProblem, match="no-conditional"):
        replace(recipe, conditional=True).denoiser(replace(spec, classes=("a", "b")))
