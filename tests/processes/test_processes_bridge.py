"""Bridges: their law given both ends, in either direction; their drifts; what refuses them."""

import math

import pytest
import torch

from unnoise.denoisers import Bridged
from unnoise.errors import UsageProblem
from unnoise.likelihood import likelihood
from unnoise.oracles import Coupled, independent, joined, schroedinger
from unnoise.processes import Bridge, Gaussian
from unnoise.rng import Rng
from unnoise.samplers import DDIM, Ancestral, BridgeFlow, Euler, EulerMaruyama, Heun, Naive, Uniform, sample
from unnoise.schedules import EDM, Brownian, LinearVP

BROWNIAN, OU = Bridge(Gaussian(Brownian(0.8))), Bridge(Gaussian(LinearVP(1.0, 1.0)))
T = torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=torch.float64)
X0, X1 = torch.linspace(-1, 2, 8, dtype=torch.float64).reshape(2, 4, 1)


def test_brownian_bridge_is_the_textbooks():
    law = BROWNIAN.marginal(X0, T, X1)
    t = T[:, None]
    torch.testing.assert_close(law.mean, (1 - t) * X0 + t * X1, rtol=0, atol=1e-14)
    torch.testing.assert_close(law.std.expand(4, 1), 0.8 * (t * (1 - t)).sqrt(), rtol=0, atol=1e-14)


def test_ornstein_uhlenbeck_bridge_is_the_textbooks():
    """dx = -x/2 dt + dw: (sinh(a (1 - t)) x_0 + sinh(a t) x_1) / sinh a, variance sinh(a t) sinh(a (1 - t)) / (a sinh a)."""
    law, a, t = OU.marginal(X0, T, X1), 0.5, T[:, None]
    mean = (torch.sinh(a * (1 - t)) * X0 + torch.sinh(a * t) * X1) / math.sinh(a)
    variance = torch.sinh(a * t) * torch.sinh(a * (1 - t)) / (a * math.sinh(a))
    torch.testing.assert_close(law.mean, mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(law.std.expand(4, 1) ** 2, variance, rtol=0, atol=1e-14)


@pytest.mark.parametrize("process", [BROWNIAN, OU], ids=["brownian", "ou"])
def test_a_bridge_is_one_of_bridges(process):
    """From x_t the posterior is the bridge from x_0 to x_t: marginal at s = posterior from the marginal at t."""
    t, s = torch.full((4,), 0.7, dtype=torch.float64), torch.full((4,), 0.25, dtype=torch.float64)
    far, near = process.marginal(X0, t, X1), process.marginal(X0, s, X1)
    through = process.posterior(far.mean, X0, t, s)
    slope = process.posterior(far.mean + 1, X0, t, s).mean - through.mean
    torch.testing.assert_close(through.mean, near.mean, rtol=0, atol=1e-13)
    torch.testing.assert_close((slope * far.std) ** 2 + through.std**2, (near.std**2).expand(4, 1), rtol=0, atol=1e-13)


def test_the_same_from_both_ends_or_refused():
    for process in (BROWNIAN, OU):
        a, b = process.marginal(X0, T, X1), process.marginal(X1, 1 - T, X0)
        torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-13)
        torch.testing.assert_close(a.std, b.std, rtol=0, atol=1e-13)
    for schedule in (LinearVP(), EDM()):
        with pytest.raises(UsageProblem, match="not the same from both ends"):
            Bridge(Gaussian(schedule))
    with pytest.raises(UsageProblem, match="must be positive"):
        Brownian(0.0)


def pair(process: Bridge) -> tuple[Coupled, Bridged]:
    pairs = joined(X0[0], X1[0], 0.0, 0.0)
    return pairs, pairs.denoiser(process)


