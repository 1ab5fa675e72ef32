"""Sliced Wasserstein: one dimension against linear programming and closed forms, more dimensions against geometry."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import norm

from unnoise.errors import UsageProblem
from unnoise.metrics import sliced_wasserstein
from unnoise.metrics.wasserstein import Staircase, directions
from unnoise.rng import stream


def plan_cost(x, y):
    """The optimal transport between two small sets, as the linear programme it is by definition."""
    n, m = len(x), len(y)
    cost = ((x[:, None] - y) ** 2).sum(-1).ravel()
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solved = linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)])
    return solved.fun


def test_equal_counts_in_one_dimension_is_the_best_permutation():
    x, y = np.random.default_rng(0).normal(size=(2, 6))
    best = min(((x - y[list(p)]) ** 2).mean() for p in permutations(range(6)))
    assert sliced_wasserstein(x, y) == pytest.approx(best**0.5, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (3, 7), (4, 6), (8, 4), (5, 5), (6, 1)])
def test_unequal_counts_in_one_dimension_is_the_linear_programme(n, m):
    rng = np.random.default_rng(n * 10 + m)
    x, y = rng.normal(size=(n, 1)), rng.exponential(size=(m, 1))
    assert sliced_wasserstein(x, y) ** 2 == pytest.approx(plan_cost(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(3, 7), (4, 6), (1000, 999), (10, 1000)])
def test_a_staircase_keeps_mean_and_second_moment(n, m):
    """Steps cover the unit interval once, and the variance of y is that between its step means plus that within."""
    y = torch.randn(2, m, generator=stream(n)).double().sort(1).values
    steps = Staircase.of(y, n)
    assert torch.allclose(steps.mean.mean(1), y.mean(1), rtol=1e-12)
    assert torch.allclose(steps.mean.square().mean(1) + steps.variance, y.square().mean(1), rtol=1e-12)


def test_repeating_every_example_changes_nothing():
    x, y = np.random.default_rng(1).normal(size=(2, 20, 3))
    assert sliced_wasserstein(np.repeat(x, 3, 0), x) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(np.repeat(x, 3, 0), y) == pytest.approx(sliced_wasserstein(x, y), rel=1e-12)


def test_gaussians_in_one_dimension():
    """W2^2 of two normals is (m1 - m2)^2 + (s1 - s2)^2."""
    grid = (np.arange(20_000) + 0.5) / 20_000
    assert sliced_wasserstein(norm.ppf(grid), 2 + 3 * norm.ppf(grid)) == pytest.approx(8**0.5, rel=1e-3)


def test_a_shift_is_seen_through_its_component_along_each_line():
    x, shift = np.random.default_rng(2).normal(size=(30, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    lines = directions(4, 64, stream(5)).numpy()
    expected = ((lines @ shift) ** 2).mean() ** 0.5
    assert sliced_wasserstein(x, x + shift, projections=64, seed=5) == pytest.approx(expected, rel=1e-12)
    along = (directions(4, 40_000, stream(6)).numpy() @ shift) ** 2
    assert along.mean() == pytest.approx((shift**2).sum() / 4, abs=4 * along.std() / 200)  # E u u^T = 1/d


def test_never_more_than_the_full_distance():
    x, y = np.random.default_rng(3).normal(size=(2, 12, 3))
    assert sliced_wasserstein(x, y) ** 2 <= plan_cost(x, y)


def test_the_lines_come_from_the_generator_alone():
    x, y = np.random.default_rng(4).normal(size=(2, 12, 3))
    first = sliced_wasserstein(x, y, 16, seed=7)
    assert first == sliced_wasserstein(x, y, 16, generator=stream(7)) != sliced_wasserstein(x, y, 16, seed=8)


def test_lines_are_independent():
    x, y = (torch.randn(3, n, generator=stream(n)).double().sort(1).values for n in (9, 6))
    one_by_one = torch.cat([Staircase.of(y[[i]], 9).transport(x[[i]]) for i in range(3)])
    assert torch.allclose(Staircase.of(y, 9).transport(x), one_by_one, rtol=1e-12)


def test_bad_input_is_told_in_a_sentence():
    with pytest.raises(UsageProblem, match="dimension"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(UsageProblem, match="empty"):
        sliced_wasserstein(np.zeros((0, 2)), np.zeros((3, 2)))
