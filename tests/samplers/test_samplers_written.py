"""The published formulas, written out term by term, against the family's quadrature: the same guesses, the same noise."""

import math
from math import exp, expm1, sqrt

import pytest
import torch

from unnoise.denoisers.denoiser import Denoiser
from unnoise.laws import Estimate
from unnoise.oracles import Mixture
from unnoise.processes import Gaussian
from unnoise.rng import Rng, stream
from unnoise.samplers import (
    DEIS,
    PNDM,
    SEEDS,
    DPMSolver,
    DPMSolverFast,
    DPMSolverPlus,
    Integers,
    LogSNR,
    SDEDPMSolverMultistep,
    SingleStep,
    sample,
)
from unnoise.schedules import EDM, FromBetas, LinearVP, linear_betas

DATA = Mixture(torch.tensor([[-0.7, 0.1], [0.6, 0.5]]).double(), torch.tensor([[0.15, 0.2], [0.1, 0.25]]).double())
VP = Gaussian(LinearVP())
START = torch.randn(8, 2, generator=stream(3), dtype=torch.float64)
Z = torch.randn(3, 8, 2, generator=stream(4), dtype=torch.float64)


def guess(process, x, t):
    return DATA.denoiser(process)(x, torch.full((len(x),), t, dtype=torch.float64)).mean


def predicted(mode, x, point, process=VP):
    x0 = guess(process, x, point.t)
    return x0 if mode == "data" else (x - point.alpha * x0) / point.sigma


def at(process, *half_log_snr):
    return process.points(process.schedule.time(2 * torch.tensor(half_log_snr, dtype=torch.float64)))


class Given(Rng):
    """The numbers of Z, in order."""

    def __init__(self):
        super().__init__([])
        self.left = iter(Z)

    def normal(self, *event, dtype=torch.float64):
        return next(self.left)


def ours(step, t, s, process=VP):
    return sample(
        DATA.denoiser(process), step, lambda _: [t, s], START.shape, start=START, rng=Given(), dtype=torch.float64
    )


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


# SEEDS: A and N are the factors of the state and of the noise between two points, E the weight of one value over them.


def carried(mode, a, b):
    h = b.half_log_snr - a.half_log_snr
    return b.alpha / a.alpha if mode == "noise" else b.sigma / a.sigma * exp(-h)


def fresh(mode, a, b):
    h = b.half_log_snr - a.half_log_snr
    return b.sigma * sqrt(expm1(2 * h) if mode == "noise" else -expm1(-2 * h))


def first(mode, a, b):
    h = b.half_log_snr - a.half_log_snr
    return -2 * b.sigma * expm1(h) if mode == "noise" else -b.alpha * expm1(-2 * h)


def noises(mode, *nodes):
    """The recursion, at every node but the first."""
    total, out = torch.zeros_like(START), []
    for (a, b), z in zip(zip(nodes, nodes[1:], strict=False), Z, strict=False):
        total = carried(mode, a, b) * total + fresh(mode, a, b) * z
        out.append(total)
    return out


@pytest.mark.parametrize("mode", ["data", "noise"])
def test_noises_of_equal_parts(mode):
    """In closed form: halves and thirds of a step."""
    h, sign = 0.9, 1 if mode == "noise" else -1
    _, s1, s = half = at(VP, -0.3, -0.3 + h / 2, -0.3 + h)
    p = sqrt(sign * expm1(sign * h))
    n1, n = noises(mode, *half)
    close(n1, s1.sigma * p * Z[0])
    close(n, s.sigma * p * (exp(sign * h / 2) * Z[0] + Z[1]))
    third = at(VP, *(-0.3 + h * k / 3 for k in range(4)))
    p = sqrt(sign * expm1(sign * 2 * h / 3))
    expected = third[-1].sigma * p * (exp(sign * 2 * h / 3) * Z[0] + exp(sign * h / 3) * Z[1] + Z[2])
    close(noises(mode, *third)[-1], expected)