def test_the_flow_of_one_pair_is_schroedinger_bridge_flow_matchings():
    """(1 - 2t) / (2 t (1 - t)) (x - mu_t) + x_1 - x_0, as simulation-free bridges have it (2307.03672)."""
    _, bridged = pair(BROWNIAN)
    x, t = torch.linspace(-2, 2, 4, dtype=torch.float64)[:, None], T[:, None]
    x0, x1 = X0[:1], X1[:1]
    expected = (1 - 2 * t) / (2 * t * (1 - t)) * (x - (1 - t) * x0 - t * x1) + x1 - x0
    found = BROWNIAN.reference.velocity(x, bridged.flow(x, T).mean, T)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("process", [BROWNIAN, OU], ids=["brownian", "ou"])
def test_the_score_is_that_of_the_density(process):
    pairs = independent(torch.tensor([[-1.0], [0.6]]), torch.tensor([[0.2], [1.5]]), 0.2, 0.1)
    x = torch.tensor([[-0.4], [0.1], [0.9], [1.3]], dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(pairs.log_prob(process, x, T).sum(), x)
    torch.testing.assert_close(pairs.denoiser(process).score(x.detach(), T), score, rtol=0, atol=1e-11)


@pytest.mark.parametrize("process", [BROWNIAN, OU], ids=["brownian", "ou"])
def test_the_flow_moves_the_density(process):
    """Fokker-Planck: d log p / dt + u . grad log p + div u = 0 along the flow u."""
    pairs = independent(torch.tensor([[-1.0], [0.6]]), torch.tensor([[0.2], [1.5]]), 0.2, 0.1)
    bridged = pairs.denoiser(process)
    x = torch.tensor([[-0.4], [0.1], [0.9], [1.3]], dtype=torch.float64, requires_grad=True)
    t = T.clone().requires_grad_()
    flow = process.reference.velocity(x, bridged.flow(x, t).mean, t)
    (divergence,) = torch.autograd.grad(flow.sum(), x, retain_graph=True)
    dx, dt = torch.autograd.grad(pairs.log_prob(process, x, t).sum(), (x, t))
    torch.testing.assert_close(dt[:, None] + flow * dx + divergence, torch.zeros_like(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("step", [DDIM(), Ancestral(eta=0.5), Heun(), Euler(), EulerMaruyama(noise=0.5), Naive()])
def test_steps_that_mean_nothing_on_a_bridge_are_refused(step):
    with pytest.raises(UsageProblem, match="walked by its SDE"):
        step.check(BROWNIAN)


def test_what_has_no_sense_is_told():
    _, bridged = pair(BROWNIAN)
    with pytest.raises(UsageProblem, match="starts from data of its other end"):
        sample(bridged, EulerMaruyama(), Uniform(3), (1, 1))
    with pytest.raises(UsageProblem, match="needs a Bridge process"):
        BridgeFlow().check(Gaussian(Brownian()))
    with pytest.raises(UsageProblem, match="deterministic solver"):
        BridgeFlow(EulerMaruyama())
    with pytest.raises(UsageProblem):
        likelihood(bridged, torch.zeros(1, 1), rng=Rng.from_seeds([0]))
    with pytest.raises(UsageProblem, match="one component"):
        from unnoise.oracles import refitted

        refitted(independent(torch.zeros(2, 1), torch.zeros(1, 1), 1.0, 1.0), BROWNIAN)


def test_exact_pairs_are_drawn_as_they_are_described():
    pairs = schroedinger(torch.tensor([0.5]), torch.tensor([-1.0]), 0.5, 2.0, OU)
    x0, x1 = pairs.sample(Rng.from_seeds(range(4000)))
    found = torch.cov(torch.cat([x0, x1], 1).T)
    c = float(pairs.covariance)
    torch.testing.assert_close(found, torch.tensor([[0.5, c], [c, 2.0]], dtype=torch.float64), rtol=0, atol=0.1)
    assert abs(float(x0.mean()) - 0.5) < 0.05 and abs(float(x1.mean()) + 1) < 0.1
