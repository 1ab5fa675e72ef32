"""Reverse-SDE steps, correctors and ladders: moments in closed form, published numbers, parity with diffusers."""

import math

import pytest
import torch
from probes import OneHot, moments, slope

from unnoise.errors import UsageProblem
from unnoise.oracles import gaussian
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.samplers import (
    Ancestral,
    AnnealedLangevin,
    Denoise,
    Euler,
    EulerMaruyama,
    Heun,
    Karras,
    Ladder,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Uniform,
    sample,
)
from unnoise.samplers.ladder import best_step, largest_distance, overlap, settled_variance, spacing
from unnoise.schedules import VE, Cosine, FromBetas, LinearVP, Rectified, SubVP, linear_betas

VARIANCE = 0.25
CHAIN = FromBetas(linear_betas(1000))


def oracle(schedule, variance=VARIANCE, dims=1):
    return gaussian(torch.zeros(dims).double(), variance).denoiser(Gaussian(schedule))


class Given(Rng):
    """The noise it is given."""

    def __init__(self, z):
        super().__init__([])
        self.z = z

    def normal(self, *event, dtype=torch.float64):
        return self.z.to(dtype)


def variance_after(denoiser, step, points, variance):
    """Of a sampler of at most two draws a step."""
    return moments(denoiser, step, points, 0.0, variance, draws=2)[1]


def walk(process, steps, top, low):
    return process.points([top + (low - top) * i / steps for i in range(steps + 1)])


STEPS = [
    *(part(noise=noise) for part in (EulerMaruyama, ReverseDiffusion) for noise in (0.0, 0.5, 1.5)),
    PredictorCorrector(EulerMaruyama(), AnnealedLangevin(corrections=1, h=1e-7)),
]


@pytest.mark.parametrize("schedule", [SubVP(), Cosine()], ids=["sub-VP", "cosine"])
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_weak_order_is_one_for_every_amount_of_noise(step, schedule):
    process, counts, errors = Gaussian(schedule), (60, 120, 240), []
    a, b = process.points([0.9, 0.25])
    for steps in counts:
        found = variance_after(
            oracle(schedule), step, walk(process, steps, 0.9, 0.25), VARIANCE * a.alpha**2 + a.sigma**2
        )
        errors.append(abs(found - VARIANCE * b.alpha**2 - b.sigma**2))
    assert slope(errors, counts) == pytest.approx(1, abs=0.2), errors


def test_without_noise_euler_maruyama_is_euler():
    denoiser = oracle(LinearVP())
    x, points = torch.tensor([[1.0], [-0.3]], dtype=torch.float64), walk(Gaussian(LinearVP()), 7, 0.9, 0.1)
    ours, euler = (
        sample(denoiser, step, lambda _: points, x.shape, start=x, dtype=torch.float64)
        for step in (EulerMaruyama(0.0), Euler())
    )
    torch.testing.assert_close(ours, euler)
    assert EulerMaruyama(0.0).order == 1 and EulerMaruyama().order is None


def test_euler_maruyama_of_vp():
    """Reverse SDE of VP, data N(0, 1/4): variance errors 5.9e-3, 2.9e-3 at N = 250, 500."""
    process = Gaussian(LinearVP())
    low, errors = process.point(1e-3), []
    end = VARIANCE * low.alpha**2 + low.sigma**2
    for steps in (250, 500):
        points = walk(process, steps, 1.0, 1e-3)
        errors.append(abs(variance_after(oracle(LinearVP()), EulerMaruyama(), points, 1.0) / end - 1))
    assert slope(errors, (250, 500)) == pytest.approx(1, abs=0.1)
    assert errors == pytest.approx([5.9e-3, 2.9e-3], rel=0.08)


