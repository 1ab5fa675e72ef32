"""Samplers on linear SDEs with auxiliary variables: measured orders, moments, the published steps, and what they refuse."""

import math

import pytest
import torch
from probes import slope

from unnoise.errors import UsageProblem
from unnoise.oracles import Mixture, gaussian
from unnoise.processes import CriticallyDamped, Gaussian, LinearSDE
from unnoise.rng import Rng
from unnoise.samplers import (
    DDIM,
    RK45,
    SSCS,
    Ancestral,
    Denoise,
    DPMSolverPlus,
    Euler,
    EulerMaruyama,
    Heun,
    Karras,
    Quadratic,
    ReverseDiffusion,
    Uniform,
    sample,
)
from unnoise.schedules import LinearVP


def double(values):
    return torch.tensor(values, dtype=torch.float64)


DAMPED = CriticallyDamped()
THIRD = LinearSDE(
    double([[0, 1, 0], [-1, 0, 2], [0, -2, -3]]), torch.diag(double([0, 0, 6])), torch.diag(double([0, 0.04, 0.04]))
)
RAMPED = CriticallyDamped(beta=(0.5, 7.0))
PROCESSES = {"critical": DAMPED, "third order": THIRD, "beta that grows": RAMPED}
MEAN, VARIANCE = 0.3, 0.25


class Columns(Rng):
    """Row k of the batch is 1 in one part of one draw, and 0 elsewhere: the columns of a sampler's linear map."""

    def __init__(self, batch: int, first: int):
        super().__init__([], (0,))
        self.batch, self.next = batch, first

    def normal(self, *event, dtype=torch.float64):
        out = torch.zeros(self.batch, *event, dtype=torch.float64)
        for part in range(event[0]):
            out[self.next, part] = 1
            self.next += 1
        return out.to(dtype)


def output(process, step, points, draws):
    """Mean and variance of x, exactly, after a walk from the true law of Gaussian data at its first point."""
    denoiser, k = gaussian(double([MEAN]), VARIANCE).denoiser(process), len(process.drift)
    rows = 1 + k + k * draws * (len(points) - 1)
    start = torch.zeros(rows, k, 1, dtype=torch.float64)
    start[1 : 1 + k, :, 0] = torch.eye(k)
    out = sample(
        denoiser, step, lambda _: points, (rows, 1), rng=Columns(rows, 1 + k), start=start, dtype=torch.float64
    )
    constant, columns = out[0, 0], out[1:, 0] - out[0, 0]
    mean, covariance = truth(process, points[0])
    return constant + columns[:k] @ mean, columns[:k] @ covariance @ columns[:k] + columns[k:].square().sum()


def truth(process, point):
    return MEAN * point.gain, VARIANCE * torch.outer(point.gain, point.gain) + point.covariance


def walk(process, steps, top=0.9, low=0.25):
    return process.points([top + (low - top) * i / steps for i in range(steps + 1)])


@pytest.mark.parametrize(
    "step, draws, order",
    [(SSCS(), 2, 1), (SSCS(2), 2, 2), (EulerMaruyama(), 1, 1), (EulerMaruyama(0.5), 1, 1), (Ancestral(), 1, 1)],
    ids=str,
)
@pytest.mark.parametrize("name", PROCESSES)
def test_weak_order(name, step, draws, order):
    process, counts, errors = PROCESSES[name], (40, 80, 160), []
    if step == EulerMaruyama(0.5):
        counts = (80, 160, 320)  # at 40 it is not yet where its order rules
    mean, covariance = truth(process, process.point(0.25))
    for steps in counts:
        m, v = output(process, step, walk(process, steps), draws)
        errors.append(abs(float(v - covariance[0, 0])) + abs(float(m - mean[0])))
    assert step.weak_order == order
    assert slope(errors, counts) == pytest.approx(order, abs=0.15), errors


def test_the_order_of_the_splitting_is_that_of_its_kick():
    """Halving the step: errors of the published kick halve, of the midpoint's fall to a quarter."""
    for stages, ratio in ((1, 2.0), (2, 4.0)):
        found = [output(DAMPED, SSCS(stages), walk(DAMPED, n), 2)[1] for n in (80, 160)]
        coarse, fine = (abs(float(v - truth(DAMPED, DAMPED.point(0.25))[1][0, 0])) for v in found)
        assert coarse / fine == pytest.approx(ratio, abs=0.12)


