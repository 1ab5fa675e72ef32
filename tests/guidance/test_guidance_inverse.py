"""Linear inverse problems on normal data, whose law given a measurement is normal, too, and known."""

import pytest
import torch

from unnoise.denoisers import (
    Denoiser,
    Guided,
    Measurement,
    colourisation,
    enlargement,
    imputation,
    inpainting,
    measured,
)
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.oracles import gaussian
from unnoise.processes import DCT, Gaussian, Process
from unnoise.rng import Rng
from unnoise.samplers import DDIM, SAMPLERS, Ancestral, DPMSolverMultistep, Heun, LogSNR, Uniform, sample
from unnoise.schedules import VE, LinearVP, Rectified

EVENT, D = (1, 2, 3), 6
random = torch.Generator().manual_seed(5)
ROOT = torch.randn(D, D, generator=random, dtype=torch.float64) * 0.4
COV = ROOT @ ROOT.T + 0.05 * torch.eye(D)
MEAN = torch.randn(D, generator=random, dtype=torch.float64) * 0.3
KNOWN = torch.tensor([[[True, False, True], [True, False, False]]])
MIX = torch.randn(3, D, generator=random, dtype=torch.float64)  # any operator, its rows as they fall
TRUTH = torch.randn(1, *EVENT, generator=random, dtype=torch.float64)


class Correlated(Denoiser):
    """The exact denoiser of N(mean, cov), of any covariance: mean + alpha cov (alpha^2 cov + sigma^2)^-1 (x - alpha mean)."""

    def __init__(self, process, mean=MEAN, cov=COV):
        super().__init__()
        self.process, self.mean, self.cov = process, mean, cov

    def forward(self, xt, t, cond=None):
        point = self.process.at(t, xt)
        rows = []
        for x, a, s in zip(xt.flatten(1), point.alpha.flatten(), point.sigma.flatten(), strict=True):
            gain = a * self.cov @ torch.linalg.inv(a**2 * self.cov + s**2 * torch.eye(D, dtype=torch.float64))
            rows.append(self.mean + gain @ (x - a * self.mean))
        return Estimate(torch.stack(rows).reshape(xt.shape).to(xt))


def mixed(x):
    return x.flatten(1) @ MIX.T.to(x)


def conditional(matrix, y, std, mean=MEAN, cov=COV):
    """Mean and covariance of N(mean, cov) given y = matrix x + std N(0, 1)."""
    inner = torch.linalg.inv(matrix @ cov @ matrix.T + std**2 * torch.eye(len(matrix), dtype=torch.float64))
    gain = cov @ matrix.T @ inner
    return mean + gain @ (y - matrix @ mean), cov - gain @ matrix @ cov


PROBLEMS = {
    "mask": (inpainting(TRUTH, KNOWN), torch.eye(D, dtype=torch.float64)[KNOWN.flatten()], TRUTH.flatten()[KNOWN.flatten()]),
    "any operator": (Measurement(mixed(TRUTH), mixed), MIX, mixed(TRUTH)[0]),
    "any operator, noise": (Measurement(mixed(TRUTH), mixed, 0.3), MIX, mixed(TRUTH)[0]),
}  # fmt: skip
SCHEDULES = {"VP": LinearVP(), "VE": VE(), "rectified": Rectified()}
N = 5
T = torch.linspace(0.05, 0.95, N, dtype=torch.float64)


