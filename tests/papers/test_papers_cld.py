"""Critically damped Langevin diffusion as a paper: presets, and a network that learns digits in seconds."""

from dataclasses import replace

import pytest
import torch

from unnoise.data import load
from unnoise.model import Model, train_model
from unnoise.networks import UNetOptions
from unnoise.papers import find
from unnoise.recipe import Sampling, Spec
from unnoise.rng import Rng
from unnoise.samplers import DDIM, RK45, SSCS, Ancestral, EulerMaruyama, Heun, Quadratic
from unnoise.training import TrainingOptions

SMALL = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_presets_see_a_velocity_and_give_an_image(preset):
    recipe = find("cld").preset(preset)
    with torch.device("meta"):
        denoiser = recipe.denoiser(Spec((3, 32, 32)))
        output = denoiser.network(torch.zeros(2, 6, 32, 32), torch.zeros(2), None)
    assert output.shape == (2, 3, 32, 32)
    assert denoiser.told == ("log t" if preset == "paper" else "t")


def test_options_choose_the_sampler():
    recipe = find("cld")()
    assert recipe.sampling() == Sampling(SSCS(), Quadratic(100, end=1e-3))
    assert replace(recipe, sampler="sscs-2").sampling().step == SSCS(2)
    assert replace(recipe, sampler="euler-maruyama", striding="linear").sampling().grid.name == "uniform"
    assert isinstance(recipe.paper().sampling().step, RK45)


@torch.no_grad()
def held_out_error(model):
    """Mean square error of the guess of held-out digits at t = 0.2, over that of the best affine guess from u of their variance."""
    data = load("digits", "held-out")
    x0, process = data.batch(range(len(data))).x, model.denoiser.process
    t = torch.full((len(x0),), 0.2, dtype=torch.float64)
    error = model.denoiser(process.corrupt(x0, t, Rng.from_seeds(range(len(x0)))), t).mean - x0
    snr, variance = float(process.point(0.2).snr), float(x0.var())
    return float(error.square().mean()) / (variance / (1 + snr * variance))


def test_it_learns_digits_in_seconds(tmp_path):
    training = TrainingOptions(steps=120, batch_size=64, lr=3e-3, ema=2000, precision="fp32", checkpoint_every=60)
    recipe = replace(find("cld")(), data="digits", network=SMALL, training=training)
    model, result = train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    assert result.steps == 120
    assert held_out_error(model) < 0.6  # a network that learned only the scale of the data has 1
    loaded = Model.load(tmp_path / "run")
    for step in (SSCS(), SSCS(2), EulerMaruyama(), Ancestral(), DDIM(), Heun()):
        few = Sampling(step, Quadratic(8, end=1e-3))
        images = model.sample(range(4), few)
        assert images.shape == (4, 1, 8, 8) and images.isfinite().all()
        torch.testing.assert_close(loaded.sample([2], few)[0], images[2], atol=2e-2, rtol=0)
