"""Predictors and correctors by name, alone and together; the ladder of NCSN; Langevin dynamics against closed forms."""

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.oracles import finite_set, gaussian
from unnoise.processes import Gaussian
from unnoise.recipe import Sampling
from unnoise.rng import Rng
from unnoise.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    ConsistentLangevin,
    Denoise,
    EulerMaruyama,
    Integers,
    Ladder,
    Langevin,
    Naive,
    PredictorCorrector,
    ReverseDiffusion,
    Uniform,
    sample,
)
from unnoise.samplers.ladder import settled_variance, spacing
from unnoise.schedules import VE, Geometric, LinearVP, SubVP

PREDICTORS = {
    "reverse-diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "euler-maruyama": EulerMaruyama,
    "none": type(None),
}
CORRECTORS = {"langevin": Langevin, "annealed-langevin": AnnealedLangevin, "none": type(None)}
SDES = {"VE": VE(0.02, 20.0), "VP": LinearVP(), "sub-VP": SubVP()}


def oracle(schedule, variance=0.25, dims=256):
    return gaussian(torch.zeros(dims).double(), variance).denoiser(Gaussian(schedule))


def chosen(predictor, corrector, **options):
    return Sampling().changed(
        "predictor-corrector", "uniform", 250, options={"predictor": predictor, "corrector": corrector, **options}
    )


@pytest.mark.parametrize("sde", SDES)
@pytest.mark.parametrize("corrector", CORRECTORS)
@pytest.mark.parametrize("predictor", [name for name in PREDICTORS if name != "none"])
def test_every_predictor_with_every_corrector_by_name(predictor, corrector, sde):
    """On every SDE, also where the published code crashes; the data's spread comes back."""
    options = {"corrector.corrections": "1"} if corrector != "none" else {}
    options |= {"corrector.h": "0.05"} if corrector == "annealed-langevin" else {}
    options |= {"through_zero": "true"} if sde == "VE" else {"end": "0.001"}
    how = chosen(predictor, corrector, **options)
    step = how.step
    assert type(step.predictor) is PREDICTORS[predictor] and type(step.corrector) is CORRECTORS[corrector]
    assert Sampling.from_dict(how.describe()) == how
    x = sample(oracle(SDES[sde]), step, how.grid, (8, 256), dtype=torch.float64)
    assert float(x.var()) == pytest.approx(0.25, rel=0.12)


@pytest.mark.parametrize("corrector", ["langevin", "annealed-langevin"])
def test_without_predictor_it_is_the_corrector_itself(corrector):
    denoiser, how = oracle(SDES["VE"], dims=16), chosen("none", corrector, **{"corrector.corrections": "2"})
    together = sample(denoiser, how.step, Uniform(20, through_zero=True), (3, 16))
    alone = sample(denoiser, how.step.corrector, Uniform(20, through_zero=True), (3, 16))
    assert torch.equal(together, alone)


@pytest.mark.parametrize("predictor", ["reverse-diffusion", "ancestral", "euler-maruyama"])
@pytest.mark.parametrize("first", ["corrector", "predictor"])
def test_without_corrector_it_is_the_predictor_itself(predictor, first):
    denoiser, how = oracle(SDES["VP"], dims=16), chosen(predictor, "none", first=first)
    together = sample(denoiser, how.step, Uniform(20), (3, 16))
    assert torch.equal(together, sample(denoiser, PREDICTORS[predictor](), Uniform(20), (3, 16)))


@pytest.mark.parametrize("first", ["corrector", "predictor"])
@pytest.mark.parametrize(
    "predictor, corrector",
    [
        (None, Langevin(2)),
        (None, AnnealedLangevin(3, h=0.1)),
        (ReverseDiffusion(), Langevin(2)),
        (EulerMaruyama(), AnnealedLangevin(3, h=0.1)),
        (EulerMaruyama(), None),
    ],
)
def test_evaluations_are_as_declared(predictor, corrector, first):
    step = PredictorCorrector(predictor, corrector, first)
    denoiser, calls = oracle(SDES["VE"], dims=2), 0

    class Counting(type(denoiser)):
        def forward(self, xt, t, cond=None):
            nonlocal calls
            calls += 1
            return super().forward(xt, t, cond)

    sample(Counting(denoiser.mixture, denoiser.process), step, Uniform(7, through_zero=True), (2, 2))
    assert calls == step.evaluations(7)