def states(process):
    x = torch.randn(N, *EVENT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * (1 + process.at(T, x).sigma)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_the_jacobian_the_guess_is_the_conditional_mean(problem, schedule):
    """Of x_0 given both x_t and y, for normal data of any covariance."""
    measurement, matrix, y = PROBLEMS[problem]
    process = Gaussian(SCHEDULES[schedule])
    guess = measured(measurement, "jacobian", iterations=2 * D)(Correlated(process))(states(process), T).mean
    mean, cov = conditional(matrix, y, measurement.std)
    want = Correlated(process, mean, cov)(states(process), T).mean
    torch.testing.assert_close(guess, want, rtol=0, atol=1e-7)
    assert float((want - Correlated(process)(states(process), T).mean).abs().max()) > 0.1


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_equal_variances_it_is_exact_for_data_that_have_them(problem, schedule):
    measurement, matrix, y = PROBLEMS[problem]
    process, variance = Gaussian(SCHEDULES[schedule]), 0.4
    plain = gaussian(MEAN.reshape(EVENT), variance).denoiser(process)
    guess = measured(measurement, variance=variance)(plain)(states(process), T).mean
    mean, cov = conditional(matrix, y, measurement.std, cov=variance * torch.eye(D, dtype=torch.float64))
    want = Correlated(process, mean, cov)(states(process), T).mean
    torch.testing.assert_close(guess, want, rtol=0, atol=1e-9)


SOLVERS = sorted(
    name
    for name, step in SAMPLERS.items()
    if issubclass(Gaussian, step.needs) and name not in ("fitted", "bridge-flow")
)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_sampler_samples_the_conditional_law(name):
    """The same noise through the guided model and through the exact model of the conditional law."""
    measurement, matrix, y = PROBLEMS["any operator, noise"]
    process = Gaussian(LinearVP())
    led = measured(measurement, "jacobian", iterations=D)(Correlated(process))
    exact = Correlated(process, *conditional(matrix, y, measurement.std))
    one, two = (sample(d, SAMPLERS[name](), LogSNR(6), (3, *EVENT), dtype=torch.float64) for d in (led, exact))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def affine(denoiser, steps=400):
    """Mean and covariance of samples from N(0, I), by a solver of order 2: it is affine in where it starts."""
    start = torch.cat([torch.zeros(1, D), torch.eye(D)]).double().reshape(D + 1, *EVENT)
    x = sample(denoiser, DPMSolverMultistep(2), LogSNR(steps), start.shape, start=start, dtype=torch.float64).flatten(1)
    slopes = x[1:] - x[0]
    return x[0], slopes.T @ slopes


def test_what_is_exact_and_what_is_not():
    """Half of a correlated vector is known. By the Jacobian the rest has its conditional law; by projection it is biased: too
    near its unconditional mean, with the right measurement all the same."""
    measurement, matrix, y = PROBLEMS["mask"]
    process = Gaussian(LinearVP())
    mean, cov = conditional(matrix, y, 0)
    exact_mean, exact_cov = affine(measured(measurement, "jacobian", iterations=D)(Correlated(process)))
    assert float((exact_mean - mean).abs().max()) < 0.01 and float((exact_cov - cov).abs().max()) < 0.01
    known = KNOWN.flatten()
    near_mean, near_cov = affine(measured(measurement)(Correlated(process)))
    assert float((near_mean - mean)[known].abs().max()) < 1e-6 and float(near_cov[known][:, known].abs().max()) < 1e-6
    gap = float((near_mean - mean)[~known].norm())
    without = float((MEAN - mean)[~known].norm())
    assert 0.05 * without < gap < 0.9 * without, (gap, without)


def test_measurements_without_noise_are_met_exactly():
    process = Gaussian(LinearVP())
    for covariance in ("equal", "jacobian"):
        for measurement, matrix, y in (PROBLEMS["mask"], PROBLEMS["any operator"]):
            guess = measured(measurement, covariance, 1)(Correlated(process))(states(process), T).mean
            torch.testing.assert_close(guess.flatten(1) @ matrix.T, y.expand(N, -1), rtol=0, atol=1e-9)


def test_without_noise_equal_variances_project():
    process = Gaussian(LinearVP())
    plain = Correlated(process)(states(process), T).mean.flatten(1)
    for measurement, matrix, y in (PROBLEMS["mask"], PROBLEMS["any operator"]):
        guess = measured(measurement)(Correlated(process))(states(process), T).mean.flatten(1)
        want = plain + (y - plain @ matrix.T) @ torch.linalg.pinv(matrix).T
        torch.testing.assert_close(guess, want, rtol=0, atol=1e-9)


def test_colour_and_size():
    images = torch.rand(3, 3, 4, 4, generator=random, dtype=torch.float64) * 2 - 1
    process = Gaussian(LinearVP())
    plain = gaussian(torch.zeros(3, 4, 4), 0.3).denoiser(process)
    xt, t = torch.randn(3, 3, 4, 4, generator=random, dtype=torch.float64), torch.full((3,), 0.4, dtype=torch.float64)
    before = plain(xt, t).mean
    grey = measured(colourisation(images))(plain)(xt, t).mean
    torch.testing.assert_close(grey.mean(1), images.mean(1))
    torch.testing.assert_close(
        grey - grey.mean(1, keepdim=True), before - before.mean(1, keepdim=True)
    )  # colour: as it was
    small = torch.nn.functional.avg_pool2d(images, 2)
    large = measured(enlargement(small, 2))(plain)(xt, t).mean
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 2), small)
    squares = (large - before).unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert float((squares - squares[..., :1]).abs().max()) < 1e-12  # moved by squares


