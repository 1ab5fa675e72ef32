"""Six simple steps: the regressions of its chain, the variance that fits them, and the worked example's divergences."""

import math
from dataclasses import replace

import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import Matched
from unnoise.model import Model, train_model
from unnoise.networks import UNetOptions
from unnoise.oracles import gaussian
from unnoise.papers.six_steps import (
    SCHEDULES,
    ChainRegression,
    Pooled,
    SixSteps,
    betas,
    chain,
    gaussian_divergence,
    line_bound,
    line_divergence,
    slope,
    two_modes,
)
from unnoise.processes import Gaussian
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.samplers import Ancestral
from unnoise.schedules import FromBetas, linear_betas
from unnoise.training import TrainingOptions

SMALL = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_by_conditioning_covariances(schedule):
    """a_t, b_t, v_t from the joint covariance of (x^(0), x^(t-1), x^(t)) with x^(0) of unit variance."""
    process, points = chain(schedule, 8)
    for t, s in zip(points[:-2], points[1:-1], strict=True):
        step = t.alpha / s.alpha  # lambda_t
        known = torch.tensor([[1, t.alpha], [t.alpha, 1]], dtype=torch.float64)  # of x^(0), x^(t)
        with_xs = torch.tensor([s.alpha, step * (s.alpha**2 + s.sigma**2)], dtype=torch.float64)
        a, b = torch.linalg.solve(known, with_xs).tolist()
        v = 1 - float(with_xs @ torch.linalg.solve(known, with_xs))
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        assert float(process.posterior(zero, one, t, s).mean) == pytest.approx(a, abs=1e-12)
        assert float(process.posterior(one, zero, t, s).mean) == pytest.approx(b, abs=1e-12)
        assert float(process.posterior(one, zero, t, s).std) ** 2 == pytest.approx(v, abs=1e-12)


def test_schedules_are_those_they_name():
    signal = {name: (1 - betas(name, 10)).cumprod(0) for name in SCHEDULES}
    whole = (1 - linear_betas(1000)).cumprod(0)
    torch.testing.assert_close(signal["linear"], whole[99::100])  # kept levels, with lambdas of their own
    log_snr = (signal["log-snr"] / (1 - signal["log-snr"])).log()
    torch.testing.assert_close(log_snr, torch.linspace(9, -9, 10, dtype=torch.float64))
    assert float(signal["constant"][-1]) == pytest.approx(math.exp(-10)) and betas("constant", 10).std() < 1e-12
    u = (torch.arange(1, 10) / 10 + 0.008) / 1.008 * math.pi / 2
    torch.testing.assert_close(
        signal["cosine"][:-1], u.double().cos() ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    )
    torch.testing.assert_close(betas("linear", 1000), linear_betas(1000))


@pytest.mark.parametrize(
    ("schedule", "variance", "levels", "nats"),
    [
        ("cosine", "matched", 10, 2.3e-2),
        ("cosine", "matched", 20, 4.9e-3),
        ("cosine", "matched", 40, 1.1e-3),
        ("cosine", "large", 20, 2.5e-2),
        ("cosine", "small", 20, 1.7e-2),
        ("cosine", "pointwise", 20, 9.3e-4),
        ("linear", "matched", 20, 2.2e-2),
        ("log-snr", "matched", 20, 2.1e-2),
        ("constant", "matched", 20, 6.9e-1),
    ],
)
def test_divergences_of_the_worked_example(schedule, variance, levels, nats):
    """Two digits that another program found, in numpy, from the formulas of the mixture."""
    assert line_divergence(schedule, levels, variance) == pytest.approx(nats, rel=0.06)


def test_two_modes_are_standardised():
    data = two_modes()
    assert float(data.mean) == pytest.approx(0, abs=1e-12) and float(data.covariance) == pytest.approx(1)
    torch.testing.assert_close(data.means[:, 0], torch.tensor([-0.798, 1.197], dtype=torch.float64), atol=6e-4, rtol=0)


def test_pooled_variance_is_the_mean_over_states():
    process, _ = chain("cosine", 10)
    data, t = two_modes(), 0.6
    rng = Rng.from_seeds(range(5000))
    xt = process.corrupt(data.sample(rng), process.point(t), rng)
    told = torch.full((5000,), t, dtype=torch.float64)
    variance = data.denoiser(process)(xt, told).variance
    assert float(Pooled(data, process)(xt, told).variance[0]) == pytest.approx(float(variance.mean()), rel=0.03)
    several = gaussian(torch.zeros(2), torch.tensor([0.5, 2.0]))
    found = Pooled(several, process)(torch.zeros(3, 2, dtype=torch.float64), told[:3])
    point = process.point(t)
    exact = [v * point.sigma**2 / (point.alpha**2 * v + point.sigma**2) for v in (0.5, 2.0)]
    assert float(found.variance[1, 1]) == pytest.approx(sum(exact) / 2)


def test_matched_variance_is_the_best_number():
    """Scaling s_t^2 of all inner levels by 0.9 or 1.1 raises the chain's bound: log s + (v + a^2 E) / (2 s^2)."""
    process, points = chain("cosine", 20)
    denoiser, x = Pooled(two_modes(), process), torch.zeros(1, 1, dtype=torch.float64)
    for t, s in zip(points[:-2], points[1:-1], strict=True):
        told = torch.full((1,), t.t, dtype=torch.float64)
        best = float(Ancestral(variance="optimal").law(process, denoiser(x, told), x, t, s).std[0]) ** 2
        v = float(process.posterior(x, x, t, s).std) ** 2
        a = float(process.posterior(x, x + 1, t, s).mean)
        needed = v + a**2 * float(denoiser.pooled(told))
        cost = [0.5 * math.log(k * best) + needed / (2 * k * best) for k in (0.9, 1.0, 1.1)]
        assert cost[1] == min(cost) and best == pytest.approx(needed, rel=1e-9)


