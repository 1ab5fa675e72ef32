"""Score matching, denoising and sliced: closed forms on Gaussians, the minimiser, and networks differentiated twice."""

import itertools

import pytest
import torch

from unnoise.denoisers import NetworkDenoiser, Raw
from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.networks import RefineNetOptions, UNetOptions
from unnoise.objectives import Dequantised, Matching, Sliced, Uniform, UniformSteps, implied_weighting
from unnoise.oracles import Mixture, gaussian
from unnoise.processes import Gaussian, Process
from unnoise.rng import Rng, stream
from unnoise.schedules import VE, Geometric, LinearVP

LADDER = Gaussian(Geometric(0.3, 1.2, 3))
S = 0.5


class Linear(Denoiser):
    """The denoiser whose score is -a x."""

    def __init__(self, process, a):
        super().__init__()
        self.process, self.a = process, a

    def forward(self, xt, t, cond=None):
        c = self.process.at(t, xt)
        return Estimate((1 - self.a * c.sigma**2) * xt / c.alpha)


def design():
    """x_0 and eps with the first two moments of N(0, S^2) and N(0, 1): means of quadratic functions are exact."""
    pairs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.float64)
    return S * pairs[:, :1], pairs[:, 1:]


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("a", [0.0, 0.4, 1.0, 3.0])
def test_both_losses_of_a_linear_score_in_closed_form(level, a):
    """E(sigma s + eps)^2 = 1 - 2 a sigma^2 + a^2 sigma^2 (S^2 + sigma^2); least at a = 1 / (S^2 + sigma^2)."""
    t = torch.full((4,), level / 3, dtype=torch.float64)
    sigma = float(LADDER.schedule.sigma(t[0]))
    x0, eps = design()
    xt, one = x0 + sigma * eps, torch.ones(4, dtype=torch.float64)
    denoiser = Linear(LADDER, a)
    expected = 1 - 2 * a * sigma**2 + a**2 * sigma**2 * (S**2 + sigma**2)
    denoising = Matching("eps", UniformSteps(3)).compare_at(denoiser, x0, xt, t, None, one).per_example.mean()
    sliced = Sliced(UniformSteps(3)).estimate(denoiser, xt, t, None, [torch.ones_like(xt)]).mean().detach()
    assert float(denoising) == pytest.approx(expected, abs=1e-12)
    assert float(sliced) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("vectors", ["rademacher", "gaussian"])
@pytest.mark.parametrize("process", [LADDER, Gaussian(LinearVP())], ids=["ladder", "VP"])
def test_at_the_oracle_the_losses_agree_and_the_gradient_vanishes(process, vectors):
    """On a correlated mixture: equal means within four standard errors, s^2 / (s^2 + sigma^2) for one Gaussian."""
    count = 6000
    means = torch.tensor([[-0.7, 0.1], [0.6, 0.5]], dtype=torch.float64)
    mixture = Mixture(means, torch.tensor([[0.15, 0.2], [0.1, 0.25]]))
    oracle, times = mixture.denoiser(process), UniformSteps(3) if process is LADDER else Uniform(0.1)
    x0 = mixture.sample(Rng.from_seeds(range(count)))

    class Moved(Denoiser):
        def __init__(self, theta):
            super().__init__()
            self.process, self.theta = process, theta

        def forward(self, xt, t, cond=None):
            return Estimate(oracle(xt, t).mean + self.theta * torch.cos(1.3 * xt + t[:, None]))

    def loss(objective, theta):
        return objective(Moved(theta), x0, None, Rng.for_step(0, 1, range(count))).per_example

    zero = torch.zeros(count, 1, dtype=torch.float64)
    sliced, denoising = loss(Sliced(times, vectors=vectors), zero), loss(Matching("eps", times), zero)
    difference = (sliced - denoising).detach()
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / count**0.5
    theta = zero.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(Sliced(times, vectors=vectors), theta).sum(), theta)
    assert abs(float(gradient.mean())) < 4.5 * float(gradient.std()) / count**0.5
    h = torch.full_like(zero, 0.1)
    second = loss(Sliced(times, vectors=vectors), h) + loss(Sliced(times, vectors=vectors), -h) - 2 * sliced
    assert float(second.detach().mean()) > 0


