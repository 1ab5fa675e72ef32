"""Hybrid and denoising score matching of the velocity: the published loss, its minimiser, and the network's parametrisation."""

import pytest
import torch

from unnoise.denoisers import VelocityDenoiser
from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate, mixed
from unnoise.networks import MLPOptions
from unnoise.objectives import Uniform, VelocityMatching
from unnoise.oracles import Mixture, gaussian
from unnoise.processes import CriticallyDamped, Gaussian
from unnoise.processes.damped import multiplier
from unnoise.rng import Rng
from unnoise.schedules import LinearVP

PROCESS = CriticallyDamped(floor=1e-9)


def network(seed=0):
    net = MLPOptions(width=16, depth=2).build(4, 2).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return net


def denoiser(hybrid=True, mixed_score=True, told="t"):
    return VelocityDenoiser(network(), PROCESS, mixed_score, hybrid, told)


def times(n):
    return torch.linspace(0.02, 1, n, dtype=torch.float64)


def data(n):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("told", ["t", "log t"])
@pytest.mark.parametrize("mixed_score", [True, False])
@pytest.mark.parametrize("hybrid", [True, False])
def test_score_of_the_network_is_the_published_one(hybrid, mixed_score, told):
    """s = -ell net - v/S_vv, S_vv with v_0 integrated out; ell of the kernel that is matched."""
    t, u = times(5), torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    model = denoiser(hybrid, mixed_score, told)
    kernel = PROCESS.at(t)
    ell = multiplier(kernel.covariance if hybrid else PROCESS.fresh(kernel))[:, None]
    output = model.network(u.flatten(1), t.log() if told == "log t" else 1000 * t)
    wanted = -ell * output - (u[:, 1] / kernel.covariance[:, 1, 1, None] if mixed_score else 0)
    torch.testing.assert_close(PROCESS.score(u, model(u, t).mean, t)[:, 1], wanted, rtol=1e-6, atol=1e-6)


def test_guess_is_the_published_one():
    """x_0 = (v - L_vv eps - L_xv x / L_xx) / (c_v - c_x L_xv / L_xx)."""
    t, u = times(4), torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    model, kernel = denoiser(), PROCESS.at(t)
    root = torch.linalg.cholesky(kernel.covariance)
    l11, l21, l22 = root[:, 0, 0, None], root[:, 1, 0, None], root[:, 1, 1, None]
    eps = model.network(u.flatten(1), 1000 * t) + u[:, 1] * l22 / kernel.covariance[:, 1, 1, None]
    c = kernel.gain[:, :, None]
    wanted = (u[:, 1] - l22 * eps - l21 * u[:, 0] / l11) / (c[:, 1] - c[:, 0] * l21 / l11)
    torch.testing.assert_close(model(u, t).mean, wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("hybrid", [True, False])
def test_loss_is_the_published_one(hybrid):
    """|score / ell + eps_v|^2, with eps from the same streams; weighted by Gamma beta ell^2 for the likelihood."""
    t, x0, model = times(6), data(6), denoiser(hybrid)
    rng, kernel = Rng.from_seeds(range(6)), PROCESS.at(t)
    v0 = torch.zeros_like(x0) if hybrid else 0.1 * rng.normal_like(x0)
    eps = rng.normal(2, 2, dtype=torch.float64)
    flow = PROCESS.flow(kernel.clock)
    covariance = kernel.covariance if hybrid else PROCESS.fresh(kernel)
    u = mixed(flow, torch.stack([x0, v0], 1)) + mixed(torch.linalg.cholesky(covariance), eps)
    ell = multiplier(covariance)[:, None]
    score = -ell * model.network(u.flatten(1), 1000 * t) - u[:, 1] / kernel.covariance[:, 1, 1, None]
    wanted = (score / ell + eps[:, 1]).square().mean(1)
    found = VelocityMatching(Uniform(), hybrid).at(model, x0, t, None, Rng.from_seeds(range(6)))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    weighted = VelocityMatching(Uniform(), hybrid, likelihood=True).at(model, x0, t, None, Rng.from_seeds(range(6)))
    torch.testing.assert_close(weighted, 4 * ell[:, 0] ** 2 * wanted, rtol=1e-6, atol=1e-6)


class Shifted(Denoiser):
    def __init__(self, inner, by):
        super().__init__()
        self.inner, self.process, self.by = inner, inner.process, by

    def forward(self, xt, t, cond=None):
        return Estimate(self.inner(xt, t).mean + self.by)


@pytest.mark.parametrize("hybrid", [True, False])
def test_both_are_least_at_the_true_score(hybrid):
    """The derivative of the loss along any shift of the exact guess is 0, to its Monte Carlo error."""
    mixture = Mixture(torch.tensor([[-0.6], [0.7]]).double(), torch.tensor([[0.05], [0.1]]).double())
    n = 20_000
    x0 = mixture.sample(Rng.from_seeds(range(n)))
    t = torch.rand(n, generator=torch.Generator().manual_seed(0)).double() * 0.8 + 0.2
    exact, objective = mixture.denoiser(PROCESS), VelocityMatching(Uniform(), hybrid)
    by = 0.1

    def loss(shift):
        return objective.at(Shifted(exact, shift), x0, t, None, Rng.from_seeds(range(n)))

    up, down, here = loss(by), loss(-by), loss(0.0)
    slope = (up - down) / (2 * by)
    assert abs(float(slope.mean())) < 4 * float(slope.std()) / n**0.5
    assert float((up - here).mean()) > 0 and float((down - here).mean()) > 0


def test_least_loss_is_the_variance_of_the_noise_given_the_state():
    """Of Gaussian data: E[(eps_v - E[eps_v | u])^2] = 1 - var(score_v) / ell^2, in closed form."""
    n, t = 20_000, torch.full((20_000,), 0.3, dtype=torch.float64)
    x0 = 0.5 * Rng.from_seeds(range(n)).normal(1, dtype=torch.float64)
    model = gaussian(torch.zeros(1).double(), 0.25).denoiser(PROCESS)
    loss = VelocityMatching(Uniform()).at(model, x0, t, None, Rng.from_seeds(range(n)).spawn(1))
    kernel = PROCESS.point(0.3)
    total = 0.25 * torch.outer(kernel.gain, kernel.gain) + kernel.covariance
    least = 1 - float(torch.linalg.inv(total)[1, 1]) / float(multiplier(kernel.covariance)) ** 2
    assert float(loss.mean()) == pytest.approx(least, abs=4 * float(loss.std()) / n**0.5)


def test_float32_networks_lose_nothing_to_the_detour_through_x0():
    """Down to t = 1e-3 the score's error of rounding is below 1e-3 of its size; at 1e-5, with the floor, below 1e-2."""
    t = torch.tensor([1e-5, 1e-4, 1e-3, 1e-2, 0.5]).double()
    u, model = PROCESS.corrupt(data(5), t, Rng.from_seeds(range(5))), denoiser()
    exact = PROCESS.score(u, model(u, t).mean, t)[:, 1]
    rounded = PROCESS.score(u.float(), model(u.float(), t).mean, t)[:, 1]
    error = (rounded - exact).abs().amax(1) / multiplier(PROCESS.at(t).covariance)
    assert (error < torch.tensor([1e-2, 1e-2, 1e-3, 1e-3, 1e-3])).all(), error


def test_processes_without_a_velocity_are_refused():
    with pytest.raises(UsageProblem, match="no velocity"):
        process = Gaussian(LinearVP())
        VelocityMatching(Uniform())(
            gaussian(torch.zeros(2).double(), 1.0).denoiser(process), data(2), None, Rng.from_seeds([0, 1])
        )
