"""Mixtures of directions: densities, and the fit of data whose mixture is known."""

import math

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.manifolds import manifold
from unnoise.metrics.directional import Directions, log_normaliser
from unnoise.oracles.curved import von_mises_fisher
from unnoise.rng import Rng


def test_each_law_is_a_density():
    for kappa in (0.01, 1.0, 30.0, 3000.0):
        k = torch.tensor(kappa, dtype=torch.float64)
        r = (torch.arange(200_000, dtype=torch.float64) + 0.5) * math.pi / 200_000
        height = (k * (r.cos() - 1) + log_normaliser(k, 3)).exp()
        assert float((height * 2 * math.pi * r.sin()).sum() * math.pi / 200_000) == pytest.approx(1, abs=1e-5)
        flat = (k * (r.cos() - 1) + log_normaliser(k, 2)).exp()
        assert float(2 * flat.sum() * math.pi / 200_000) == pytest.approx(1, abs=1e-5)


def test_the_fit_finds_what_the_data_were_drawn_from():
    where = manifold("sphere")
    centres = torch.tensor([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0]])
    data = von_mises_fisher(where, centres, 20.0, torch.tensor([0.7, 0.3]))
    x = data.sample(Rng.from_seeds(range(3000)))
    found = Directions.fit(x, "sphere", 2)
    order = found.weights.argsort(descending=True)
    torch.testing.assert_close(found.weights[order], torch.tensor([0.7, 0.3]).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(found.centres[order, 0], centres.double(), atol=0.03, rtol=0)
    torch.testing.assert_close(found.kappas[order, 0], torch.full((2,), 20.0).double(), atol=1.5, rtol=0)
    fresh = data.sample(Rng.from_seeds(range(5000, 7000)))
    assert float((found.log_prob(fresh) - data.log_prob(fresh)).mean()) == pytest.approx(0, abs=0.01)


def test_kernels_on_a_torus():
    where = manifold("torus-2")
    x = where.uniform(Rng.from_seeds(range(400)))
    even = Directions.around(x, "torus-2", 0.5)
    assert even.log_prob(x).mean() == pytest.approx(-where.log_volume, abs=0.1)
    with pytest.raises(UsageProblem, match="not for so3"):
        Directions.around(manifold("so3").uniform(Rng.from_seeds([1])), "so3", 1.0)