def test_a_process_in_another_basis():
    """Noise of its own for each frequency is not needed: the basis alone must be undone rightly."""
    process = Gaussian(LinearVP(), DCT())
    frequencies = torch.rand(EVENT, generator=random, dtype=torch.float64) + 0.05
    basis = torch.stack([process.state(e.reshape(1, *EVENT)).flatten() for e in torch.eye(D, dtype=torch.float64)], 1)
    cov = basis.T @ torch.diag(frequencies.flatten()) @ basis
    plain = gaussian(torch.zeros(EVENT), frequencies).denoiser(process)
    measurement, matrix, y = PROBLEMS["any operator, noise"]
    guess = measured(measurement, "jacobian", iterations=D)(plain)(states(process), T).mean
    mean, cov = conditional(matrix, y, measurement.std, torch.zeros(D, dtype=torch.float64), cov)
    want = Correlated(Gaussian(LinearVP()), mean, cov)(process.data(states(process)), T).mean
    torch.testing.assert_close(guess, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("covariance", ["equal", "jacobian"])
def test_examples_do_not_depend_on_each_other(covariance):
    process = Gaussian(LinearVP())
    led = measured(PROBLEMS["any operator"][0], covariance)(Correlated(process))
    whole = led(states(process), T).mean
    parts = torch.cat([led(states(process)[i : i + 1], T[i : i + 1]).mean for i in range(N)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-10)
    own = Measurement(mixed(states(process)), mixed)  # a measurement each
    whole = measured(own, covariance)(Correlated(process))(states(process), T).mean
    torch.testing.assert_close(mixed(whole), own.y, rtol=0, atol=1e-9)


def test_no_signal_and_thresholds():
    process = Gaussian(Rectified())
    led = measured(PROBLEMS["mask"][0], "jacobian")(Correlated(process))
    x = sample(led, Heun(), Uniform(5), (2, *EVENT), dtype=torch.float64)
    torch.testing.assert_close(x[:, KNOWN], TRUTH[:, KNOWN].expand(2, -1))
    raw = Guided(Correlated(process), lambda inner, xt, t, cond: Estimate(xt.clamp(-1, 1), xt, xt, unclipped=xt))
    guess = measured(PROBLEMS["mask"][0])(raw)(states(process), T)
    torch.testing.assert_close(guess.unclipped - states(process), guess.mean - states(process).clamp(-1, 1))
    assert guess.variance is None and torch.equal(guess.fraction, states(process))


def published_imputation(denoiser, measurement, known, grid, shape, rng, fresh):
    """score-sde's order of things: predict, then set the known part of the state to alpha y + sigma z."""
    process, step = denoiser.process, Ancestral()
    points = grid(process)
    x = process.prior(shape, points[0]).sample(rng).double()
    for t, s in zip(points[:-1], points[1:], strict=True):
        z = fresh.normal_like(x)
        x = torch.where(known, t.alpha * measurement.y + t.sigma * z, x)
        times = torch.full((len(x),), t.t, dtype=torch.float64)
        x0 = denoiser(x, times).mean
        law = step.law(process, Estimate(x0), x, t, s)
        x = law.mean if s.is_clean else law.sample(rng)
    return torch.where(known, measurement.y, x)


def test_imputation_is_the_published_one():
    process, measurement = Gaussian(LinearVP()), PROBLEMS["mask"][0]
    shape, seeds = (4, *EVENT), range(4)
    led = imputation(measurement, Rng.from_seeds(seeds).spawn(9))(Correlated(process))
    ours = sample(led, Ancestral(), LogSNR(20), shape, rng=Rng.from_seeds(seeds), dtype=torch.float64)
    theirs = published_imputation(
        Correlated(process),
        measurement,
        KNOWN,
        LogSNR(20),
        shape,
        Rng.from_seeds(seeds),
        Rng.from_seeds(seeds).spawn(9),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_projection_holds_the_state_at_the_noised_measurement():
    """alpha y + sigma eps, with eps the walk's own: what imputation draws afresh."""
    process, measurement = Gaussian(LinearVP()), PROBLEMS["mask"][0]
    led, kept = measured(measurement)(Correlated(process)), []
    points = LogSNR(9)(process)
    sample(led, DDIM(), lambda _: points, (2, *EVENT), watch=lambda i, p, x: kept.append((p, x)), dtype=torch.float64)
    first, x = kept[0]
    eps = ((x - first.alpha * TRUTH) / first.sigma)[:, KNOWN]
    for point, x in kept[1:]:
        torch.testing.assert_close(x[:, KNOWN], point.alpha * TRUTH[:, KNOWN] + point.sigma * eps, rtol=0, atol=1e-9)


VP = Gaussian(LinearVP())


class Jumps(Process):
    pass


class Guess(Denoiser):
    process = Jumps()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: measured(Measurement(torch.zeros(2, 3), mixed))(Correlated(VP))(states(VP), T), "one for all, or one"),
        (lambda: measured(Measurement(torch.zeros(1, 4), mixed))(Correlated(VP))(states(VP), T), "do not fit a batch"),
        (lambda: measured(Measurement(TRUTH, lambda x: x + 1))(Correlated(VP))(states(VP), T), "must be linear"),
        (lambda: Measurement(TRUTH, mixed, -1.0), "-1.0, but must have 0"),
        (lambda: inpainting(TRUTH, torch.ones_like(KNOWN)), "something to paint"),
        (lambda: inpainting(TRUTH, torch.zeros_like(KNOWN)), "something to paint"),
        (lambda: colourisation(TRUTH), "three channels can be given colour, not of 1"),
        (lambda: enlargement(TRUTH, 1), "is 1, but must be 2"),
        (lambda: measured(PROBLEMS["mask"][0], "exact"), "unknown covariance 'exact'"),
        (lambda: measured(PROBLEMS["mask"][0], iterations=0), "iterations is 0"),
        (lambda: measured(PROBLEMS["mask"][0])(Guess()), "process is Jumps"),
        (
            lambda: imputation(PROBLEMS["mask"][0], Rng.from_seeds([0]))(Correlated(VP))(states(VP), T),
            "1 streams .* 5 ex",
        ),
        (
            lambda: imputation(PROBLEMS["mask"][0], Rng.from_seeds([0]))(Correlated(Gaussian(LinearVP(), DCT()))),
            "one noise level for all",
        ),
    ],
)
def test_mistakes(build, says):
    with pytest.raises(UsageProblem, match=says):
        build()
