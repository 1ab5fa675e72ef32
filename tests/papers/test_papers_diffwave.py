"""DiffWave: its steps against public code, fast sampling, and the vocoder from a file to a file."""

import wave
from dataclasses import replace

import numpy as np
import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import Denoiser
from unnoise.errors import UsageProblem
from unnoise.generate import generate
from unnoise.laws import Estimate
from unnoise.mel import SPEECH
from unnoise.model import Model, train_model
from unnoise.networks import WaveNetOptions
from unnoise.papers.diffwave import DiffWave
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.samplers import Ancestral, Integers, Reduced, sample
from unnoise.samplers.reduced import DIFFWAVE, DIFFWAVE_LARGE
from unnoise.training import TrainingOptions

TINY = WaveNetOptions(channels=8, layers=4, cycle=4)
FIFTY = DiffWave(timesteps=50)  # the chain of BASE
QUICK = TrainingOptions(steps=6, batch_size=4, preview_every=0, precision="fp32", checkpoint_every=6)


class Predicts(Denoiser):
    """eps = rule(x_t, index), the index counted from 0."""

    def __init__(self, process, rule):
        super().__init__()
        self.process, self.rule = process, rule

    def forward(self, xt, t, cond=None):
        point = self.process.at(t, xt)
        eps = self.rule(xt, t * self.process.schedule.steps - 1)
        return Estimate((xt - point.sigma * eps) / point.alpha)


def wave_of(x, index):
    return torch.tanh(x + 0.02 * index[:, None, None])


def test_a_reverse_step_is_that_of_diffusers():
    from diffusers import DDPMScheduler

    process = FIFTY.process()
    theirs = DDPMScheduler(50, 1e-4, 0.05, "linear", variance_type="fixed_small", clip_sample=False)
    x = torch.linspace(-2, 2, 64, dtype=torch.float64).reshape(1, 1, 64)
    for index in (49, 20, 1, 0):
        eps = wave_of(x, torch.tensor([float(index)], dtype=torch.float64))
        there = theirs.step(eps, index, x, generator=torch.Generator().manual_seed(0))
        t, s = (process.point((i + 1) / 50) for i in (index, index - 1))
        law = Ancestral().law(process, Predicts(process, wave_of)(x, torch.tensor([t.t], dtype=torch.float64)), x, t, s)
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (index > 0)
        torch.testing.assert_close(law.mean + law.std * z, there.prev_sample, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("recipe", "variances"), [(FIFTY, DIFFWAVE), (DiffWave(largest=0.02), DIFFWAVE_LARGE)])
