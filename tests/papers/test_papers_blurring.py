"""Blurring: inverse heat dissipation, the case with a faint noise that never changes."""

from dataclasses import replace

import pytest
import torch

from unnoise.data import load
from unnoise.errors import UsageProblem
from unnoise.model import Model
from unnoise.networks import UNetOptions
from unnoise.papers.blurring import GRAINIER, Blurring
from unnoise.papers.cold import ColdDiffusion
from unnoise.processes.gaussian import CLEAN
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.samplers import Naive

NETWORK = UNetOptions(channels=8, mult=(1,), blocks=1, attention=())
IHDM = Blurring(data="digits", grain=0.02, blur=4.0, network=NETWORK, sampling_steps=20)
DIGITS = Spec.of(load("digits"))


def blurred(x: torch.Tensor, width: float) -> torch.Tensor:
    """By the heat equation for a time width^2 / 2, in small steps with mirrored borders: no cosines."""
    steps = 4000
    for _ in range(steps if width else 0):
        p = torch.nn.functional.pad(x, (1, 1, 1, 1), "replicate")
        around = p[..., 1:-1, 2:] + p[..., 1:-1, :-2] + p[..., 2:, 1:-1] + p[..., :-2, 1:-1]
        x = x + width**2 / 2 / steps * (around - 4 * x)
    return x


def test_the_guess_adds_the_output_to_the_state():
    """F = alpha_s x_0 - x_t: a network that says nothing leaves the state, at the blur of the step before."""
    denoiser = IHDM.denoiser(DIGITS)
    process, t = denoiser.process, torch.tensor([1.0, 0.5, 0.05]).double()
    x = load("digits").batch(range(3)).x.double()
    xt = process.corrupt(x, t, Rng.from_seeds(range(3)))
    before = process.at(t - 1 / 20, xt).alpha
    torch.testing.assert_close(before * process.state(denoiser(xt, t).mean), xt, atol=1e-9, rtol=0)


def test_the_loss_is_the_error_of_the_next_state():
    denoiser, objective = IHDM.denoiser(DIGITS), IHDM.objective(DIGITS)
    process, x = denoiser.process, load("digits").batch(range(4)).x.double()
    loss = objective(denoiser, x, None, Rng.from_seeds(range(4)))
    rng = Rng.from_seeds(range(4))
    t, _ = objective.times.sample(process, rng)
    xt = process.marginal(x, t).sample(rng)
    target = process.at(t - 1 / 20, xt).alpha * process.state(x) - xt  # the network starts at 0
    torch.testing.assert_close(loss.per_example, target.square().mean((1, 2, 3)), rtol=1e-6, atol=0)


def test_the_blur_is_the_heat_equations():
    process, x = IHDM.process((24, 24)), torch.zeros(1, 1, 24, 24).double()
    x[..., 6:14, 4:18] = 1.0
    point = process.point(0.6)
    width = 4.0 * torch.sin(torch.tensor(torch.pi * 0.3)) ** 2
    found = process.data(process.marginal(x, point).mean)
    assert float(point.sigma) == pytest.approx(0.02) and (found - blurred(x, float(width))).abs().max() < 0.01


def test_samples_begin_with_blurred_images_and_end_without_noise():
    first, _ = IHDM.begin(DIGITS, [3, 4], None)
    again, _ = IHDM.begin(DIGITS, [4], None)
    assert first is not None and again is not None
    assert torch.equal(first[1], again[0]) and not torch.equal(first[0], first[1])
    fine = first[..., 5:, 5:]
    assert fine.std() < 3 * 0.02 * GRAINIER
    assert Blurring(data="digits", network=NETWORK).begin(DIGITS, [0], None) == (None, ())
    x = Model(IHDM, DIGITS).sample(range(3))
    assert x.shape == (3, 1, 8, 8) and x.isfinite().all()


def test_the_noise_of_a_naive_step_can_be_spread():
    process, x0 = IHDM.process((8, 8)), torch.zeros(1, 1, 8, 8)
    law = Naive(spread=1.25).law(process.anew(x0, x0, None, process.point(0.5)))
    assert float(law.std) == pytest.approx(0.025)
    assert Naive(spread=1.25).law(process.anew(x0, x0, None, CLEAN)).std == 0
    with pytest.raises(UsageProblem, match="adds no noise"):
        Naive(spread=2.0).check(replace(ColdDiffusion(), data="digits").denoiser(DIGITS).process)
