"""The averages of the weights against their closed forms."""

import math

import numpy as np
import pytest
import torch

from unnoise.training.ema import Averages, halflife_beta, power_gamma


def follow(averages: Averages, weights: torch.Tensor, path: torch.Tensor, batch: int = 1) -> None:
    for step, value in enumerate(path):
        weights.copy_(value)
        averages.update(step, batch)


def test_half_life_without_ramp_up():
    """A weight that jumps from 0 to 1 is 1 - 2^(-images / half-life) in the average."""
    weights = torch.zeros(1, dtype=torch.float64)
    averages = Averages([weights], halflife=300.0, rampup=None)
    follow(averages, weights, torch.ones(75, 1, dtype=torch.float64), batch=8)
    assert averages.values["ema"][0].item() == pytest.approx(1 - 2 ** (-75 * 8 / 300), rel=1e-12)


def test_ramp_up_is_min_of_half_life_and_fraction_of_images():
    assert halflife_beta(64, 0, 500_000, 0.05) == 0  # the first step forgets the initialisation
    assert halflife_beta(64, 64_000, 500_000, 0.05) == 0.5 ** (64 / 3200)
    assert halflife_beta(64, 20_000_000, 500_000, 0.05) == 0.5 ** (64 / 500_000)
    assert halflife_beta(64, 64_000, 1000, None) == 0.5 ** (64 / 1000)


@pytest.mark.parametrize("relative_std", [0.05, 0.1, 0.2])
def test_power_profile_has_the_stated_width(relative_std):
    """The weights that the recursion gives to the states of 1 ... n have the standard deviation relative_std n."""
    n = 1000
    weights = torch.zeros(n, dtype=torch.float64)
    averages = Averages([weights], powers=[relative_std])
    follow(averages, weights, torch.eye(n, dtype=torch.float64))  # component i becomes the weight of step i
    profile = averages.values[f"ema-power-{relative_std:.3f}"][0].numpy()
    tau = np.arange(1, n + 1) / n
    mean = profile @ tau
    assert profile.sum() == pytest.approx(1, abs=1e-12)
    assert math.sqrt(profile @ (tau - mean) ** 2) == pytest.approx(relative_std, rel=5e-3)
    gamma = power_gamma(relative_std)
    continuous = tau**gamma / (tau**gamma).sum()
    assert np.abs(profile - continuous).sum() < 0.02
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), rel=5e-3)


def test_published_exponent():
    assert power_gamma(0.10) == pytest.approx(6.94, abs=0.005)  # EDM2's paper, section 3.1, gives both
    assert power_gamma(0.05) == pytest.approx(16.97, abs=0.005)


def test_swapping_keeps_every_bit():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(5, generator=generator), torch.randn(2, 3, generator=generator)]
    averages = Averages(weights, halflife=10.0, powers=[0.1])
    for step in range(4):
        for w in weights:
            w += torch.randn(w.shape, generator=generator)
        averages.update(step, 4)
    before = [w.clone() for w in weights], [v.clone() for v in averages.values["ema-power-0.100"]]
    with pytest.raises(KeyError), averages.swapped("ema-power-0.100"):
        assert all(torch.equal(w, v) for w, v in zip(weights, before[1], strict=True))
        raise KeyError
    for now, then in zip((weights, averages.values["ema-power-0.100"]), before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True))