def test_six_steps_are_the_published_loop(recipe, variances):
    """The published algorithm, written out with numpy's interpolation, on the same noise."""
    betas = np.linspace(1e-4, recipe.largest, recipe.timesteps)
    trained, short = np.sqrt(np.cumprod(1 - betas)), np.cumprod(1 - np.array(variances))
    index = np.interp(-np.sqrt(short), -trained, np.arange(recipe.timesteps))
    start = torch.linspace(-2, 2, 32, dtype=torch.float64).reshape(1, 1, 32)
    rng, x = Rng.from_seeds([5]), start
    for s in reversed(range(6)):
        eps = wave_of(x, torch.tensor([index[s]]))
        x = (x - variances[s] / np.sqrt(1 - short[s]) * eps) / np.sqrt(1 - variances[s])
        if s:
            x = x + np.sqrt((1 - short[s - 1]) / (1 - short[s]) * variances[s]) * rng.normal_like(x)
    grid = Reduced(6, variances)
    found = sample(
        Predicts(recipe.process(), wave_of),
        Ancestral(),
        grid,
        start.shape,
        start=start,
        rng=Rng.from_seeds([5]),
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_all_the_trained_betas_are_the_trained_steps():
    process = FIFTY.process()
    betas = tuple(torch.linspace(1e-4, 0.05, 50, dtype=torch.float64).tolist())
    for a, b in zip(Reduced(50, betas)(process), Integers(50)(process), strict=True):
        assert a.t == pytest.approx(b.t, abs=1e-9) and a.alpha == pytest.approx(b.alpha, abs=1e-12)


def test_a_chain_that_ends_in_more_noise_than_was_trained_is_refused_when_built():
    with pytest.raises(UsageProblem, match="never saw less"):
        DiffWave(timesteps=50, variances=DIFFWAVE_LARGE)
    assert DiffWave(largest=0.02, variances=DIFFWAVE_LARGE).sampling().grid.steps == 6
    with pytest.raises(UsageProblem, match="between 0 and 1"):
        DiffWave(timesteps=50, variances=(0.1, 1.5))


def test_options_that_do_not_go_together_are_told():
    with pytest.raises(UsageProblem, match="no label"):
        DiffWave(vocode=True)
    with pytest.raises(UsageProblem, match="make them equal"):
        DiffWave(vocode=True, conditional=False)
    with pytest.raises(UsageProblem, match="2 or more"):
        DiffWave(timesteps=1)
    with pytest.raises(UsageProblem, match="no labels"):
        DiffWave().denoiser(Spec((1, 64), kind="sound", rate=8000))
    data = load("spoken-digits")
    with pytest.raises(UsageProblem, match="has 8000 Hz"):
        replace(DiffWave.vocoder(), mel=replace(SPEECH, rate=16_000)).fitted(data)


@torch.no_grad()
def test_a_network_of_zeros_makes_the_best_linear_guess():
    """x_0' = alpha d^2 / (alpha^2 d^2 + sigma^2) x_t for words of deviation d, by a loss of 1 wherever the noise is: the share
    that such a guess leaves is what the network is asked for."""
    data = load("spoken-digits")
    recipe, spec = DiffWave(network=TINY), Spec.of(data)
    denoiser, x = recipe.denoiser(spec), data.batch(range(256)).x
    d2 = float(x.double().square().mean())
    assert d2**0.5 == pytest.approx(spec.std, rel=0.03)
    for i in (1, 5, 40, 200):
        t = torch.full((256,), i / 200, dtype=torch.float64)
        point, xt = recipe.process().point(i / 200), recipe.process().corrupt(x, t, Rng.from_seeds(range(256)))
        guess = point.alpha * spec.std**2 / (point.alpha**2 * spec.std**2 + point.sigma**2) * xt
        torch.testing.assert_close(denoiser(xt, t, {"label": data.labels[:256]}).mean, guess, rtol=1e-5, atol=1e-6)
        told = denoiser.preconditioning.c_noise(t, torch.zeros(()))
        assert float(told[0]) == pytest.approx(i - 1)
    loss = recipe.objective(spec)(denoiser, x, {"label": data.labels[:256]}, Rng.from_seeds(range(256)))
    assert float(loss.per_example.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("preset", DiffWave.presets)
def test_presets_build_and_give_sounds_back(preset):
    recipe = DiffWave.preset(preset)
    spec = Spec((1, 16_384), tuple("0123456789"), kind="sound", rate=22_050)
    with torch.device("meta"):
        denoiser = recipe.denoiser(spec)
        cond = {"label": torch.zeros(2, dtype=torch.int64)} if recipe.conditional else None
        if recipe.vocode:
            cond = {"mel": torch.zeros(2, recipe.mel.bands, recipe.mel.frames(16_384))}
        assert denoiser.network(torch.zeros(2, 1, 16_384), torch.zeros(2), cond).shape == (2, 1, 16_384)
    assert DiffWave.from_dict(recipe.as_dict()) == recipe


def test_the_vocoder_goes_from_a_file_to_a_file(tmp_path):
    recipe = replace(DiffWave.vocoder(), network=replace(TINY, upsample=(8, 8)), training=QUICK, variances=DIFFWAVE)
    model, _ = train_model(recipe, load("spoken-digits"), tmp_path / "run", preview=False)
    assert model.recipe.mel == replace(SPEECH, scale="decibel")
    word = tmp_path / "word.wav"
    data = load("spoken-digits", "held-out")
    with wave.open(str(word), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((data.batch([7]).x * 32768).to(torch.int16).numpy().tobytes())
    again = Model.load(tmp_path / "run")
    told = model.sample([7], prompt=str(word), precision="fp32")
    torch.testing.assert_close(again.sample([7], precision="fp32"), told)  # unprompted: the held-out word of the seed
    assert not torch.allclose(again.sample([7], prompt=str(word)), again.sample([8], prompt=str(word)))
    generate(again, tmp_path / "out", 2, prompt=str(word), format="wav", precision="fp32")
    with wave.open(str(tmp_path / "out" / "sound" / "00000001.wav")) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (8000, 4096, 1)
    assert (tmp_path / "out" / "grid.png").exists()


def test_words_are_told_by_their_class(tmp_path):
    recipe = DiffWave(network=TINY, training=QUICK, variances=DIFFWAVE)
    model, result = train_model(recipe, load("spoken-digits"), tmp_path / "run", preview=False)
    assert result.steps == 6
    x = model.sample(range(2), label=3, precision="fp32")
    assert x.shape == (2, 1, 4096) and x.isfinite().all()
    with pytest.raises(UsageProblem, match="no vocoder"):
        model.sample([0], prompt="a.wav")


@torch.no_grad()
@pytest.mark.parametrize("predict", ["noise", "rest"])
def test_it_learns_words_in_seconds(tmp_path, predict):
    """The error of the guess where the noise is twice as loud as the words, relative to that of the best linear guess."""
    training = TrainingOptions(
        steps=150, batch_size=8, lr=5e-3, ema=400, precision="fp32", preview_every=0, checkpoint_every=150
    )
    network = WaveNetOptions(channels=8, layers=4, cycle=4, upsample=(8, 8))
    recipe = replace(DiffWave.vocoder(), network=network, training=training, crop=512, predict=predict)
    with torch.enable_grad():
        model, result = train_model(recipe, load("spoken-digits"), tmp_path / "run", preview=False)
    assert result.steps == 150
    batch, process = load("spoken-digits", "held-out").batch(range(48)), model.denoiser.process
    variance = float(batch.x.var())
    t = process.schedule.time(torch.tensor(-2 * np.log(2 * variance**0.5))).expand(48)
    xt = process.corrupt(batch.x, t, Rng.from_seeds(range(48)))
    told = model.denoiser(xt, t, model.recipe.condition(batch)).mean
    assert float((told - batch.x).square().mean()) < 0.8 * variance * 4 / 5