def test_the_estimate_is_the_papers_with_its_jacobian():
    """sigma^2 [v^T J v + |s|^2 / 2] for each example, J from autograd, of a network that couples all numbers."""
    torch.manual_seed(0)
    mix = torch.randn(6, 6, dtype=torch.float64)
    process = Gaussian(VE(0.1, 5.0))

    class Net(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = process

        def forward(self, xt, t, cond=None):
            return Estimate(torch.tanh(xt @ mix))

    x, t = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    v = torch.randn(3, 6, dtype=torch.float64)
    sigma = process.schedule.sigma(t)[:, None]

    def score(row, sigma):
        return (torch.tanh(row @ mix) - row) / sigma**2

    expected = []
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda row, i=i: score(row, sigma[i]), x[i])
        s = score(x[i], sigma[i])
        expected.append(float(sigma[i] ** 2 * (v[i] @ jacobian @ v[i] + s @ s / 2)))
    found = Sliced(Uniform()).estimate(Net(), x, t, None, [v])
    torch.testing.assert_close(3 * (found - 1), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_more_projections_vary_less():
    denoiser, x0 = Linear(Gaussian(VE(0.1, 5.0)), 0.3), torch.zeros(2000, 4, dtype=torch.float64)
    spread = []
    for projections in (1, 16):
        objective = Sliced(Uniform(), projections=projections, vectors="gaussian")
        t = torch.full((2000,), 0.5, dtype=torch.float64)
        rng = Rng.from_seeds(range(2000))
        spread.append(float(objective.estimate(denoiser, x0, t, None, objective.directions(x0, rng)).detach().var()))
    assert spread[0] / spread[1] == pytest.approx(16, rel=0.25)


@pytest.mark.parametrize("power", [-1, 0, 2])
def test_comparing_scores_is_comparing_noise_weighted_by_sigma(power):
    process, x0 = Gaussian(VE(0.1, 5.0)), torch.randn(50, 3, generator=stream(3), dtype=torch.float64)
    denoiser = gaussian(torch.zeros(3), 0.7).denoiser(process)
    losses = [
        objective(denoiser, x0, None, Rng.for_step(1, 2, range(50))).per_example
        for objective in (
            Matching("score", Uniform(), lambda c: c.sigma ** (power + 2)),
            Matching("eps", Uniform(), lambda c: c.sigma**power),
        )
    ]
    torch.testing.assert_close(*losses)


def test_weightings_and_what_they_imply_are_those_of_matching():
    process = Gaussian(LinearVP())
    a, b = (
        implied_weighting(objective, process)
        for objective in (Sliced(Uniform(1e-3), "elbo"), Matching("eps", Uniform(1e-3), "elbo"))
    )
    torch.testing.assert_close(a.weight, b.weight)
    denoiser, x0 = Linear(process, 0.0), torch.zeros(5, 2, dtype=torch.float64)
    unit, weighted = (
        Sliced(Uniform(1e-3), w)(denoiser, x0, None, Rng.for_step(0, 0, range(5))) for w in ("constant", "elbo")
    )
    fall = process.with_derivatives(weighted.t, x0)
    factor = (fall.dsigma / fall.sigma - fall.dalpha / fall.alpha).reshape(-1) * (1 - 1e-3)
    torch.testing.assert_close(weighted.per_example, factor * unit.per_example)


@pytest.mark.parametrize(
    "network",
    [
        UNetOptions(channels=32, mult=(1, 1), blocks=1, attention=(2,)),
        RefineNetOptions(channels=8, levels=3),
        RefineNetOptions(channels=8, levels=None),
    ],
    ids=["unet", "refinenet", "blind refinenet"],
)
def test_networks_are_differentiated_twice_in_full_precision(network):
    """Training in bfloat16 changes nothing, and every weight of a trained network gets a gradient."""
    torch.manual_seed(1)
    denoiser = NetworkDenoiser(network.build(1), LADDER, Raw("eps", scale=3.0))
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1)  # the last layers start at zero
    x0 = torch.randn(4, 1, 8, 8)

    def gradients(mixed):
        denoiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = Sliced(UniformSteps(3))(denoiser, x0, None, Rng.for_step(0, 0, range(4))).per_example.mean()
        loss.backward()
        return loss, {name: p.grad for name, p in denoiser.named_parameters() if p.grad is not None}

    (plain, exact), (mixed, found) = gradients(False), gradients(True)
    assert torch.equal(plain, mixed)
    assert all(g.isfinite().all() and torch.equal(g, found[name]) for name, g in exact.items())
    assert sum(bool(g.abs().max() > 0) for g in exact.values()) > 0.9 * len(list(denoiser.parameters()))


def test_grey_levels_are_spread_over_their_bins():
    class Seen(Matching):
        def forward(self, denoiser, x0, cond, rng, turn="denoiser"):
            self.x0 = x0
            return super().forward(denoiser, x0, cond, rng, turn)

    inner, x0 = Seen("eps", UniformSteps(3)), torch.linspace(-1, 1, 17).repeat(400, 1)
    objective = Dequantised(inner, 17)
    loss = objective(Linear(LADDER, 0.5), x0, None, Rng.from_seeds(range(400)))
    moved = inner.x0 - x0
    assert loss.per_example.shape == (400,) and moved.dtype == x0.dtype
    assert float(moved.abs().max()) <= 1 / 16 and float(moved.abs().max()) > 0.99 / 16
    assert abs(float(moved.mean())) < 4 * (2 / 16) / 12**0.5 / moved.numel() ** 0.5


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Sliced(Uniform(), projections=0), "at least 1"),
        (lambda: Sliced(Uniform(), vectors="sphere"), "rademacher or gaussian"),
        (lambda: Sliced(Uniform(), "eps-ish"), "unknown weighting"),
        (lambda: Sliced(Uniform())(Linear(Process(), 1.0), torch.zeros(1, 1), None, Rng.from_seeds([0])), "no score"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()