def test_the_bound_lies_above_the_divergence_and_closes():
    gaps = {}
    for levels in (10, 20, 40):
        bound, entropy = line_bound("cosine", levels)
        gaps[levels] = bound - entropy
        assert gaps[levels] > line_divergence("cosine", levels)
    assert gaps[10] > gaps[20] > gaps[40] > 0


def test_gaussian_divergence_falls_with_the_square_of_the_levels():
    spectrum = torch.tensor([4.0, 1.0, 0.2], dtype=torch.float64)
    found = {n: gaussian_divergence("cosine", n, spectrum) for n in (40, 80, 160)}
    assert slope(found) == pytest.approx(2, abs=0.2)
    assert gaussian_divergence("constant", 40, spectrum) > 3 * found[40]


def untrained(loss="simple", timesteps=20):
    recipe = SixSteps(network=SMALL, timesteps=timesteps, loss=loss)
    spec = Spec((1, 8, 8), levels=17)
    model = Model(recipe, spec)
    for parameter in model.denoiser.parameters():  # the last layer starts at 0, and the guess with it
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    return model.denoiser.eval(), recipe.objective(spec)


def test_variational_loss_is_the_fall_of_snr():
    denoiser, objective = untrained("variational")
    x0 = load("digits").batch(range(32)).x
    rng = Rng.for_step(0, 0, range(32))
    loss = objective(denoiser, x0, None, rng)
    again = Rng.for_step(0, 0, range(32))
    t, _ = objective.bound.times.sample(denoiser.process, again)
    error = (denoiser(denoiser.process.corrupt(x0, t, again), t).mean - x0).square().flatten(1).sum(1)
    snr = [denoiser.process.schedule.log_snr(u).exp() for u in (t - 1 / 20, t)]
    nats = (snr[0] - snr[1]) / 2 * error
    inner = t > 1.5 / 20
    torch.testing.assert_close(
        loss.per_example[inner].double(), 20 * nats[inner] / (64 * math.log(2)), rtol=1e-4, atol=1e-6
    )


def test_regressions_on_draws_have_the_denoisers_mean():
    """At the same levels and states: the mean over draws of x^(t-1), within four standard errors, and a larger variance."""
    (denoiser, plain), (_, denoising) = untrained("regression"), untrained("variational")
    x0 = load("digits").batch(range(4)).x.repeat(500, 1, 1, 1)
    rng = Rng([(0, i // 4 * 0 + i % 4, i) for i in range(2000)])
    t = torch.full((2000,), 0.5, dtype=torch.float64)
    xt = denoiser.process.corrupt(x0[:4], t[:4], Rng.from_seeds(range(4))).repeat(500, 1, 1, 1)
    guess = denoiser(xt, t)
    for objective in (plain, denoising):
        objective.bound.times.sample = lambda process, rng: (t, torch.ones_like(t))
    process = denoiser.process
    process.corrupt = lambda x, when, rng: xt
    with torch.no_grad():
        drawn = plain(denoiser, x0, None, rng).per_example.double().reshape(500, 4)
        mean = denoising(denoiser, x0, None, rng).per_example.double().reshape(500, 4)
    assert guess.mean.shape == x0.shape and mean.std(0).max() < 1e-3 * mean.mean()
    assert float(((drawn.mean(0) - mean[0]) / (drawn.std(0) / 500**0.5)).abs().max()) < 4
    assert float(drawn.std(0).min()) > 0


def test_errors_are_running_means_of_the_clipped_guess():
    process = Gaussian(FromBetas(betas("cosine", 4)))
    denoiser = Matched(torch.nn.Identity(), process, None, levels=4, memory=3)
    x0, t = torch.zeros(2, 1, 1, 1), torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert denoiser.errors.tolist() == [1, 1, 1, 1]
    denoiser.learn(t, torch.tensor([0.5, 7.0]).reshape(2, 1, 1, 1), x0)  # errors 0.25, and 1 for the clipped
    assert denoiser.errors.tolist() == [1, 0.625, 1, 1] and denoiser.visits.tolist() == [0, 2, 0, 0]
    denoiser.learn(t[:1], torch.zeros(1, 1, 1, 1), x0[:1])
    assert denoiser.errors[1].item() == pytest.approx(1.25 / 3)  # still the mean of all three
    denoiser.learn(t[:1], torch.ones(1, 1, 1, 1), x0[:1])
    assert denoiser.errors[1].item() == pytest.approx(1.25 / 3 + (1 - 1.25 / 3) / 3)  # then of the last few


def test_a_trained_model_knows_its_errors(tmp_path):
    """After some seconds on digits: the table is saved, near the errors on the training images, and used in sampling."""
    training = TrainingOptions(steps=150, batch_size=64, lr=3e-3, ema=2000, precision="fp32")
    recipe = replace(SixSteps(), data="digits", network=SMALL, timesteps=8, sampling_steps=8, training=training)
    model, _ = train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    denoiser, x0 = model.denoiser, load("digits").batch(range(300)).x
    assert int(denoiser.visits.sum()) == 150 * 64
    with torch.no_grad():
        for level in (2, 5, 7):
            t = torch.full((300,), level / 8, dtype=torch.float64)
            guess = denoiser(denoiser.process.corrupt(x0, t, Rng.from_seeds(range(300))), t)
            error = float((guess.mean.clamp(-1, 1) - x0).square().mean())
            assert float(guess.variance[0, 0, 0, 0]) == pytest.approx(error, rel=0.25)
    assert model.sample(range(2)).isfinite().all()
    assert isinstance(recipe.objective(model.spec), ChainRegression)