def test_without_data_the_splitting_is_exact():
    """Data of the law of rest, N(0, 1) beside v_0 ~ N(0, M): no kick, and one step of any size keeps the law."""
    process = CriticallyDamped(gamma=1.0)
    denoiser = gaussian(double([0.0]), 1.0).denoiser(process)
    u = torch.randn(4, 2, 1).double()
    t = torch.full((4,), 0.4, dtype=torch.float64)
    kick = process.excess(u, denoiser(u, t).mean, t)
    torch.testing.assert_close(kick, torch.zeros_like(kick), rtol=0, atol=1e-12)


def mixture():
    return Mixture(
        double([[-0.7, 0.1], [0.6, 0.5], [0.2, -0.8]]),
        double([[0.15, 0.2], [0.1, 0.25], [0.2, 0.1]]),
        double([5, 3, 2]),
    )


@pytest.mark.parametrize("step", [Euler(), DDIM(), Heun(), Heun(a=0.5), EulerMaruyama(0.0)], ids=str)
@pytest.mark.parametrize("name", ["critical", "beta that grows"])
def test_order_along_the_flow(name, step):
    """Of steps without noise, on a mixture, beside RK45 to 1e-9. DDIM's flow is another one, its own limit's."""
    process = PROCESSES[name]
    denoiser = mixture().denoiser(process)
    start = process.marginal(mixture().sample(Rng.from_seeds(range(6))), process.point(0.9)).sample(
        Rng.from_seeds(range(6))
    )

    def run(step, points):
        return sample(denoiser, step, lambda _: points, (6, 2), start=start, dtype=torch.float64)

    if isinstance(step, DDIM):
        limit = 2 * run(step, walk(process, 1280)) - run(step, walk(process, 640))
    else:
        limit = run(RK45(atol=1e-9, rtol=1e-9), process.points([0.9, 0.25]))
    counts = (40, 80, 160)
    errors = [float((run(step, walk(process, n)) - limit).square().mean().sqrt()) for n in counts]
    assert slope(errors, counts) == pytest.approx(step.order, abs=0.2), errors


COUNT = 2000
WALKS = {
    "sscs": (SSCS(), Quadratic(120, end=1e-3)),
    "sscs of second order": (SSCS(2), Quadratic(60, end=1e-3)),
    "euler-maruyama": (EulerMaruyama(), Quadratic(250, end=1e-3)),
    "ancestral": (Ancestral(), Quadratic(120, end=1e-3)),
    "ddim": (DDIM(), Quadratic(120, end=1e-3)),
    "heun": (Heun(), Quadratic(80, end=1e-3)),
    "rk45": (RK45(atol=1e-4, rtol=1e-4), Uniform(2, end=1e-3)),
}


class Together(Rng):
    """One stream for a whole batch, in float64: quick for thousands of examples, whose names do not matter here."""

    def __init__(self, batch: int):
        super().__init__([], (0,))
        self.batch, self.source = batch, torch.Generator().manual_seed(5)

    def __len__(self):
        return self.batch

    def normal(self, *event, dtype=torch.float64):
        return torch.randn(self.batch, *event, generator=self.source, dtype=torch.float64).to(dtype)


FLOORED = CriticallyDamped(floor=1e-9)


@pytest.mark.parametrize("process, name", [*((FLOORED, name) for name in WALKS), (THIRD, "sscs"), (THIRD, "heun")])
def test_the_data_come_back(process, name):
    """From the prior to the data: mean and covariance within 5 standard errors of the mixture's."""
    data, (step, grid) = mixture(), WALKS[name]
    x = sample(data.denoiser(process), step, grid, (COUNT, 2), rng=Together(COUNT), dtype=torch.float64)
    z_mean = (x.mean(0) - data.mean) / (data.covariance.diagonal() / COUNT).sqrt()
    centred = x - x.mean(0)
    products = centred[:, :, None] * centred[:, None]
    z_covariance = (products.mean(0) - data.covariance) / (products.std(0) / COUNT**0.5)
    assert float(z_mean.abs().max()) < 5 and float(z_covariance.abs().max()) < 5