def test_reverse_diffusion_of_the_chains():
    """x_mean = (2 - sqrt(1 - b)) x + b s, noise sqrt(b) of a chain; x + (s_i^2 - s_j^2) s of VE; half of it without noise."""
    x, z = torch.tensor([[0.7], [-1.2]], dtype=torch.float64), torch.tensor([[0.25], [-0.5]], dtype=torch.float64)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    for schedule, s, t in ((CHAIN, 0.499, 0.5), (VE(), 0.6, 0.62)):
        denoiser = oracle(schedule)
        process = denoiser.process
        at, below = process.points([t, s])
        score = denoiser.score(x, torch.full((2,), t, dtype=torch.float64))
        b = float(betas[499]) if schedule is CHAIN else at.sigma**2 - below.sigma**2
        kept = math.sqrt(1 - b) if schedule is CHAIN else 1.0
        denoise = Denoise(denoiser, 2, None, torch.device("cpu"))
        out, _ = ReverseDiffusion().step(denoise, x, at, below, None, Given(z))
        torch.testing.assert_close(out, (2 - kept) * x + b * score + b**0.5 * z, rtol=1e-9, atol=1e-12)
        flow, _ = ReverseDiffusion(noise=0.0).step(denoise, x, at, below, None, Given(z))
        torch.testing.assert_close(flow, (2 - kept) * x + b / 2 * score, rtol=1e-9, atol=1e-12)
        large, small = Ancestral(variance="large"), Ancestral()
        ancestral, _ = (large if schedule is CHAIN else small).step(denoise, x, at, below, None, Given(z))
        std = (
            b**0.5 if schedule is CHAIN else (below.sigma**2 * b / at.sigma**2) ** 0.5
        )  # score-sde's two ancestral steps
        torch.testing.assert_close(ancestral, (x + b * score) / kept + std * z, rtol=1e-9, atol=1e-12)


def test_the_chains_flow_is_biased():
    """On N(0, 1) the exact flow is the identity; the reverse-diffusion one of 1000 steps stretches by 1.0170."""
    chain = FromBetas(0.1 / 1000 + (20 - 0.1) / 1000 * (torch.arange(1, 1001).double() / 1000))
    points = Gaussian(chain).points([i / 1000 for i in range(1000, 0, -1)])
    found = variance_after(oracle(chain, 1.0), ReverseDiffusion(noise=0.0), points, 1.0) ** 0.5
    assert found == pytest.approx(1.0170, abs=4e-4)