@pytest.mark.parametrize("c", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["a", "b"])
@pytest.mark.parametrize("mode", ["data", "noise"])
def test_seeds_2(mode, kind, c):
    h = 0.7
    t, u, s = at(VP, -0.4, -0.4 + c * h, -0.4 + h)
    n1, n = noises(mode, t, u, s) if c < 1 else (None, None)
    if c == 1:  # the stage is the end itself: no noise is left to draw
        n1 = n = fresh(mode, t, s) * Z[0]
    m = predicted(mode, START, t)
    m1 = predicted(mode, carried(mode, t, u) * START + first(mode, t, u) * m + n1, u)
    if mode == "noise":
        weight = -s.sigma * expm1(h) / c if kind == "a" else -2 / c * s.sigma * (expm1(h) / h - 1)
    else:
        weight = -s.alpha * expm1(-2 * h) / (2 * c) if kind == "a" else s.alpha / c * (1 + expm1(-2 * h) / (2 * h))
    expected = carried(mode, t, s) * START + first(mode, t, s) * m + weight * (m1 - m) + n
    variable, formula = {"data": "x0", "noise": "eps"}[mode], {"a": "dpmsolver", "b": "taylor"}[kind]
    close(ours(SEEDS(2, variable, formula=formula, r1=c), t, s), expected)


@pytest.mark.parametrize("kind", ["a", "b"])
@pytest.mark.parametrize("mode", ["data", "noise"])
def test_seeds_3(mode, kind):
    h = 0.7
    t, u, v, s = nodes = at(VP, *(-0.4 + h * k / 3 for k in range(4)))
    n1, n2, n = noises(mode, *nodes)
    m = predicted(mode, START, t)
    m1 = predicted(mode, carried(mode, t, u) * START + first(mode, t, u) * m + n1, u)

    def slope(q):  # the weight of h m' over a step of the clock q, without sigma or alpha
        return -2 * (expm1(q) / q - 1) if mode == "noise" else 1 + expm1(-2 * q) / (2 * q)

    def bend(q):  # and of h^2 m''
        return -2 * ((expm1(q) / q - 1) / q - 0.5) if mode == "noise" else 0.5 - (1 + expm1(-2 * q) / (2 * q)) / (2 * q)

    def scale(p):
        return p.sigma if mode == "noise" else p.alpha

    second = carried(mode, t, v) * START + first(mode, t, v) * m + 2 * scale(v) * slope(2 * h / 3) * (m1 - m) + n2
    m2 = predicted(mode, second, v)
    if kind == "a":
        rest = 1.5 * scale(s) * slope(h) * (m2 - m)
    else:
        d1, d2 = 3 * (m1 - m), 1.5 * (m2 - m)
        rest = scale(s) * (slope(h) * (2 * d1 - d2) + bend(h) * 6 * (d2 - d1))
    expected = carried(mode, t, s) * START + first(mode, t, s) * m + rest + n
    variable, formula = {"data": "x0", "noise": "eps"}[mode], {"a": "dpmsolver", "b": "taylor"}[kind]
    close(ours(SEEDS(3, variable, formula=formula), t, s), expected)