def test_levels_of_the_ladder():
    ladder = Ladder(2.0, 0.02, 10)
    points = ladder.grid()(ladder.process())
    sigmas = [p.sigma for p in points[:-1]]
    assert [p.t for p in points[:-1]] == pytest.approx([i / 10 for i in range(10, 0, -1)])
    assert sigmas[0] == pytest.approx(2.0) and sigmas[-1] == pytest.approx(0.02) and points[-1].is_clean
    assert [a / b for a, b in zip(sigmas, sigmas[1:], strict=False)] == pytest.approx([100 ** (1 / 9)] * 9)
    schedule = Geometric(0.02, 2.0, 10)
    assert float(schedule.sigma(torch.tensor(0.0))) == pytest.approx(0.02 / ladder.gamma)  # one more, below the last
    assert schedule.gamma == pytest.approx(ladder.gamma) and isinstance(ladder.grid(), Integers)
    log_snr = torch.tensor([1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(schedule.time(log_snr)), log_snr)


def test_a_ladder_by_size_and_dimension():
    ladder = Ladder.spaced(50.0, 0.01, 3072)
    assert ladder.levels == 219  # 232 published, with an overlap of 0.567
    assert Ladder.spaced(50.0, 0.01, 3072, 0.567).levels == 232
    assert ladder.gamma == pytest.approx(spacing(3072), rel=1e-3)


class OneHot(Rng):
    """Row k of the batch is 1 at the k-th draw and 0 at all others: the columns of a sampler's linear map."""

    def __init__(self, batch, first=0):
        super().__init__([], (0,))
        self.batch, self.next = batch, first

    def normal(self, *event, dtype=torch.float64):
        out = torch.zeros(self.batch, *event, dtype=torch.float64)
        out[self.next] = 1
        self.next += 1
        return out.to(dtype)


def test_the_whole_walk_down_a_ladder_follows_the_recursion():
    """For data at one point v <- (1 - h)^2 v + 2 h sigma^2 at every step of every level; technique 4's R is one level of it."""
    ladder, corrections, h = Ladder(5.0, 0.05, 8), 3, 0.1
    rows = 1 + 8 * corrections
    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[0] = ladder.sigma_max
    expected, variances = ladder.sigma_max**2, []
    for point in ladder.grid()(ladder.process())[:-1]:
        for _ in range(corrections):
            expected = (1 - h) ** 2 * expected + 2 * h * point.sigma**2
        variances.append(expected / point.sigma**2)
    step = AnnealedLangevin(corrections, denoise=False, h=h)
    denoiser = oracle(ladder.process().schedule, 0.0, 1)
    out = sample(denoiser, step, ladder.grid(), start.shape, rng=OneHot(rows, 1), start=start, dtype=torch.float64)
    assert float(out.square().sum()) == pytest.approx(expected, rel=1e-9)
    one_level = settled_variance(h, ladder.gamma, corrections)
    from_the_last = (1 - h) ** (2 * corrections) * ladder.gamma**2 * (variances[0] - 1)
    assert variances[1] == pytest.approx(one_level + from_the_last, rel=1e-9)


def test_two_distant_modes():
    """Share at the mode of weight 0.2: 0.497 for plain Langevin, which remembers its start, and 0.230 annealed."""
    modes = finite_set(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]))
    modes.log_weights = torch.tensor([0.2, 0.8], dtype=torch.float64).log()
    ladder, count = Ladder(20.0, 1.0, 10), 1500
    denoiser, points = modes.denoiser(ladder.process()), ladder.grid()(ladder.process())
    start = 16 * torch.rand(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 8
    for levels, share in ((1, 0.497), (10, 0.230)):
        step = AnnealedLangevin(1000 // levels, denoise=False, h=0.05)
        way = points[-levels - 1 :]
        x = sample(
            denoiser, step, lambda _, way=way: way, (count, 2), start=start, rng=_Together(count), dtype=start.dtype
        )
        assert float((x.sum(1) < 0).double().mean()) == pytest.approx(share, abs=4 * 0.5 / count**0.5)


class _Together(Rng):
    """One stream for the whole batch: quick, where names do not matter."""

    def __init__(self, batch):
        super().__init__([], (0,))
        self.batch, self.source = batch, torch.Generator().manual_seed(1)

    def normal(self, *event, dtype=torch.float64):
        return torch.randn(self.batch, *event, generator=self.source, dtype=torch.float64).to(dtype)


def test_parity_with_the_published_walks():
    """Paper: x + a/2 s + sqrt(a) z, eps_step 2e-5. Code, and NCSNv2: x + a s + sqrt(2 a) z. In h: 0.1 and 0.2."""
    ladder = Ladder(1.0, 0.01, 10)
    denoiser = oracle(ladder.process().schedule, 0.3, 4)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z = torch.randn(2, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    class Given(Rng):
        def normal(self, *event, dtype=torch.float64):
            return z

    point = ladder.process().point(0.4)
    score = denoiser.score(x, torch.full((2,), 0.4, dtype=torch.float64))
    a = 2e-5 * point.sigma**2 / 0.01**2
    denoise = Denoise(denoiser, 2, None, torch.device("cpu"))
    for h, expected in ((0.1, x + a / 2 * score + a**0.5 * z), (0.2, x + a * score + (2 * a) ** 0.5 * z)):
        ours = AnnealedLangevin(1, h=h).correct(denoise, x, point, h, Given([]))
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: PredictorCorrector(None, None), "neither predictor nor corrector"),
        (lambda: PredictorCorrector(PredictorCorrector()), "no predictor"),
        (lambda: PredictorCorrector(AnnealedLangevin(h=0.1)), "no predictor"),
        (lambda: PredictorCorrector(corrector=EulerMaruyama()), "no corrector"),
        (lambda: chosen("none", "none"), "neither predictor nor corrector"),
        (lambda: chosen("ancestrl", "none"), "did you mean 'ancestral'"),
        (lambda: chosen("none", "langevin", **{"corrector.h": "0.1"}), "corrector.h"),
        (lambda: Geometric(0.1, 1.0, 1), "2 levels or more"),
        (lambda: Geometric(1.0, 0.1, 5), "sigma_min < sigma_max"),
        (lambda: Ladder.spaced(0.01, 0.02, 64), "sigma_min"),
        (lambda: Uniform(5, end=1.5), "end is 1.5"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()


@pytest.mark.parametrize("schedule", [VE(0.02, 20.0), LinearVP()])
def test_consistent_langevin_leaves_each_level_the_noise_it_wants(schedule):
    """Of data at one point the states are samples of q(x_s | x_0) at every level; without the correction they are not."""
    process, points = Gaussian(schedule), []

    def watch(i, point, x):
        if i > 0 and not point.is_clean:
            points.append((float(x.std()), float(point.sigma)))

    point_mass = gaussian(torch.zeros(64).double(), 0.0).denoiser(process)
    grid = Uniform(40, through_zero=isinstance(schedule, VE))
    sample(point_mass, ConsistentLangevin(0.6), grid, (256, 64), watch=watch, dtype=torch.float64)
    assert len(points) >= 39
    for measured, wanted in points:
        assert measured == pytest.approx(wanted, rel=0.02)  # standard error 0.6 %


def test_consistent_langevin_moves_a_normal_state_as_its_formula_says():
    """N(0, v) data: x_s / alpha_s has variance k^2 (v + r_t^2) + r_s^2 - (1 - h)^2 r_t^2, k = (v + (1 - h) r_t^2) / (v + r_t^2)."""
    process, h, v = Gaussian(VE(0.02, 20.0)), 0.4, 0.25
    t, s = process.points([0.5, 0.47])
    denoise = Denoise(gaussian(torch.zeros(64).double(), v).denoiser(process), 2000, None, torch.device("cpu"))
    rng = Rng.from_seeds(range(2000))
    x = (v + t.sigma**2) ** 0.5 * rng.normal(64, dtype=torch.float64)
    y, _ = ConsistentLangevin(h).step(denoise, x, t, s, h, rng)
    k = (v + (1 - h) * t.sigma**2) / (v + t.sigma**2)
    wanted = k**2 * (v + t.sigma**2) + s.sigma**2 - ((1 - h) * t.sigma) ** 2
    assert float(y.var()) == pytest.approx(wanted, rel=0.02)
    assert float((x * y).mean() / (x * x).mean()) == pytest.approx(k, rel=0.02)


def test_consistent_langevin_is_ddim_at_one_end_and_naive_at_the_other():
    process = Gaussian(LinearVP())
    t, s = process.points([0.6, 0.5])
    denoise = Denoise(gaussian(torch.zeros(8).double(), 0.25).denoiser(process), 4, None, torch.device("cpu"))
    x = Rng.from_seeds(range(4)).normal(8, dtype=torch.float64)

    def step(kind):
        return kind.step(denoise, x, t, s, kind.init(denoise, x, [t, s]), Rng.from_seeds(range(4)))[0]

    torch.testing.assert_close(step(ConsistentLangevin(1 - s.ratio / t.ratio)), step(DDIM()), atol=1e-7, rtol=0)
    torch.testing.assert_close(step(ConsistentLangevin(1.0)), step(Naive()), atol=1e-12, rtol=0)


def test_consistent_langevin_refuses_to_keep_too_much():
    denoiser = oracle(LinearVP())
    with pytest.raises(UsageProblem, match="keeps more noise than the next level has; take h 0"):
        sample(denoiser, ConsistentLangevin(0.05), Uniform(10), (1, 256))
    with pytest.raises(UsageProblem, match="h is 0"):
        ConsistentLangevin(0.0)
