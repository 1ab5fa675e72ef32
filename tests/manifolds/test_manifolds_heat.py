"""Heat kernels: against other series, other manifolds, moments, finite differences, and their own limits."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from unnoise.manifolds import Manifold, Rotations, Sphere, Torus, manifold
from unnoise.rng import Rng

NAMES = ("sphere", "sphere-3", "torus-1", "torus-2", "so3")
SEEDS = Rng.from_seeds(range(300))


def quadrature(where, points=20_000):
    """Distances r from a centre, and the share of the manifold between them."""
    r = (torch.arange(points, dtype=torch.float64) + 0.5) * math.pi / points
    share = where.sphere_at(r)
    return r, share / share.sum()


def kernel_at(where, r, tau, terms=80):
    """The series at distances r, times the volume."""
    spectrum = where.spectrum(torch.tensor([tau], dtype=torch.float64), terms)[0]
    return where.sum(r.cos(), spectrum)


@pytest.mark.parametrize("where", [Sphere(2), Sphere(3), Sphere(5), Rotations()], ids=lambda m: m.name)
@pytest.mark.parametrize("tau", (0.05, 0.5, 3.0))
def test_the_series_is_a_density_with_the_moments_of_brownian_motion(where, tau):
    r, share = quadrature(where)
    value, _ = kernel_at(where, r, tau)
    assert abs(float((value * share).sum()) - 1) < 1e-6
    first = where.sum(r.cos(), torch.tensor([0.0, 1.0], dtype=torch.float64))[0]  # m_1 Z_1, of norm m_1 Z_1(1)
    top = where.sum(torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64))[0]
    left = math.exp(-float(where.eigenvalue(torch.tensor(1.0))) * tau / 2)
    assert abs(float((value * first * share).sum() / top) - left) < 1e-6


def test_the_first_moments_are_those_of_the_papers():
    for name, expected in (
        ("sphere", 1.0),
        ("sphere-5", 2.5),
        ("so3", 1.0),
    ):  # d/2 on S^d; (1 + 2 cos)/3 among rotations
        assert float(manifold(name).eigenvalue(torch.tensor(1.0))) / 2 == expected


def test_on_the_sphere_the_series_is_legendres():
    tau, c = 0.3, np.linspace(-1, 1, 50)
    n = np.arange(40)
    expected = np.polynomial.legendre.legval(c, (2 * n + 1) / (4 * math.pi) * np.exp(-n * (n + 1) * tau / 2))
    x0 = torch.tensor([[0.0, 0, 1]], dtype=torch.float64).expand(50, -1)
    x = torch.tensor(np.stack([np.sqrt(1 - c**2), 0 * c, c], 1))
    np.testing.assert_allclose(Sphere(2).series(x, x0, tau, 40).log_prob.exp().numpy(), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("tau", (0.2, 1.0, 4.0))
def test_rotations_are_half_of_a_sphere_of_twice_the_radius(tau):
    """p(omega) = [K(omega/2) + K(pi - omega/2)] / 8 with the kernel K of the unit S^3 after tau / 4."""
    omega = torch.linspace(0, math.pi, 60, dtype=torch.float64)
    ours = kernel_at(Rotations(), omega, tau)[0] / math.exp(Rotations.log_volume)
    three = Sphere(3)
    halves = [kernel_at(three, r, tau / 4)[0] / math.exp(three.log_volume) for r in (omega / 2, math.pi - omega / 2)]
    torch.testing.assert_close(ours, sum(halves) / 8, atol=1e-13, rtol=1e-9)


@pytest.mark.parametrize("tau", (0.3, 2.0, 6.0, 20.0))
def test_on_the_torus_images_and_series_agree(tau):
    where = Torus(2)
    x, y = where.uniform(SEEDS.spawn(1)), where.uniform(SEEDS.spawn(2))
    series, switch = where.series(x, y, tau, 60), where.heat(x, y, tau)
    for a, b in zip(series, switch, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8 if tau < 1 else 1e-11, rtol=0)
    if tau < 7:
        for a, b in zip(where.images(x, y, tau), switch, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tau", (0.15, 0.7, 5.0))
def test_the_score_is_the_gradient_of_the_log_density(name, tau):
    where = manifold(name)
    x0 = where.uniform(SEEDS.spawn(1))
    x = where.walk(x0, tau, SEEDS.spawn(2), 10)
    v = where.tangent(x, SEEDS.spawn(3).normal_like(x))
    step = 1e-5
    ends = [where.heat(where.exp(x, s * step * v), x0, tau).log_prob for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    score = where.heat(x, x0, tau).score
    torch.testing.assert_close((score * v).sum(1), slope, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(where.tangent(x, score), score, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_at_small_times_the_series_has_varadhans_height(name):
    """Which knows of the volume, of the eigenvalues and of the half in exp(-lambda tau / 2)."""
    where = manifold(name)
    x = where.uniform(SEEDS.spawn(1))[:1]
    for tau in (0.01, 0.02):
        series, limit = where.series(x, x, tau, 120), where.varadhan(x, x, tau)
        curvature = {"sphere": 2, "sphere-3": 6, "so3": 1.5}.get(name, 0)  # scalar, R: log p = Varadhan's + R tau / 12
        assert abs(float(series.log_prob - limit.log_prob) - curvature * tau / 12) < 2 * tau**2
        assert series.score.abs().max() < 1e-9 and limit.score.abs().max() < 1e-9  # at x_0, where arccos has no slope


def error_of_varadhan(tau):
    """Relative error of Varadhan's score on the sphere, in the mean square under the kernel."""
    r, share = quadrature(Sphere(2))
    value, slope = kernel_at(Sphere(2), r, tau)
    ours, weight = -(slope / value) * r.sin(), value * share
    keep = value > 1e-9
    error = (ours + r / tau)[keep].square() * weight[keep]
    return math.sqrt(float(error.sum() / (ours.square() * weight)[keep].sum()))