@pytest.mark.parametrize("sde", [True, False])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_seeds_in_f(stages, sde):
    """EDM's F, with sigma as time: D = c_skip x + c_out F; the paper's second clock, and its twin on the flow."""
    process, d, a, b = Gaussian(EDM()), 0.5, 2.3, 0.6

    def clock(u):
        return -math.log(u / (d * sqrt(u * u + d * d)) if sde else math.atan(u / d))

    def back(l):
        return d / sqrt(1 / (d * exp(-l)) ** 2 - 1) if sde else d * math.tan(exp(-l))

    def factor(p, q):
        return ((q * q + d * d) / (p * p + d * d)) ** (1 if sde else 0.5)

    def scale(q):
        return 2 * q * sqrt(q * q + d * d) / d if sde else math.atan(q / d) * sqrt(q * q + d * d)

    def network(x, u):
        x0 = guess(process, x, u / 80)
        return (x0 - d * d / (u * u + d * d) * x) * sqrt(u * u + d * d) / (u * d)

    h, l = clock(b) - clock(a), clock(a)
    inner = [back(l + r * h) for r in {1: (), 2: (0.5,), 3: (1 / 3, 2 / 3)}[stages]]
    nodes, added, n = [a, *inner, b], torch.zeros_like(START), []
    for p, q, z in zip(nodes, nodes[1:], Z, strict=False):
        if sde:
            added = factor(p, q) * added + sqrt((q * q + d * d) * (p * p - q * q) / (p * p + d * d)) * z
        n.append(added)
    f = network(START, a)

    def line(q, share, value, stage):  # by the line through F and the value at a share of the step
        r = (clock(q) - l) / h
        slope = (expm1(r * h) / (r * h) - 1) * r / share
        return factor(a, q) * START + scale(q) * (expm1(r * h) * f + slope * (value - f)) + n[stage]

    x = line(nodes[1], 1.0, f, 0)
    if stages == 2:
        f1 = network(x, nodes[1])
        x = factor(a, b) * START + scale(b) * expm1(h) * (f + (f1 - f)) + n[1]
    if stages == 3:
        f1 = network(x, nodes[1])
        f2 = network(line(nodes[2], 1 / 3, f1, 1), nodes[2])
        x = line(b, 2 / 3, f2, 2)
    step = SEEDS(stages, "v", "log-sine" if sde else "log-angle", eta=float(sde), scale=d)
    t, s = process.points([a / 80, b / 80])
    close(ours(step, t, s, process), x)


def test_rademachers_noise_has_one_size():
    t, s = at(VP, -0.4, 0.3)
    step = SEEDS(1, noise="rademacher")
    flow = step.flow
    moved = flow.carry(t, s) * START + flow.weights([t], t, s)[0] * predicted("data", START, t)
    close(ours(step, t, s), moved + flow.spread(t, s) * Z[0].sign())


def fourth_moment(step, steps):
    """Of a sampler on N(0, 1/4), exactly, over three times its variance squared, less 1: it is affine in its draws."""
    process = Gaussian(EDM())
    denoiser = Mixture(torch.zeros(1, 1).double(), torch.full((1, 1), 0.25).double()).denoiser(process)
    points = at(process, *(-1.5 + 3.1 * i / steps for i in range(steps + 1)))
    rows = 2 + 2 * steps

    class Impulses(Rng):
        def __init__(self):
            super().__init__([])
            self.next = 2

        def normal(self, *event, dtype=torch.float64):  # -1 where nothing is drawn: told apart below
            out = -torch.ones(rows, *event, dtype=torch.float64)
            out[self.next] = 1
            self.next += 1
            return out

    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[1] = sqrt(0.25 + points[0].sigma ** 2)
    out = sample(denoiser, step, lambda _: points, start.shape, rng=Impulses(), start=start, dtype=torch.float64)
    first, drawn = out[1] - out[0], (out[2:] - out[0]) / 2  # a draw of 1 for one of -1
    variance = float(first**2 + (drawn**2).sum())
    return -2 * float((drawn**4).sum()) / (3 * variance**2)


