"""One Brownian path for all step counts, and the orders of stochastic members in law; along the path: test_laws_stochastic."""

import math

import pytest
import torch
from probes import moments, slope

from unnoise.oracles import gaussian
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.samplers import SEEDS, Brownian, SDEDPMSolverMultistep
from unnoise.schedules import EDM

PROCESS = Gaussian(EDM(80.0))
LIKE = torch.zeros(1, 4000, dtype=torch.float64)


def path(kappa=1.0, seed=0, **options):
    return Brownian(Rng.from_seeds([seed]), (4000,), kappa, **options)


@pytest.mark.parametrize("kappa", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("steps", [3, 40, 2000])
def test_increments_are_standard_and_independent(kappa, steps):
    """Also with several points in one piece of the last level (2000 steps)."""
    walk, at = path(kappa), [-3 + 6 * i / steps for i in range(steps + 1)]
    draws = torch.stack([walk.normal(a, b, LIKE)[0] for a, b in zip(at[:-1], at[1:], strict=True)][-40:])
    assert float(draws.mean(1).abs().max()) < 5 / 4000**0.5
    assert float((draws.square().mean(1) - 1).abs().max()) < 5 * (2 / 4000) ** 0.5
    correlation = draws @ draws.T / 4000 - torch.eye(len(draws), dtype=torch.float64) * draws.square().mean(1)
    assert float(correlation.abs().max()) < 5.5 / 4000**0.5


@pytest.mark.parametrize("kappa", [1.0, -1.0])
def test_the_path_is_the_same_whatever_the_steps(kappa):
    coarse, fine = path(kappa), path(kappa)
    a = coarse.normal(-3.0, 3.0, LIKE)
    at = [-3 + 6 * i / 32 for i in range(33)]
    clock = [math.exp(2 * kappa * l) for l in at]
    parts = [
        fine.normal(x, y, LIKE) * abs(v - u) ** 0.5 for x, y, u, v in zip(at, at[1:], clock, clock[1:], strict=False)
    ]
    whole = torch.stack(parts).sum(0) / abs(clock[-1] - clock[0]) ** 0.5
    torch.testing.assert_close(whole, a, rtol=0, atol=1e-10)  # aligned with the pieces of the tree
    assert not torch.equal(path(kappa, seed=1).normal(-3.0, 3.0, LIKE), a)


def test_a_walk_may_begin_in_pure_noise():
    walk = path()
    first, second = walk.normal(-math.inf, -2.0, LIKE), walk.normal(-2.0, 0.0, LIKE)
    assert float((first.square().mean() - 1).abs()) < 0.12 and abs(float((first * second).mean())) < 0.08


def levels(steps, top=-1.5, low=1.6):
    half_log_snr = [top + (low - top) * i / steps for i in range(steps + 1)]
    return PROCESS.points(PROCESS.schedule.time(2 * torch.tensor(half_log_snr, dtype=torch.float64)))


@pytest.mark.parametrize(
    "step, exact",
    [
        (SEEDS(1), True),
        (SEEDS(2), True),
        (SEEDS(2, "velocity"), True),
        (SEEDS(3), False),
        (SEEDS(3, "eps"), False),
        (SDEDPMSolverMultistep(1), True),
        (SDEDPMSolverMultistep(2), True),
        (SDEDPMSolverMultistep(3), False),
        (SDEDPMSolverMultistep(3, "eps"), False),
    ],
    ids=str,
)
def test_order_in_law(step, exact):
    """On Gaussian data the sampler is affine: its variance, exactly. The stages of SEEDS share one path, or this is 1 for all."""
    denoiser, errors, counts = gaussian(torch.zeros(1).double(), 0.25).denoiser(PROCESS), [], (40, 80, 160)
    for steps in counts:
        points = levels(steps)
        draws = getattr(step, "stages", 1)
        _, variance = moments(denoiser, step, points, 0.0, 0.25 + points[0].sigma ** 2, draws)
        errors.append(abs(variance - 0.25 - points[-1].sigma ** 2))
    if exact:
        assert slope(errors, counts) == pytest.approx(step.weak_order, abs=0.15), errors
    else:  # an order more of the deterministic part helps while steps are large
        assert slope(errors, counts) > step.weak_order - 0.15, errors


def test_a_disturbed_state_is_the_mean_and_its_noise():
    """The numbers of `normal_like`, in memory that is used again: what was given away before stays as it is."""
    mean = torch.linspace(-1, 1, 3 * 2 * 40).reshape(3, 2, 40)
    one, other = Rng.from_seeds([5, 7, 9]), Rng.from_seeds([5, 7, 9])
    kept = one.normal(2, 40)
    first, second = one.disturb(mean, 0.3), one.disturb(mean, 0.0)
    last, shorter = one.disturb(mean, torch.full((3, 1, 1), 2.0)), one.disturb(mean[..., :8], 1.0)
    assert torch.equal(kept, other.normal(2, 40))
    assert torch.equal(first, torch.add(mean, other.normal(2, 40), alpha=0.3))
    assert torch.equal(second, mean) and other.normal(2, 40).shape == mean.shape
    assert torch.equal(last, mean + 2.0 * other.normal(2, 40))
    assert torch.equal(shorter, mean[..., :8] + other.normal(2, 8))
    assert torch.equal(one.normal(2, 40), other.normal(2, 40))


def test_a_sum_never_writes_into_its_terms():
    from unnoise.scalars import combine

    x, y, z = (torch.full((3,), v) for v in (1.0, 2.0, 3.0))
    for first in (1.0, 1, 2.0, torch.tensor(1.0)):
        total = combine((first, x), (0.5, y), (torch.tensor(2.0), z), (1.0, y))
        assert torch.equal(total, torch.full((3,), float(first) + 1.0 + 6.0 + 2.0))
    assert [v[0].item() for v in (x, y, z)] == [1.0, 2.0, 3.0]
    assert combine((1.0, x)) is x
