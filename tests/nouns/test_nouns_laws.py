"""Laws: samples, densities and divergences against torch.distributions and closed forms."""

import math

import pytest
import torch
from torch import distributions as D

from unnoise.errors import UsageProblem
from unnoise.laws import Categorical, Dirac, Estimate, Law, Normal, sum_event
from unnoise.rng import Rng


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("std", [0.3, numbers(2, 3, 4, seed=5).abs() + 0.1, numbers(2, 1, 1, seed=6).abs() + 0.1])
def test_normal(std):
    mean, x = numbers(2, 3, 4), numbers(2, 3, 4, seed=1)
    reference = D.Independent(D.Normal(mean, torch.as_tensor(std, dtype=torch.float64).expand_as(mean)), 2)
    law = Normal(mean, std)
    torch.testing.assert_close(law.log_prob(x), reference.log_prob(x), rtol=1e-12, atol=1e-12)
    other = Normal(x, 0.7)
    expected = D.kl_divergence(reference, D.Independent(D.Normal(x, 0.7), 2))
    torch.testing.assert_close(law.kl(other), expected, rtol=1e-12, atol=1e-12)
    assert law.kl(law).tolist() == [0, 0]
    sample = law.sample(Rng.from_seeds([0, 1]))
    torch.testing.assert_close(sample, mean + std * Rng.from_seeds([0, 1]).normal(3, 4).double())


def test_normal_samples_have_its_moments():
    n = 100_000
    x = Normal(torch.full((1, n), 0.3, dtype=torch.float64), 0.5).sample(Rng.from_seeds([4]))
    assert abs(float(x.mean()) - 0.3) < 5 * 0.5 / n**0.5
    assert abs(float(x.var()) / 0.25 - 1) < 5 * (2 / n) ** 0.5


def test_no_noise_draws_no_numbers():
    rng = Rng.from_seeds([0, 1])
    mean = numbers(2, 3)
    assert Normal(mean, 0.0).sample(rng) is mean and Dirac(mean).sample(rng) is mean
    assert torch.equal(rng.normal(3), Rng.from_seeds([0, 1]).normal(3))


def test_tiny_divergences_keep_their_digits():
    """KL of nearly equal laws: 1/2 (m/s)^2, not the difference of large numbers."""
    a, b = Normal(torch.zeros(1, 1).double(), 1e-3), Normal(torch.full((1, 1), 1e-9, dtype=torch.float64), 1e-3)
    assert float(a.kl(b)) == pytest.approx(0.5 * 1e-12, rel=1e-3)


@pytest.mark.parametrize("event", [(), (3,), (2, 2)])
def test_categorical(event):
    logits = numbers(4, *event, 5)
    law = Categorical(logits.log_softmax(-1))
    reference = D.Independent(D.Categorical(logits=logits), len(event))
    x = law.sample(Rng.from_seeds(range(4)))
    assert x.shape == (4, *event) and x.dtype == torch.int64
    torch.testing.assert_close(law.log_prob(x), reference.log_prob(x), rtol=1e-12, atol=1e-12)
    other = numbers(4, *event, 5, seed=2).log_softmax(-1)
    expected = D.kl_divergence(reference, D.Independent(D.Categorical(logits=other), len(event)))
    torch.testing.assert_close(law.kl(Categorical(other)), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(law.mean, logits.softmax(-1))


def test_categorical_samples_have_its_frequencies_and_never_the_impossible():
    p = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    n = 100_000
    law = Categorical(p.log().expand(1, n, 6))
    counts = torch.bincount(law.draw(Rng.from_seeds([0]))[0], minlength=6).double()
    assert not counts[p == 0].any()
    assert float(((counts / n - p)[p > 0] / (p * (1 - p) / n).sqrt()[p > 0]).abs().max()) < 5
    assert float(law.kl(law)) == 0  # 0 log 0 = 0


def test_estimate():
    mean, variance = numbers(2, 3), numbers(2, 3, seed=1) ** 2
    rng = Rng.from_seeds([0, 1])
    assert Estimate(mean).sample(rng) is mean and Estimate(mean, variance).draw(rng) is mean
    z = Rng.from_seeds([0, 1]).normal(3).double()
    torch.testing.assert_close(Estimate(mean, variance).sample(Rng.from_seeds([0, 1])), mean + variance.sqrt() * z)


def test_sum_event():
    assert sum_event(torch.ones(2, 3, 4)).tolist() == [12, 12]
    assert sum_event(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    "ask",
    [
        lambda a, b: a.kl(b),
        lambda a, b: b.kl(a),
        lambda a, b: Dirac(a.mean).kl(a),
        lambda a, b: Dirac(a.mean).log_prob(a.mean),
        lambda a, b: Estimate(a.mean).log_prob(a.mean),
    ],
)
def test_what_does_not_exist_is_refused(ask):
    with pytest.raises(UsageProblem, match=r"does not exist|no density"):
        ask(Normal(torch.zeros(1, 2), 1.0), Categorical(torch.zeros(1, 2, 1)))
    assert issubclass(Dirac, Law)


def test_density_integrates_to_one():
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    p = Normal(torch.full_like(x, 0.4), 0.8).log_prob(x).exp()
    assert float(p.sum() * (x[1] - x[0])) == pytest.approx(1, abs=1e-10)
    assert math.isclose(float(p.max()), 1 / (0.8 * math.sqrt(2 * math.pi)), rel_tol=1e-4)
