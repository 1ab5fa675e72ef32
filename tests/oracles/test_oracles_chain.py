"""The exact output of Gaussian chains: against samplers, against each other, against sums written out."""

import math

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.oracles import Mixture, density_output, divergence, even_grid, gaussian, gaussian_output
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.samplers import Ancestral, Integers, Uniform, sample
from unnoise.schedules import Cosine, FromBetas, cosine_betas

VARIANCES = torch.tensor([0.25, 1.0, 3.0], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)


def chain(levels=12):
    process = Gaussian(FromBetas(cosine_betas(levels)))
    return process, Integers(levels)(process)


def modes():
    return Mixture(torch.tensor([[-0.8], [1.2]]), 0.05, torch.tensor([0.6, 0.4]))


@pytest.mark.parametrize("variance", ["small", "large", "optimal"])
def test_gaussian_output_is_what_the_sampler_draws(variance):
    process, points = chain()
    denoiser, reverse = gaussian(MEAN, VARIANCES).denoiser(process), Ancestral(variance=variance)
    law = gaussian_output(denoiser, reverse, points, (3,))
    drawn = sample(denoiser, reverse, lambda _: points, (4000, 3), rng=Rng.from_seeds(range(4000)), dtype=torch.float64)
    x = torch.zeros(1, 3, dtype=torch.float64)
    guess = denoiser(x, torch.full((1,), points[-2].t, dtype=torch.float64))
    last = reverse.law(process, guess, x, points[-2], points[-1])
    shown = law.std[0] ** 2 - torch.as_tensor(last.std) ** 2  # the sampler shows the mean of the last step
    assert float(((drawn.mean(0) - law.mean[0]) / (shown / 4000).sqrt()).abs().max()) < 4
    assert float((drawn.var(0) / shown - 1).abs().max()) < 4 * math.sqrt(2 / 4000)


@pytest.mark.parametrize("variance", ["small", "large", "optimal"])
def test_density_and_moments_agree(variance):
    process, points = chain(20)
    data = gaussian(torch.tensor([0.4]), 0.3)
    reverse, last = Ancestral(variance=variance), Ancestral(variance="optimal")
    law = gaussian_output(data.denoiser(process), reverse, points, (1,), last)
    x = even_grid(data.denoiser(process), reverse, points, -8, 8, last)
    p = density_output(data.denoiser(process), reverse, points, x, last)
    torch.testing.assert_close(p, law.log_prob(x[:, None]).exp(), rtol=1e-6, atol=1e-9)


def test_density_of_a_mixture_is_what_the_sampler_draws():
    process, points = chain()
    denoiser, x = modes().denoiser(process), torch.linspace(-8, 8, 1281, dtype=torch.float64)
    p = density_output(denoiser, Ancestral(), points, x, last=Ancestral(variance="optimal"))
    assert float(p.sum() * (x[1] - x[0])) == pytest.approx(1, abs=1e-6)
    rng = Rng.from_seeds(range(4000))
    kept = []
    sample(
        denoiser, Ancestral(), lambda _: points, (4000, 1), rng=rng, dtype=torch.float64,
        watch=lambda i, point, state: kept.append(state),
    )  # fmt: skip
    guess = denoiser(kept[-2], torch.full((4000,), points[-2].t, dtype=torch.float64))
    last = Ancestral(variance="optimal").law(process, guess, kept[-2], points[-2], points[-1])
    drawn = last.sample(rng)[:, 0]
    expected = (p.cumsum(0) - p / 2) * (x[1] - x[0])
    empirical = (drawn[:, None] <= x).double().mean(0)
    assert float((empirical - expected).abs().max()) < 1.63 / math.sqrt(4000)  # Kolmogorov: one in a hundred


def test_density_by_sums_written_out():
    """Three steps on the line: the posterior's coefficients by conditioning a covariance matrix, the guess by Bayes' rule."""
    lam = torch.tensor([0.9, 0.7, 0.2], dtype=torch.float64)
    process = Gaussian(FromBetas(1 - lam**2))
    points = Integers(3)(process)
    data = modes()
    x = torch.linspace(-6, 6, 601, dtype=torch.float64)
    h = x[1] - x[0]
    q0 = sum(w * torch.exp(-((x - m) ** 2) / 0.1) / math.sqrt(0.1 * math.pi) for w, m in ((0.6, -0.8), (0.4, 1.2)))
    p = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    for t in (3, 2, 1):
        below, c = lam[: t - 1].prod(), lam[:t].prod()
        # covariance of (x^(t-1), x^(t)) given x^(0)
        v1, v2, v12 = 1 - below**2, 1 - c**2, lam[t - 1] * (1 - below**2)
        b, v = v12 / v2, v1 - v12**2 / v2
        a = below - b * c
        likelihood = torch.exp(-((x[None] - c * x[:, None]) ** 2) / (2 * v2)) * q0[:, None]  # (x0, xt)
        weights = likelihood / likelihood.sum(0)
        mean = (weights * x[:, None]).sum(0)
        spread = (weights * (x[:, None] - mean) ** 2).sum(0)
        m, s2 = a * mean + b * x, v + a**2 * spread
        p = (torch.exp(-((x[:, None] - m) ** 2) / (2 * s2)) / (2 * math.pi * s2).sqrt() * p).sum(1) * h
    found = density_output(data.denoiser(process), Ancestral(variance="optimal"), points, x)
    torch.testing.assert_close(found, p, rtol=1e-6, atol=1e-8)


def test_the_line_and_continuous_time_get_along():
    """Fine steps of the exact reverse chain give the data back."""
    process = Gaussian(Cosine(-12, 12))
    points = Uniform(80)(process)
    x = even_grid(modes().denoiser(process), Ancestral(variance="optimal"), points, -6, 6)
    p = density_output(modes().denoiser(process), Ancestral(variance="optimal"), points, x)
    assert 0 < divergence(modes().log_prob(x[:, None], process, points[-1]).exp(), p, x) < 1e-4


def test_divergence_of_two_normals():
    x = torch.linspace(-12, 12, 2001, dtype=torch.float64)
    p, q = (torch.exp(-((x - m) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi)) for m, s in ((0, 1), (1, 2)))
    assert divergence(p, q, x) == pytest.approx(math.log(2) + (1 + 1) / 8 - 0.5, abs=1e-9)
    assert divergence(p, p, x) == 0


def test_what_cannot_be_exact_is_refused():
    process, points = chain()
    with pytest.raises(UsageProblem, match="not affine"):
        gaussian_output(modes().denoiser(process), Ancestral(variance="large"), points, (1,))
    coarse = torch.linspace(-5, 5, 40, dtype=torch.float64)
    with pytest.raises(UsageProblem, match="take more points"):
        density_output(modes().denoiser(process), Ancestral(variance="large"), points, coarse)
    with pytest.raises(UsageProblem, match="no variance"):
        even_grid(modes().denoiser(process), Ancestral(), points, -5, 5)


def test_a_finer_grid_changes_nothing():
    process, points = chain(20)
    reverse = Ancestral(variance="large")
    x = even_grid(modes().denoiser(process), reverse, points, -6, 6)
    fine = torch.linspace(-6, 6, 3 * (len(x) - 1) + 1, dtype=torch.float64)
    p, q = (density_output(modes().denoiser(process), reverse, points, grid) for grid in (x, fine))
    torch.testing.assert_close(p, q[::3], rtol=1e-7, atol=1e-10)