def test_varadhans_score_is_good_at_small_times_only():
    for tau, expected in ((0.05, 0.009), (0.1, 0.018), (0.2, 0.037), (0.5, 0.11), (1.0, 0.38), (2.0, 1.43)):
        assert error_of_varadhan(tau) == pytest.approx(expected, rel=0.07), tau


def test_a_short_series_fails_at_small_times_and_the_switch_does_not():
    where = Sphere(2)
    x, y = where.uniform(SEEDS.spawn(1)), where.uniform(SEEDS.spawn(2))
    assert where.series(x, y, 0.05, 6).log_prob.isnan().any()  # the sum is negative there
    for threshold, terms in ((0.0, 6), (0.1, 25), (0.0, 25)):
        for tau in (1e-6, 0.01, 0.05, 0.2, 1.0, 30.0):
            heat = where.heat(x, y, tau, threshold, terms)
            assert heat.log_prob.isfinite().all() and heat.score.isfinite().all()


@pytest.mark.parametrize(("name", "ricci"), (("sphere", 1.0), ("sphere-3", 2.0), ("so3", 0.5)))
def test_where_it_switches_both_sides_differ_by_the_curvature(name, ricci):
    """The next term of the limit: the volume's, log p += Ricci r^2 / 12, so Varadhan's score is Ricci tau / 6 too large."""
    where, x0 = manifold(name), manifold(name).uniform(SEEDS.spawn(1))
    x = where.walk(x0, 0.1, SEEDS.spawn(2), 50)
    below, above = where.heat(x, x0, 0.1), where.heat(x, x0, 0.1 + 1e-9)
    error = ((below.score - above.score).square().mean() / above.score.square().mean()).sqrt()
    assert float(error) == pytest.approx(ricci * 0.1 / 6, rel=0.15)
    assert (below.log_prob - above.log_prob).abs().mean() < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_the_walk_has_the_moments_of_brownian_motion(name):
    where = manifold(name)
    rng = Rng.from_seeds(range(6000))
    x0 = where.uniform(rng)
    rate = 0.5 if name.startswith("torus") else float(where.eigenvalue(torch.tensor(1.0))) / 2
    for tau in (0.3, 1.0):
        x = where.walk(x0, tau, rng, 40)
        inner = (x * x0).sum(1) / x0.square().sum(1)
        error = float(inner.mean()) - math.exp(-rate * tau)
        assert abs(error) < 4 * float(inner.std()) / math.sqrt(6000) + 0.004, (tau, error)


@pytest.mark.parametrize("name", NAMES)
def test_the_uniform_law_is_left_as_it_is(name):
    where, rng = manifold(name), Rng.from_seeds(range(6000))
    x = where.walk(where.uniform(rng), 0.5, rng, 3)
    size = float(x[0].square().sum()) / where.ambient
    assert x.mean(0).abs().max() < 5 * math.sqrt(size / 6000)
    assert (x.T @ x / len(x) - size * torch.eye(where.ambient)).abs().max() < 6 * size / math.sqrt(6000)


def test_rotations_walk_as_every_manifold_does():
    """By quaternions, joined in pairs, as by geodesics one after the other: the same law of the distance, even after 5 steps."""
    where, count = Rotations(), 6000
    x = where.uniform(Rng.from_seeds(range(count)))
    for steps in (1, 2, 5):
        far = [
            where.distance(x, walk(x, 1.5, Rng.from_seeds(range(count)).spawn(steps + k), steps)).cos()
            for k, walk in ((0, where.walk), (1, partial(Manifold.walk, where)))
        ]
        a, b = far
        for f in (torch.clone, torch.square):
            error = f(a).mean() - f(b).mean()
            assert abs(float(error)) < 4 * float((f(a).var() + f(b).var()) / count) ** 0.5


def test_a_walk_of_few_steps_is_off_by_what_was_measured():
    """S^2, tau = 1: E[x x_0] = e^-1 in the limit; by 1 and by 5 steps it is E[cos |v|] and its power."""
    where, rng = Sphere(2), Rng.from_seeds(range(8000))
    x0 = where.uniform(rng)
    for steps, expected in ((1, 0.274), (5, 0.355), (20, 0.365)):
        found = (where.walk(x0, 1.0, rng.spawn(steps), steps) * x0).sum(1)
        assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(8000)


def test_the_inverse_distribution_gives_the_kernel_back():
    where = Sphere(2)
    spectrum = where.spectrum(torch.tensor([0.4], dtype=torch.float64), 60)[0]
    r = where.quantile(spectrum, (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)
    assert abs(float(r.cos().mean()) - math.exp(-0.4)) < 1e-4
    assert (r.diff() > 0).all() and r.min() > 0 and r.max() < math.pi
