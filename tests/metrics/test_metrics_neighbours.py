"""Precision, recall, density, coverage and nearest training neighbours: cases worked out by hand, and brute force."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from unnoise.errors import UsageProblem
from unnoise.metrics import (
    memorisation,
    nearest_neighbour_distance,
    nearest_neighbours,
    precision_recall_density_coverage,
)


def numbers(real, fake, k):
    return astuple(precision_recall_density_coverage(real, fake, k))


def test_by_hand():
    """k = 1: around the reals [-1, 1], [0, 2], [1, 5]; around the fakes [-3.5, 4.5], [0.5, 8.5], [4.5, 13.5].

    Fake 0.5 is in two real balls, 4.5 in one, 9 in none. Every real is in the ball of 0.5, every real ball holds one.
    """
    real, fake = np.array([0.0, 1.0, 3.0]), np.array([0.5, 4.5, 9.0])
    assert numbers(real, fake, 1) == pytest.approx((2 / 3, 1, 3 / 3, 1))


def test_a_dropped_mode_costs_recall_and_coverage_alone():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(50, 2)), 100 + rng.normal(size=(50, 2))
    precision, recall, density, coverage = numbers(np.r_[one, other], np.r_[one, one + 1e-3], 3)
    assert (precision, recall, coverage) == (1, 0.5, 0.5) and density > 1


def test_an_invented_mode_costs_precision_and_density():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(50, 2)), 100 + rng.normal(size=(50, 2))
    precision, recall, _, coverage = numbers(one, np.r_[one, other], 3)
    assert (precision, recall, coverage) == (0.5, 1, 1)


def test_against_scikit_learn():
    rng = np.random.default_rng(2)
    real, fake, k = rng.normal(size=(80, 3)), 0.7 + rng.normal(size=(60, 3)), 4
    radius_real, radius_fake = (NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, k] for x in (real, fake))
    cross = np.linalg.norm(real[:, None] - fake, axis=-1)
    in_real, in_fake = cross <= radius_real[:, None], cross <= radius_fake
    expected = in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1).mean()
    assert numbers(real, fake, k) == pytest.approx(expected, rel=1e-12)


def test_expectations_for_equal_laws():
    """Density is 1; a real ball is empty when its k nearest of both sets together are real: about 2^-k."""
    rng = np.random.default_rng(3)
    found = np.array([numbers(rng.normal(size=(300, 2)), rng.normal(size=(300, 2)), 2) for _ in range(40)])
    error = 4 * found.std(0, ddof=1) / 40**0.5
    n = 300
    coverage = 1 - (n - 1) * (n - 2) / ((2 * n - 1) * (2 * n - 2))
    assert abs(found[:, 2].mean() - 1) < error[2] and abs(found[:, 3].mean() - coverage) < error[3]


def test_equal_sets():
    x = np.random.default_rng(4).normal(size=(30, 2))
    precision, recall, density, coverage = numbers(x, x, 5)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == pytest.approx(6 / 5)  # a real ball holds its own real and the 5 nearest


def test_too_few_for_k():
    with pytest.raises(UsageProblem, match="k = 5 nearest neighbours need more than 5"):
        precision_recall_density_coverage(np.zeros((5, 2)), np.zeros((9, 2)))


def test_nearest_against_scikit_learn():
    rng = np.random.default_rng(5)
    train, samples = rng.normal(size=(200, 10)), rng.normal(size=(300, 10))
    far, index = NearestNeighbors(n_neighbors=1).fit(train).kneighbors(samples)
    distance, found = nearest_neighbours(samples, train)
    assert np.allclose(distance, far[:, 0], rtol=1e-12) and np.array_equal(found, index[:, 0])


def test_a_copy_is_at_distance_zero_exactly():
    train = 1000 + torch.randn(100, 20, generator=torch.Generator().manual_seed(0))
    assert nearest_neighbour_distance(train[:10], train).abs().max() == 0


def test_memorisation_of_copies_and_of_fresh_data():
    rng = np.random.default_rng(6)
    train, held_out, fresh = rng.normal(size=(500, 4)), rng.normal(size=(1000, 4)), rng.normal(size=(1000, 4))
    copies = memorisation(train[:50] + 1e-6, train, held_out)
    assert copies.ratio < 1e-4 and copies.closer == 1
    honest = memorisation(fresh, train, held_out)
    assert honest.expected == 0.05 and abs(honest.closer - 0.05) < 4 * (2 * 0.05 * 0.95 / 1000) ** 0.5
    assert honest.ratio == pytest.approx(1, abs=0.1)
    assert memorisation(held_out, train, held_out).ratio == 1
    half = memorisation(np.r_[train, fresh[:500]], train, held_out)
    assert half.closer == pytest.approx(0.5 + 0.025, abs=0.03)
