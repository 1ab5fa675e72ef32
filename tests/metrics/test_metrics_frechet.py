"""Frechet distance: closed forms, and cases where roots of matrices go wrong."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from unnoise.errors import UsageProblem
from unnoise.metrics import Moments, frechet_distance


def covariance(rng, d, rank=None):
    a = rng.normal(size=(d, rank or d))
    return a @ a.T / d


def test_one_dimension():
    assert frechet_distance(Moments.known([1.0], [[4.0]]), Moments.known([-2.0], [[25.0]])) == pytest.approx(9 + 9)


def test_commuting_covariances_give_the_distance_of_the_deviations():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    known = [Moments.known(np.zeros(3), q @ np.diag(v) @ q.T) for v in (a, b)]
    assert frechet_distance(*known) == pytest.approx(((a**0.5 - b**0.5) ** 2).sum(), rel=1e-12)


def test_agrees_with_the_matrix_square_root_where_that_is_sound():
    rng = np.random.default_rng(1)
    c1, c2, m1, m2 = covariance(rng, 7), covariance(rng, 7), rng.normal(size=7), rng.normal(size=7)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(Moments.known(m1, c1), Moments.known(m2, c2)) == pytest.approx(expected, rel=1e-9)


def test_it_is_the_cost_of_the_optimal_map():
    """A symmetric positive definite A moves x to A x + b optimally, so the distance is what that map costs."""
    rng = np.random.default_rng(2)
    x, b = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=4)
    a = covariance(rng, 4) + 0.1 * np.eye(4)
    move = x @ a + b - x
    expected = (move.mean(0) ** 2).sum() + move.var(0, ddof=1).sum()
    assert frechet_distance(x, x @ a + b) == pytest.approx(expected, rel=1e-10)


def test_singular_covariances():
    flat, upright = np.diag([4.0, 0.0]), np.diag([0.0, 9.0])
    assert frechet_distance(Moments.known([0, 0], flat), Moments.known([0, 0], upright)) == pytest.approx(13, abs=1e-12)
    point = Moments.known([3, 4], np.zeros((2, 2)))
    assert frechet_distance(Moments.known([0, 0], flat), point) == pytest.approx(29, abs=1e-12)


def test_fewer_examples_than_dimensions():
    """Features that live on a few axes of a large space are as far apart as they are on those axes."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 5)), 2 * rng.normal(size=(30, 5)) + 1
    embed = np.linalg.qr(rng.normal(size=(200, 5)))[0].T
    assert frechet_distance(x @ embed, y @ embed) == pytest.approx(frechet_distance(x, y), rel=1e-7)
    many = rng.normal(size=(10, 300))
    assert frechet_distance(many, many) == pytest.approx(0, abs=1e-9)


def test_symmetric_and_of_torch_or_numpy():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(60, 3))
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(torch.tensor(y), torch.tensor(x)), rel=1e-10)
    assert np.allclose(Moments.of(x).cov, np.cov(x.T), rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "word"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), "dimension"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "at least 2"),
        (np.zeros((0, 2)), np.zeros((3, 2)), "empty"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "finite"),
    ],
)
def test_bad_input_is_told_in_a_sentence(x, y, word):
    with pytest.raises(UsageProblem, match=word):
        frechet_distance(x, y)