@pytest.mark.parametrize("step", [SSCS(), SSCS(2), Euler(), Heun(), EulerMaruyama(), Ancestral(), DDIM()], ids=str)
def test_seeds_types_ranks_and_evaluations(step):
    for event in ((3,), (2, 3), (1, 4, 4)):
        denoiser = gaussian(torch.zeros(event).double(), 0.25).denoiser(DAMPED)
        whole = sample(denoiser, step, Quadratic(6, end=0.01), (4, *event), rng=Rng.from_seeds([7, 1, 2, 3]))
        assert whole.shape == (4, *event) and whole.dtype == torch.float32
        alone = sample(denoiser, step, Quadratic(6, end=0.01), (1, *event), rng=Rng.from_seeds([2]))
        torch.testing.assert_close(alone[0], whole[2], rtol=1e-5, atol=1e-6)
        exact = sample(
            denoiser, step, Quadratic(6, end=0.01), (4, *event), rng=Rng.from_seeds([7, 1, 2, 3]), dtype=torch.float64
        )
        torch.testing.assert_close(whole.double(), exact, rtol=1e-3, atol=1e-3)
    denoise = Denoise(denoiser, 4, None, torch.device("cpu"))
    points, x = Quadratic(6, end=0.01)(DAMPED), DAMPED.prior((4, *event)).sample(Rng.from_seeds(range(4)))
    state = step.init(denoise, x, points)
    for t, s in zip(points, points[1:], strict=False):
        x, state = step.step(denoise, x, t, s, state, Rng.from_seeds(range(4)))
    assert denoise.calls == step.evaluations(6)


def test_a_published_step_of_the_splitting():
    """x, v after one step from given noise, with g = Gamma = 1 and beta = 4, written out from the paper's code."""
    t, s, h = 0.6, 0.5, 0.1
    oracle = gaussian(double([MEAN]), VARIANCE).denoiser(DAMPED)
    u, z = double([[[0.4], [-0.3]]]), double([[[[0.5], [1.1]]], [[[-0.7], [0.2]]]])

    def half(x, v, noise):
        b = -4 * h / 2
        e = math.exp(4 * b)
        xx, xv = e * (1 / e - 1 + 4 * b - 8 * b**2), -4 * b**2 * e
        vv = e * (-(1 - 1 / e) / 4 - b - 2 * b**2)
        l11 = xx**0.5
        l21 = xv / l11
        moved_x = math.exp(2 * b) * ((1 - 2 * b) * x + 4 * b * v)
        moved_v = math.exp(2 * b) * (-b * x + (1 + 2 * b) * v)
        return moved_x + l11 * noise[0], moved_v + l21 * noise[0] + (vv - l21**2) ** 0.5 * noise[1]

    x, v = half(0.4, -0.3, z[0, 0, :, 0].tolist())
    mean, covariance = truth(DAMPED, DAMPED.point(t))
    score = -torch.linalg.solve(covariance, double([x, v]) - mean)[1]
    x, v = half(x, v + 2 * (float(score) + 4 * v) * 4 * h, z[1, 0, :, 0].tolist())

    class Given(Rng):
        def normal(self, *event, dtype=torch.float64):
            return next(draws).to(dtype)

    draws = iter(z)
    points = DAMPED.points([t, s])
    denoise = Denoise(oracle, 1, None, torch.device("cpu"))
    step = SSCS()
    found, _ = step.step(denoise, u, *points, step.init(denoise, u, points), Given([]))
    torch.testing.assert_close(found[0, :, 0], double([x, v]), rtol=1e-10, atol=1e-12)


def test_the_grid_of_the_paper():
    """tau = tau_f (1 - (1 - i/N)^2), tau = 1 - t, from 0 to tau_f = 1 - 1e-3 in N = n - 1 steps; then to the data."""
    points = Quadratic(26, end=1e-3)(DAMPED)
    tau = [0.999 * (1 - (1 - i / 25) ** 2) for i in range(26)]
    assert [p.t for p in points] == pytest.approx([*(1 - s for s in tau), 0.0], abs=1e-12)
    assert points[-1].is_clean and not points[-2].is_clean
    with pytest.raises(UsageProblem, match="end is"):
        Quadratic(5, end=1.0)


def test_pairings_that_cannot_be_are_refused():
    damped = gaussian(double([0.0]), 1.0).denoiser(DAMPED)
    plain = gaussian(double([0.0]), 1.0).denoiser(Gaussian(LinearVP()))
    for denoiser, step, says in (
        (plain, SSCS(), "needs a LinearSDE process"),
        (damped, DPMSolverPlus(), "needs a Gaussian process"),
        (damped, ReverseDiffusion(), "needs a Gaussian process"),
        (damped, EulerMaruyama(brownian=True), "Brownian path needs a Gaussian"),
        (damped, Ancestral(brownian=True), "Brownian path needs a Gaussian"),
        (damped, Ancestral(eta=0.5), "eta is"),
    ):
        with pytest.raises(UsageProblem, match=says):
            sample(denoiser, step, Quadratic(4), (1, 1))
    with pytest.raises(UsageProblem, match="noise levels"):
        sample(damped, Heun(), Karras(4), (1, 1))
    with pytest.raises(UsageProblem, match="stages"):
        SSCS(3)