def test_rademachers_noise_is_of_first_order_in_law():
    """The variance is that of normal noise; the fourth moment, which a sum of signs falls short of, nears it at order 1."""
    step = SEEDS(2, noise="rademacher")
    assert (step.weak_order, step.strong_order) == (1, None)
    errors = [abs(fourth_moment(step, steps)) for steps in (40, 80, 160)]
    assert [a / b for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx([2, 2], rel=0.1), errors


# DPM-Solver


@pytest.mark.parametrize("kind", ["dpmsolver", "taylor"])
@pytest.mark.parametrize("mode", ["data", "noise"])
@pytest.mark.parametrize("stages", [2, 3])
def test_dpm_solver(stages, mode, kind):
    h = 0.8
    ends = at(VP, *(-0.4 + h * k / stages for k in range(stages + 1)))
    t, u, s = ends[0], ends[1], ends[-1]
    c = (lambda p: -p.sigma) if mode == "noise" else (lambda p: p.alpha)

    def a1(q):
        return expm1(q) if mode == "noise" else -expm1(-q)

    def a2(q):
        return expm1(q) / q - 1 if mode == "noise" else 1 + expm1(-q) / q

    def a3(q):
        return a2(q) / q - 0.5 if mode == "noise" else 0.5 - a2(q) / q

    def base(p, m):
        keep = p.alpha / t.alpha if mode == "noise" else p.sigma / t.sigma
        return keep * START + c(p) * a1(p.half_log_snr - t.half_log_snr) * m

    m = predicted(mode, START, t)
    m1 = predicted(mode, base(u, m), u)
    if stages == 2:
        expected = base(s, m) + c(s) * (a1(h) if kind == "dpmsolver" else 2 * a2(h)) * (m1 - m)
    else:
        v = ends[2]
        m2 = predicted(mode, base(v, m) + c(v) * 2 * a2(2 * h / 3) * (m1 - m), v)
        d1, d2 = 3 * (m1 - m), 1.5 * (m2 - m)
        taylor = a2(h) * (2 * d1 - d2) + a3(h) * 6 * (d2 - d1)
        expected = base(s, m) + c(s) * (1.5 * a2(h) * (m2 - m) if kind == "dpmsolver" else taylor)
    part = DPMSolver if mode == "noise" else DPMSolverPlus
    close(ours(part(stages, formula=kind), t, s), expected)


@pytest.mark.parametrize("evaluations", range(3, 31))
def test_the_fast_solver_takes_the_published_orders(evaluations):
    """Of K = NFE // 3 + 1 steps: 3, ..., 3, 2, 1; 3, ..., 3, 1; or 3, ..., 3, 2. The guess at the end is one more."""
    nfe = evaluations - 1
    step, steps = DPMSolverFast.for_evaluations(evaluations)
    if nfe < 3 and nfe % 3 == 0:
        return
    k = nfe // 3 + 1
    orders = {0: [3] * (k - 2) + [2, 1], 1: [3] * (k - 1) + [1], 2: [3] * (k - 1) + [2]}[nfe % 3]
    assert [step.stages_of(left) for left in range(steps, 1, -1)] == orders
    assert step.evaluations(steps) == evaluations == sum(orders) + 1


class Line(Denoiser):
    """A guess that is c_0 + c_1 l + c_2 l^2, whatever the state: what a step of third order must integrate exactly."""

    process = VP

    def __init__(self, *c):
        super().__init__()
        self.c = c

    def forward(self, xt, t, cond=None):
        l = self.process.schedule.log_snr(t) / 2
        return Estimate(sum(c * l**k for k, c in enumerate(self.c))[:, None].expand_as(xt))


def test_third_order_sde_has_the_right_sign():
    """x_0 = l^2 on the reverse SDE: int 2 e^{-2 (l_s - l)} l^2 dl by hand. A public 3M is off by one whole curvature here."""
    points = at(VP, -0.5, -0.1, 0.2, 0.6)
    step, nodes = SDEDPMSolverMultistep(3), points[2::-1]
    weights = step.weights(step.flow, nodes, points[2], points[3])
    found = sum(w * p.half_log_snr**2 for w, p in zip(weights, nodes, strict=True))

    def integral(l):  # of 2 e^{2 l} l^2
        return exp(2 * l) * (l * l - l + 0.5)

    t, s = (p.half_log_snr for p in points[2:])
    assert found == pytest.approx(points[3].alpha * exp(-2 * s) * (integral(s) - integral(t)), rel=1e-12)


# DEIS in time, and PNDM


@pytest.mark.parametrize("process", [VP, Gaussian(FromBetas(linear_betas(1000)))], ids=["VP", "chain"])
def test_deis_in_time_integrates_polynomials_of_t(process):
    """int t^k d(sigma/alpha) by a fine trapezoid, for k below the number of terms."""
    points = process.points([0.8, 0.72, 0.66, 0.6])
    flow = DEIS(3, coordinate="time").flow.on(process, points)
    nodes, t, s = points[2::-1], points[2], points[3]
    weights = flow.weights(nodes, t, s)
    fine = process.points(torch.linspace(t.t, s.t, 20001, dtype=torch.float64))
    for k in range(3):
        integral = sum((a.t**k + b.t**k) / 2 * (b.ratio - a.ratio) for a, b in zip(fine, fine[1:], strict=False))
        found = sum(w * p.t**k for w, p in zip(weights, nodes, strict=True))
        assert found == pytest.approx(s.alpha * integral, rel=1e-7)


@pytest.mark.parametrize("kind", ["S", "F", "short", "RK", "PIE"])
def test_pndm_step_by_step(kind):
    """phi, the three ways to start and the tables of weights, as the paper has them; the last state above clean data."""
    process = Gaussian(FromBetas(linear_betas(1000)))
    points = Integers(10, "leading")(process)[:-1]

    def phi(x, e, t, s):
        a, b = t.alpha**2, s.alpha**2
        return sqrt(b / a) * x - (b - a) / (sqrt(a) * (sqrt((1 - b) * a) + sqrt((1 - a) * b))) * e

    def eps(x, p):
        return predicted("noise", x, p, process)

    x, history = START, []
    for i, (t, s) in enumerate(zip(points, points[1:], strict=False)):
        e = eps(x, t)
        history = [e, *history]
        if kind == "RK" or (kind == "F" and i < 3):
            m = process.point((t.t + s.t) / 2)
            e2 = eps(phi(x, e, t, m), m)
            e3 = eps(phi(x, e2, t, m), m)
            e = (e + 2 * e2 + 2 * e3 + eps(phi(x, e3, t, s), s)) / 6
        elif kind == "PIE" or i == 0:
            e = (e + eps(phi(x, e, t, s), s)) / 2
        else:
            table = [[3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
            weights = table[0 if kind == "S" else min(len(history), 4) - 2]
            e = sum(w * v for w, v in zip(weights, history, strict=False))
        x = phi(x, e, t, s)
    found = sample(DATA.denoiser(process), PNDM(kind), lambda _: points, START.shape, start=START, dtype=torch.float64)
    close(found, x)


def test_steps_out_of_nearly_pure_noise_are_ddims():
    """A cosine chain begins at log-SNR -20, where a step in the noise magnifies errors of the guess 200-fold."""
    from unnoise.samplers import DDIM
    from unnoise.schedules import cosine_betas

    process = Gaussian(FromBetas(cosine_betas(1000)))
    t, s = Integers(40)(process)[:2]
    assert t.half_log_snr < -9 < -5 < s.half_log_snr
    states = []
    for step in (DDIM(), PNDM("PIE"), PNDM("RK"), DPMSolver(3), DEIS()):
        points = Integers(40)(process)
        sample(
            DATA.denoiser(process), step, lambda _: points, START.shape, start=START, dtype=torch.float64,  # noqa: B023
            watch=lambda i, point, x: states.append(x) if i == 1 else None,
        )  # fmt: skip
    for state in states[1:]:
        close(state, states[0])
    end = sample(DATA.denoiser(process), SingleStep(2, "eps"), LogSNR(20), START.shape, dtype=torch.float64)
    assert float(end.abs().max()) < 4
