"""Law 4: every sampler with an oracle gives the data back. Law 9: rank, type, batch and seed change nothing."""

from dataclasses import replace

import laws_parts as parts
import pytest
import torch

from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.processes import Gaussian, Process
from unnoise.rng import Rng
from unnoise.samplers import (
    GRIDS,
    Ancestral,
    Churn,
    Corrector,
    Euler,
    EulerMaruyama,
    Heun,
    Integers,
    Karras,
    LogSNR,
    Policy,
    PredictorCorrector,
    Quadratic,
    ReverseDiffusion,
    Uniform,
    sample,
)

COUNT = 3000
GRID = {  # where most of each path lies; the end of cosine schedules is left to grids in log-SNR
    "linear betas": Integers,
    "straight betas": Integers,
    "sqrt-linear betas": LogSNR,
    "cosine betas": Integers,
    "linear VP": Quadratic,
    "sub-VP": LogSNR,
    "cosine": LogSNR,
    "VE": Karras,
    "ladder": LogSNR,
    "exponential VE": LogSNR,
    "EDM": Karras,
    "brownian": Karras,
    "rectified": Uniform,
    "learned": LogSNR,
}


def sliced_w2(x, y, directions=64):
    """Sliced Wasserstein-2 distance of two samples of one size."""
    u = torch.nn.functional.normalize(parts.normal(x.shape[1], directions, seed=9), dim=0)
    return float(((x @ u).sort(0).values - (y @ u).sort(0).values).square().mean().sqrt())


@pytest.fixture(scope="module")
def floor():
    """A sample of the data, and the mean and spread of the distance of other samples from it."""
    mixture = parts.smooth_mixture()
    reference = mixture.sample(parts.Together(COUNT, seed=100))
    distances = torch.tensor([sliced_w2(mixture.sample(parts.Together(COUNT, seed=s)), reference) for s in range(40)])
    return mixture, reference, float(distances.mean()), float(distances.std())


WALKERS = [
    name
    for name, step in parts.STEPS.items()
    if name not in parts.CORRECTORS and issubclass(Gaussian, step.needs)  # by themselves, correctors are biased
]