def test_parity_with_diffusers_on_ve():
    """ScoreSdeVeScheduler: its prediction is reverse diffusion, its correction Langevin with the batch's mean norms."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=2000, snr=0.15, sigma_min=0.01, sigma_max=50.0)
    scheduler.set_timesteps(20)
    scheduler.set_sigmas(20, 0.01, 50.0)
    x = 30 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    score = -x / 900
    i = 6
    theirs = scheduler.step_pred(
        score, scheduler.timesteps[i], x, generator=torch.Generator().manual_seed(1)
    ).prev_sample
    # its table of sigmas is geometric from sigma_min up; this timestep's entry and the one below
    k = int((scheduler.timesteps[i] * (len(scheduler.timesteps) - 1)).long())
    high, low = float(scheduler.discrete_sigmas[k]), float(scheduler.discrete_sigmas[k - 1])
    process = Gaussian(VE())
    at, below = process.points(process.schedule.time(torch.tensor([-2 * math.log(high), -2 * math.log(low)]).double()))

    class Fixed(type(oracle(VE()))):
        def forward(self, xt, t, cond=None):
            from unnoise.laws import Estimate

            return Estimate(xt + at.sigma**2 * score)

    fixed = Fixed(oracle(VE()).mixture, process)
    denoise = Denoise(fixed, 3, None, torch.device("cpu"))
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    ours, _ = ReverseDiffusion().step(denoise, x, at, below, None, Given(z))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-3)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    theirs = scheduler.step_correct(score, x, generator=torch.Generator().manual_seed(2)).prev_sample
    ours = Langevin(snr=0.15, norm="batch").correct(denoise, x, at, None, Given(z))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-3)


def test_stationary_variance_of_langevin():
    """v <- (1 - e/v)^2 v + 2 e settles at v / (1 - e / (2 v)): exactly, by the linear map of many corrections."""
    schedule, t, h = VE(), 0.5, 0.2
    point = Gaussian(schedule).point(t)
    denoise_of = lambda n: Denoise(oracle(schedule, 0.0), n, None, torch.device("cpu"))  # noqa: E731
    n = 121
    x = torch.zeros(n, 1, dtype=torch.float64)
    x[0] = 3 * point.sigma
    out = AnnealedLangevin(corrections=n - 1, h=h).correct(denoise_of(n), x, point, h, OneHot(n, 1))
    assert float(out.square().sum()) == pytest.approx(point.sigma**2 / (1 - h / 2), rel=1e-9)
    few = AnnealedLangevin(corrections=5, h=h).correct(denoise_of(6), x[:6], point, h, OneHot(6, 1))
    assert float(few.square().sum()) / point.sigma**2 == pytest.approx(settled_variance(h, 3.0, 5), rel=1e-9)


def test_langevin_of_many_numbers_settles_at_the_ladders_variance():
    """By the rule of norms e = 2 (r |z| / |s|)^2, stationary variance v / (1 - r^2): +2.6% for r = 0.16."""
    n, dims = 12, 4000
    denoiser, point = oracle(VE(), VARIANCE, dims), Gaussian(VE()).point(0.5)
    v = VARIANCE + point.sigma**2
    rng = Rng.from_seeds(range(n))
    x = v**0.5 * rng.normal(dims, dtype=torch.float64)
    denoise = Denoise(denoiser, n, None, torch.device("cpu"))
    for norm in ("example", "batch"):
        out = Langevin(corrections=120, norm=norm).correct(denoise, x, point, None, rng)
        assert float(out.var() / v) == pytest.approx(1 / (1 - 0.16**2), abs=5 * (2 / (n * dims)) ** 0.5)


def test_order_of_correction():
    """First at t, as published; or last at s, as written, but not at clean data."""
    seen = []

    class Watch(Langevin):
        name = ""

        def correct(self, denoise, x, t, state, rng):
            seen.append(t.t)
            return x

    denoiser = oracle(VE())
    points = Uniform(3)(denoiser.process)
    for first, expected in (("corrector", [1.0, 2 / 3, 1 / 3]), ("predictor", [2 / 3, 1 / 3])):
        seen.clear()
        step = PredictorCorrector(corrector=Watch(corrections=2), first=first)
        sample(denoiser, step, lambda _: points, (1, 1))
        assert seen == pytest.approx(expected)
        assert step.evaluations(3) == 3 + 2 * len(expected)
    assert PredictorCorrector(Heun(), Langevin()).evaluations(10) == 29


def test_annealed_langevin_ends_with_the_guess_or_the_state():
    ladder = Ladder(5.0, 0.05, 30)
    denoiser = oracle(ladder.process().schedule)
    guess, state = (
        sample(denoiser, AnnealedLangevin(10, denoise, h=0.1), ladder.grid(), (400, 1), dtype=torch.float64)
        for denoise in (True, False)
    )
    low = torch.full((400,), 1 / 30, dtype=torch.float64)  # the last level
    torch.testing.assert_close(guess, denoiser(state, low).mean, rtol=1e-9, atol=1e-12)
    assert float(guess.var()) == pytest.approx(VARIANCE, rel=0.5)
    assert AnnealedLangevin(10, h=0.1).evaluations(30) == 301 and AnnealedLangevin(10, False).evaluations(30) == 300


# Ladders


@pytest.mark.parametrize(
    "levels, top, dimension, gamma, share",
    [(232, 50, 3072, 1.03756, 0.5670), (500, 90, 12288, None, 0.5669), (2311, 348, 196608, None, 0.5669)],
)
def test_published_ladders(levels, top, dimension, gamma, share):
    ladder = Ladder(top, 0.01, levels)
    assert overlap(ladder.gamma, dimension) == pytest.approx(share, abs=1e-3)
    if gamma is not None:
        assert ladder.gamma == pytest.approx(gamma, abs=1e-5)
    assert spacing(dimension, overlap(ladder.gamma, dimension)) == pytest.approx(ladder.gamma, rel=1e-9)


def test_spacing_and_published_steps():
    assert spacing(3072, 0.5) == pytest.approx(1.0397964, abs=1e-6)
    assert overlap(1.6681, 3072) == pytest.approx(0, abs=1e-12)  # NCSN's ten levels
    for gamma, corrections, expected in (
        (Ladder(50, 0.01, 232).gamma, 5, 6.18e-6),
        (Ladder(90, 0.01, 500).gamma, 5, 3.34e-6),
        (Ladder(190, 0.01, 1086).gamma, 3, 1.77e-6),
        (Ladder(348, 0.01, 2311).gamma, 3, 8.93e-7),
        (Ladder(140, 0.01, 788).gamma, 4, 2.31e-6),
    ):
        h = best_step(gamma, corrections)
        assert h * 1e-4 == pytest.approx(expected, rel=3e-3)
        assert all(
            settled_variance(h, gamma, corrections) <= settled_variance(h * k, gamma, corrections) for k in (0.9, 1.1)
        )
    assert settled_variance(0.062, Ladder(50, 0.01, 232).gamma, 5) == pytest.approx(1.05547, abs=1e-5)


def test_a_ladder_for_data():
    data = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ladder = Ladder.design(data, sigma_min=0.02)
    flat = data.flatten(1).double()
    assert (
        ladder.sigma_max
        == pytest.approx(float((flat[:, None] - flat).norm(dim=2).max()), rel=1e-6)
        == largest_distance(data)
    )
    steps = math.log(ladder.sigma_max / 0.02) / math.log(spacing(64))
    assert abs(ladder.levels - 1 - steps) <= 0.5  # a whole number of levels
    ratios = [p.ratio for p in ladder.grid()(ladder.process())[:-1]]
    assert ratios[0] == pytest.approx(ladder.sigma_max) and ratios[-1] == pytest.approx(0.02)
    assert [a / b for a, b in zip(ratios, ratios[1:], strict=False)] == pytest.approx(
        [ladder.gamma] * (ladder.levels - 1)
    )
    denoise = Denoise(oracle(VE()), 1, None, torch.device("cpu"))
    chosen = AnnealedLangevin().init(denoise, data, ladder.grid()(ladder.process()))
    assert chosen == pytest.approx(best_step(ladder.gamma, 5), rel=1e-6)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: EulerMaruyama(noise=-1.0), "noise is -1"),
        (lambda: Langevin(snr=0.0), "snr"),
        (lambda: Langevin(norm="sum"), "example or batch"),
        (lambda: AnnealedLangevin(h=2.5), "h is 2.5"),
        (lambda: AnnealedLangevin(corrections=0), "at least 1"),
        (lambda: PredictorCorrector(corrector=Heun()), "no corrector"),
        (lambda: PredictorCorrector(predictor=Langevin()), "no predictor"),
        (lambda: PredictorCorrector(first="last"), "corrector or predictor"),
        (lambda: spacing(3), "3 dimensions"),
        (lambda: Ladder.design(torch.zeros(3, 64)), "sigma_min"),
        (lambda: sample(oracle(Rectified()), EulerMaruyama(), Uniform(4), (1, 1)), "no signal is left"),
        (lambda: sample(oracle(Rectified()), ReverseDiffusion(), Uniform(4), (1, 1)), "no signal is left"),
        (lambda: sample(oracle(VE()), AnnealedLangevin(), Karras(1), (1, 1)), "give h"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()
