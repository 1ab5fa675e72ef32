"""Law 10: one signal coefficient per frequency (blurring) goes through every solver at its declared order."""

import math

import laws_parts as parts
import pytest
import torch
from probes import slope

from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.oracles import gaussian
from unnoise.processes import DCT, Gaussian
from unnoise.samplers import Ancestral, Churn, Euler, Heun, Karras, Uniform, sample
from unnoise.schedules import Schedule

SIZE = 6


class Blur(Schedule):
    """alpha = cos(pi t / 2) exp(-rate sin^4(pi t / 2)) for each frequency, sigma = sin(pi t / 2) for all."""

    prior_std = 1.0

    def __init__(self):
        super().__init__()
        f = torch.arange(SIZE, dtype=torch.float64)
        self.rates = (f[:, None] ** 2 + f**2) * (math.pi / SIZE) ** 2 * 0.3

    def alpha(self, t):
        t = t[:, None, None, None]  # batch, channel, rows, columns
        return torch.cos(math.pi / 2 * t) * torch.exp(-self.rates * torch.sin(math.pi / 2 * t) ** 4)

    def sigma(self, t):
        return torch.sin(math.pi / 2 * t[:, None, None, None])


class DiagonalOracle(Denoiser):
    """Gaussian data of independent frequencies, mean m and variance v each: the guess is an image."""

    def __init__(self, process, m, v):
        super().__init__()
        self.process, self.m, self.v = process, m, v

    def forward(self, xt, t, cond=None):
        alpha, sigma = self.process.schedule.alpha(t), self.process.schedule.sigma(t)
        total = alpha**2 * self.v + sigma**2
        mean = self.m + alpha * self.v / total * (xt - alpha * self.m)
        return Estimate(self.process.basis.inverse(mean), (self.v * sigma**2 / total).expand_as(xt))


@pytest.fixture
def scene():
    process = Gaussian(Blur(), DCT())
    m = parts.normal(1, SIZE, SIZE, seed=2) * 0.3
    v = 1 / (1 + 20 * process.schedule.rates)
    return process, m, v, DiagonalOracle(process, m, v)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 5, 9), (4, 7), (2, 3, 2, 6, 4)])
def test_dct_is_scipys_and_orthonormal(shape):
    from scipy.fft import dctn

    x, basis = parts.normal(*shape), DCT()
    expected = torch.from_numpy(dctn(x.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(basis(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(basis.inverse(basis(x)), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(basis(x).square().sum(), x.square().sum(), rtol=1e-12, atol=0)
    assert basis(x.float()).dtype == torch.float32


def test_a_scalar_schedule_is_the_same_in_any_basis():
    plain, turned = Gaussian(parts.SCHEDULES["cosine"]), Gaussian(parts.SCHEDULES["cosine"], DCT())
    x0, xt = parts.normal(3, 1, 4, 4), parts.normal(3, 1, 4, 4, seed=1)
    t, s = torch.full((3,), 0.7).double(), torch.full((3,), 0.4).double()
    law, other = plain.posterior(xt, x0, t, s), turned.posterior(turned.state(xt), x0, t, s)
    torch.testing.assert_close(turned.data(other.mean), law.mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(other.std, law.std)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_posterior_composed_with_marginal_is_marginal(scene, eta):
    process = scene[0]
    n = 20
    t = torch.linspace(0.1, 0.99, n, dtype=torch.float64)
    s = t * torch.rand(n, generator=parts.numbers(1), dtype=torch.float64)
    x0 = parts.normal(n, 1, SIZE, SIZE)
    zero, one = (torch.full_like(x0, value) for value in (0.0, 1.0))
    at, target = process.marginal(x0, t), process.marginal(x0, s)
    law = process.posterior(zero, x0, t, s, eta)
    slope = process.posterior(one, x0, t, s, eta).mean - law.mean
    torch.testing.assert_close(law.mean + slope * at.mean, target.mean, rtol=1e-10, atol=1e-10)
    variance = ((slope * at.std) ** 2 + law.std**2).expand_as(x0)
    torch.testing.assert_close(variance, (target.std**2).expand_as(x0), rtol=1e-10, atol=1e-12)
    if eta == 1:  # the precision form of the blurring paper
        ats = process.schedule.alpha(t) / process.schedule.alpha(s)
        s2 = process.schedule.sigma(t) ** 2 - ats**2 * process.schedule.sigma(s) ** 2
        expected = 1 / (1 / process.schedule.sigma(s) ** 2 + ats**2 / s2)
        torch.testing.assert_close(law.std**2, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("step", [Euler(), Heun(), Heun(a=0.5), Ancestral(eta=0.0)])
def test_measured_order(scene, step):
    """Against the closed flow of each frequency: (x - alpha m) / sqrt(alpha^2 v + sigma^2) stays."""
    process, m, v, oracle = scene
    top, low, counts, errors = 0.9, 0.15, (20, 40, 80, 160), []
    a, b = process.points([top, low])
    x = a.alpha * m + (a.alpha**2 * v + a.sigma**2).sqrt() * parts.normal(4, 1, SIZE, SIZE, seed=3)
    truth = b.alpha * m + ((b.alpha**2 * v + b.sigma**2) / (a.alpha**2 * v + a.sigma**2)).sqrt() * (x - a.alpha * m)
    for n in counts:
        times = [top + (low - top) * i / n for i in range(n + 1)]
        out = sample(oracle, step, lambda p, times=times: p.points(times), x.shape, start=x, dtype=torch.float64)
        errors.append(float((process.state(out) - truth).square().mean().sqrt()))
    assert slope(errors, counts) == pytest.approx(step.order, abs=0.1), errors


@pytest.mark.parametrize(
    "step, steps", [(Ancestral(), 300), (Ancestral(variance="optimal"), 20), (Euler(), 300), (Heun(), 40)]
)
def test_the_data_come_back(scene, step, steps):
    """Every frequency's mean and variance within 5 standard errors, from Uniform's own last step to clean data."""
    process, m, v, oracle = scene
    n = 4000
    x = sample(oracle, step, Uniform(steps), (n, 1, SIZE, SIZE), rng=parts.Together(n, seed=1), dtype=torch.float64)
    u = process.state(x)
    last = Uniform(steps)(process)[-2]
    if step == Ancestral(variance="optimal"):  # exact but for the last step, which draws nothing
        v = v - v * last.sigma**2 / (last.alpha**2 * v + last.sigma**2)
    assert float(((u.mean(0) - m) / (v / n).sqrt()).abs().max()) < 5
    assert float((u.var(0) / v - 1).abs().max()) < 5 * (2 / n) ** 0.5


def test_the_shipped_oracle_agrees(scene):
    process, m, v, oracle = scene
    xt, t = parts.normal(3, 1, SIZE, SIZE), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    ours, theirs = oracle(xt, t), gaussian(m, v).denoiser(process)(xt, t)
    torch.testing.assert_close(theirs.mean, ours.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(theirs.variance, ours.variance, rtol=1e-10, atol=1e-10)


def test_what_needs_one_noise_level_says_so(scene):
    process, _, _, oracle = scene
    with pytest.raises(UsageProblem, match="for each frequency"):
        sample(oracle, Churn(), Uniform(5), (1, 1, SIZE, SIZE))
    with pytest.raises(UsageProblem, match="for each frequency"):
        Karras(5)(process)