def prepared(name, step):
    """A sampler and a grid so fine, or a tolerance so small, that what 3000 samples cannot tell is all that is left.

    About 150 guesses: with 40 on the integers of a chain, multistep methods leap by 2.3 in log(alpha/sigma) from
    one of the last points to the next, and extrapolate what they know from points a quarter as far apart.
    """
    walker = parts.STEPS[step]
    if step in parts.ADAPTIVE:
        return replace(walker, atol=1e-4, rtol=1e-3), LogSNR(2)
    grid = GRID[name](150 // getattr(walker, "stages", 1))
    if isinstance(walker, Churn) and name in {"linear betas", "straight betas", "cosine betas", "rectified"}:
        grid = Karras(grid.steps)
    if name == "rectified" and isinstance(walker, (EulerMaruyama, ReverseDiffusion, PredictorCorrector)):
        grid = Karras(150)  # they begin where some signal is left
    if name in {"VE", "ladder", "exponential VE", "brownian"} and getattr(walker, "inner", walker) == Euler():
        grid = LogSNR(600)  # their own times are log sigma or sigma^2, where the first order needs many steps
    return walker, grid


@pytest.mark.parametrize("step", WALKERS)
@pytest.mark.parametrize("name", parts.SCHEDULES)
def test_the_data_come_back(floor, name, step):
    """Mean and covariance within 5 standard errors, distance within 5 deviations of what true samples show."""
    mixture, reference, mean_distance, spread = floor
    process, (walker, grid) = parts.process(name), prepared(name, step)
    denoiser = mixture.denoiser(process)
    if step == "ancestral, learned":
        denoiser = parts.WithFraction(denoiser, grid(process))
    x = sample(denoiser, walker, grid, (COUNT, 2), rng=parts.Together(COUNT, seed=7), dtype=torch.float64)
    true = mixture.covariance
    z_mean = (x.mean(0) - mixture.mean) / (true.diagonal() / COUNT).sqrt()
    centred = x - x.mean(0)
    products = centred[:, :, None] * centred[:, None]
    z_covariance = (products.mean(0) - true) / (products.std(0) / COUNT**0.5)
    distance = sliced_w2(x, reference)
    assert float(z_mean.abs().max()) < 5
    assert float(z_covariance.abs().max()) < 5
    assert distance < mean_distance + 5 * spread


class Elementwise(Denoiser):
    """The exact denoiser of N(0, 1/4), which touches each number alone."""

    def __init__(self, process):
        super().__init__()
        self.process, self.calls, self.types = process, 0, set()

    def forward(self, xt, t, cond=None):
        self.calls += 1
        assert t.shape == xt.shape[:1] and t.dtype == torch.float64
        self.types.add(xt.dtype)
        c = self.process.at(t, xt)
        variance = 0.25 * c.alpha**2 + c.sigma**2
        gain, left = (0.25 * c.alpha / variance).to(xt.dtype), (0.25 * c.sigma**2 / variance).to(xt.dtype)
        return Estimate(gain * xt, left.expand_as(xt), torch.full_like(xt, 0.4))


EVENTS = [(), (3,), (3, 2), (1, 4, 4), (2, 3, 4, 4), (2, 2, 3, 2, 2)]


@pytest.mark.parametrize("step", parts.STEPS)
def test_any_rank(step):
    """The numbers of an example are sampled alike, whatever shape they come in."""
    denoiser = Elementwise(parts.process("linear VP"))
    for event in EVENTS:
        x = sample(denoiser, parts.STEPS[step], Karras(6), (2, *event))
        flat = sample(denoiser, parts.STEPS[step], Karras(6), (2, max(1, x[0].numel())))
        assert x.shape == (2, *event)
        torch.testing.assert_close(x.reshape(2, -1), flat, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", parts.STEPS)
@pytest.mark.parametrize("name", ["linear betas", "EDM", "rectified"])
def test_example_i_depends_on_seed_i_alone(name, step):
    denoiser, walker, grid = Elementwise(parts.process(name)), parts.STEPS[step], Karras(7)
    seeds = [11, 3, 2**31, 0, 5, 6, 7, 12345]
    whole = sample(denoiser, walker, grid, (8, 3, 5, 5), rng=Rng.from_seeds(seeds))
    for i, seed in enumerate(seeds):
        alone = sample(denoiser, walker, grid, (1, 3, 5, 5), rng=Rng.from_seeds([seed]))
        assert torch.equal(alone[0], whole[i])
    back = sample(denoiser, walker, grid, (8, 3, 5, 5), rng=Rng.from_seeds(seeds[::-1]))
    assert torch.equal(back.flip(0), whole)
    assert not torch.equal(whole[0], whole[1])
    default = sample(denoiser, walker, grid, (2, 3, 5, 5))
    assert torch.equal(default, sample(denoiser, walker, grid, (2, 3, 5, 5), rng=Rng.from_seeds([0, 1])))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", parts.STEPS)
def test_type_of_the_state(step, dtype):
    denoiser = Elementwise(parts.process("linear VP"))
    grid = Karras(10, sigma_min=0.5 if step == "langevin" else 0.002)  # its moves grow with the rounding of the score
    x = sample(denoiser, parts.STEPS[step], grid, (4, 16), dtype=dtype)
    exact = sample(denoiser, parts.STEPS[step], grid, (4, 16), dtype=torch.float64)
    assert x.dtype == dtype
    assert denoiser.types == {dtype, torch.float64}
    tolerance = {torch.float64: 0, torch.float32: 2e-6, torch.bfloat16: 0.1}[dtype]
    assert float((x.double() - exact).abs().max()) <= tolerance * float(exact.abs().max())


@pytest.mark.parametrize("step", parts.STEPS)
def test_evaluations_are_those_declared(step):
    walker = parts.STEPS[step]
    for steps in (1, 2, 9):
        denoiser = Elementwise(parts.process("EDM"))
        if steps < getattr(walker, "least_steps", 1):
            with pytest.raises(UsageProblem, match=f"take {walker.least_steps} steps or more"):
                sample(denoiser, walker, Karras(steps), (2, 3))
            continue
        sample(denoiser, walker, Karras(steps), (2, 3))
        assert walker.evaluations(steps) in (None, denoiser.calls)


def test_a_step_to_clean_data_is_the_guess():
    process = parts.process("linear VP")
    denoiser, x = Elementwise(process), parts.normal(2, 3)
    t = process.point(0.3)
    guess = denoiser(x, torch.full((2,), 0.3).double()).mean
    for walker in parts.STEPS.values():
        if isinstance(walker, (Churn, Corrector, PredictorCorrector)):
            continue  # they move at t first
        if getattr(walker, "least_steps", 1) > 1:
            continue  # no such walk
        out = sample(denoiser, walker, lambda p: [t, *Uniform(1)(p)[1:]], (2, 3), start=x, dtype=torch.float64)
        torch.testing.assert_close(out, guess, rtol=1e-6, atol=1e-7)


def test_watch_sees_every_state():
    seen = []
    denoiser = Elementwise(parts.process("EDM"))
    x = sample(denoiser, Euler(), Karras(5), (2, 3), watch=lambda i, point, x: seen.append((i, point.t, x.clone())))
    assert [i for i, _, _ in seen] == list(range(6))
    assert seen[0][1] == pytest.approx(1) and seen[-1][1] == 0
    assert torch.equal(seen[-1][2], x)


# Grids


@pytest.mark.parametrize("grid", parts.GRIDS)
@pytest.mark.parametrize("name", parts.SCHEDULES)
def test_grids_fall_and_end_clean(name, grid):
    process, grid = parts.process(name), parts.GRIDS[grid]
    if isinstance(grid, Policy):  # of masked symbols: test_samplers_policy.py
        with pytest.raises(UsageProblem, match="symbols that are masked"):
            grid(process)
        return
    if isinstance(grid, Integers) and not hasattr(process.schedule, "steps"):
        with pytest.raises(UsageProblem, match="integer steps"):
            grid(process)
        return
    if grid == Uniform(10, through_zero=True) and float(process.schedule.sigma(torch.zeros(1))) == 0:
        with pytest.raises(UsageProblem, match="through_zero"):
            grid(process)
        return
    points = grid(process)
    times = [p.t for p in points[:-1]]
    assert times[-1] >= -1e-12  # within the process, though sigma_min is below the noise it ends with
    assert len(points) == grid.steps + 1
    assert all(a > b for a, b in zip(times, times[1:], strict=False))
    assert points[-1].is_clean and points[-1].alpha == 1
    assert all(p.sigma > 0 for p in points[:-1] if p.t > 0)
    assert times[0] <= 1 + 1e-12


def test_karras_is_edms():
    ratios = [p.ratio for p in Karras(18)(parts.process("EDM"))]
    a, b = 80 ** (1 / 7), 0.002 ** (1 / 7)
    assert ratios[:-1] == pytest.approx([(a + i / 17 * (b - a)) ** 7 for i in range(18)], rel=1e-12)
    assert ratios[-1] == 0
    top = Karras(5)(parts.process("cosine betas"))[0]
    assert top.ratio == pytest.approx(80, rel=1e-9)  # the process ends at 2e4
    assert Karras(5)(parts.process("VE"))[0].ratio == pytest.approx(50, rel=1e-9)
    assert Karras(5)(parts.process("rectified"))[0].ratio == pytest.approx(80, rel=1e-9)  # it ends at infinity


def test_log_snr_grid_is_even():
    log_snr = torch.tensor([p.log_snr for p in LogSNR(12)(parts.process("linear VP"))[:-1]])
    assert float(log_snr.diff().std()) < 1e-6


def test_integers_of_the_papers():
    assert Integers(10, "both").indices(4000)[:4] == [1, 445, 890, 1334]  # 0, 444, 889, 1333 counted from 0
    assert Integers(10, "leading").indices(1000) == [1 + 100 * i for i in range(10)]
    assert Integers(10, "trailing").indices(1000) == [100 * (i + 1) for i in range(10)]
    assert Integers(1).indices(1000) == [1000]
    for spacing in ("both", "leading", "trailing"):
        for n in (1, 7, 300, 999, 1000):
            chosen = Integers(n, spacing).indices(1000)
            assert len(chosen) == len(set(chosen)) == n
            assert chosen == sorted(chosen) and chosen[0] >= 1 and chosen[-1] <= 1000
    quad = Integers(10, "quadratic").indices(1000)
    assert quad[0] == 1 and quad[-1] in (800, 801)


def test_respaced_points_keep_the_chain():
    process = parts.process("linear betas")
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    for point, i in zip(Integers(25)(process), reversed(Integers(25).indices(1000)), strict=False):
        assert point.alpha**2 == pytest.approx(float(abar[i - 1]), rel=1e-12)


# Mistakes are told in a sentence


class Cold(Process):
    def points(self, times):
        return list(times)


@pytest.mark.parametrize("step", [n for n, s in parts.STEPS.items() if s.needs is not Process and "ancestral" not in n])
def test_solvers_refuse_processes_without_a_flow(step):
    denoiser = Elementwise(Cold())
    with pytest.raises(UsageProblem, match="Cold"):
        sample(denoiser, parts.STEPS[step], Uniform(2), (1, 2))


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Ancestral(eta=2), "eta"),
        (lambda: Ancestral(mix=2), "mix"),
        (lambda: Ancestral(eta=0.5, variance="large"), "eta 0.5"),
        (lambda: Heun(a=0), "trial point"),
        (lambda: Uniform(0), "steps"),
        (lambda: Integers(1001).indices(1000), "at most 1000"),
        (lambda: Karras(5, sigma_min=100)(parts.process("EDM")), "sigma_min"),
        (lambda: Karras(5)(Cold()), "noise levels"),
        (lambda: LogSNR(5, sigma_min=0)(parts.process("EDM")), "sigma_min"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()


def test_variances_a_model_does_not_know_are_refused():
    process = Gaussian(parts.SCHEDULES["linear betas"])

    class Plain(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = process

        def forward(self, xt, t, cond=None):
            return Estimate(xt * 0)

    for variance, words in (("learned", "no learned variances"), ("optimal", "knows Var")):
        with pytest.raises(UsageProblem, match=words):
            sample(Plain(), Ancestral(variance=variance), Integers(3), (1, 2))


def test_every_grid_has_its_name():
    assert set(GRIDS) >= {"uniform", "quadratic", "integers", "karras", "log-snr"}
