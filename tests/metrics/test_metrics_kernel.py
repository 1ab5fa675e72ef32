"""Kernel distance: no bias by enumeration, parity with scikit-learn's kernels, closed forms."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from unnoise.errors import UsageProblem
from unnoise.metrics import RBF, cubic, kernel_distance, matrices, median_bandwidth


def by_definition(kxx, kyy, kxy):
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kxx, kyy)]
    return sum(within) - 2 * kxy.mean()


@pytest.mark.parametrize("name", ["cubic", "rbf"])
def test_parity_with_scikit_learn(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), 0.5 + rng.normal(size=(25, 6))
    if name == "cubic":
        kernel, theirs = cubic, lambda a, b: polynomial_kernel(a, b, degree=3, gamma=1 / 6, coef0=1)
    else:
        kernel, theirs = RBF(1.7), lambda a, b: rbf_kernel(a, b, gamma=1 / (2 * 1.7**2))
    expected = by_definition(theirs(x, x), theirs(y, y), theirs(x, y))
    assert kernel_distance(x, y, kernel) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kernel", [cubic, RBF(0.8)], ids=["cubic", "rbf"])
def test_no_bias(kernel):
    """Over every possible pair of samples of two finite laws, the mean estimate is the true squared discrepancy."""
    rng = np.random.default_rng(1)
    p, q = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    draws = product(product(range(3), repeat=2), product(range(4), repeat=3))
    mean = np.mean([kernel_distance(p[list(i)], q[list(j)], kernel) for i, j in draws])
    pp, qq, pq = (kernel(torch.tensor(a), torch.tensor(b)).mean().item() for a, b in ((p, p), (q, q), (p, q)))
    assert mean == pytest.approx(pp + qq - 2 * pq, rel=1e-11)


def test_normal_laws_under_a_gaussian_kernel():
    """E k(x, y) = h / sqrt(h^2 + s) exp(-m^2 / 2 (h^2 + s)) for x - y ~ N(m, s)."""
    h, shift, n = 0.7, 0.9, 3000
    rng = np.random.default_rng(2)
    expected = 2 * h / (h**2 + 2) ** 0.5 * (1 - np.exp(-(shift**2) / (2 * (h**2 + 2))))
    found = [kernel_distance(rng.normal(size=(n, 1)), shift + rng.normal(size=(n, 1)), RBF(h)) for _ in range(4)]
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found, ddof=1) / 2)
    assert np.std(found) < 0.2 * expected


def test_zero_in_the_mean_between_equal_laws_and_so_sometimes_negative():
    rng = np.random.default_rng(3)
    found = [kernel_distance(rng.normal(size=(20, 3)), rng.normal(size=(30, 3))) for _ in range(200)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 4 * np.std(found) / 200**0.5


def test_blocks_give_the_same(monkeypatch):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(70, 3)), rng.normal(size=(90, 3))
    whole = kernel_distance(x, y)
    monkeypatch.setattr(matrices, "CHUNK", 500)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-10)


def test_median_bandwidth():
    assert median_bandwidth(np.array([[0.0], [1.0], [5.0]])) == pytest.approx(4)
    with pytest.raises(UsageProblem, match="two examples that differ"):
        median_bandwidth(np.zeros((5, 2)))


def test_too_few():
    with pytest.raises(UsageProblem, match="at least 2"):
        kernel_distance(np.zeros((1, 2)), np.zeros((3, 2)))
