"""Steps that choose their size: against scipy, against the published algorithm written out, and by what a tolerance buys."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45 as ScipyRK45
from scipy.integrate import solve_ivp

from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import Problem, UsageProblem
from unnoise.laws import Estimate
from unnoise.oracles import Mixture
from unnoise.processes import Gaussian
from unnoise.samplers import RK45, DPMSolverAdaptive, Karras, LogSNR, Uniform, sample
from unnoise.schedules import EDM, Cosine, LinearVP, Rectified

DATA = Mixture(torch.tensor([[-0.7, 0.1], [0.6, 0.5]]).double(), torch.tensor([[0.15, 0.2], [0.1, 0.25]]).double())
START = torch.tensor([[0.9, -0.4]], dtype=torch.float64)


class Counted(Denoiser):
    def __init__(self, process):
        super().__init__()
        self.inner, self.process, self.calls = DATA.denoiser(process), process, 0

    def forward(self, xt, t, cond=None):
        self.calls += len(xt)
        return Estimate(self.inner(xt, t).mean)


def ours(step, process, t, s, start=START):
    denoiser = Counted(process)
    points = process.points([t, s])
    x = sample(denoiser, step, lambda _: points, start.shape, start=start, dtype=torch.float64)
    return x, denoiser.calls


def velocity(process):
    denoiser = DATA.denoiser(process)

    def f(t, y):
        x = torch.from_numpy(np.array(y)).reshape(-1, 2)
        at = process.point(float(t))
        guess = denoiser(x, torch.full((len(x),), float(t), dtype=torch.float64)).mean
        return process.velocity(x, guess, at).flatten().numpy()

    return f


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), EDM(10.0)], ids=["VP", "cosine", "EDM"])
def test_a_step_of_rk45_is_scipys(schedule):
    """The accepted state, the next size and the error, at a tolerance that any first step meets."""
    process = Gaussian(schedule)
    solver = ScipyRK45(velocity(process), 0.8, START[0].numpy(), 0.1, first_step=0.05, rtol=1e3, atol=1e3)
    solver.step()
    x, calls = ours(RK45(atol=1e3, rtol=1e3, first=0.05), process, 0.8, 0.75)
    np.testing.assert_allclose(x[0].numpy(), solver.y, rtol=1e-12, atol=1e-13)
    assert calls == 7


@pytest.mark.parametrize("tolerance, first, low, attempts", [(1e-4, 0.1, 0.3, 2), (1e-8, 0.03, 0.5, 4)])
def test_a_walk_of_rk45_is_scipys(tolerance, first, low, attempts):
    """The same rule for the next size, as long as it grows less than fivefold and nothing is refused: the same states."""
    process = Gaussian(Cosine())
    theirs = solve_ivp(
        velocity(process), (0.8, low), START[0].numpy(), method="RK45", first_step=first, rtol=tolerance, atol=tolerance
    )
    x, calls = ours(RK45(atol=tolerance, rtol=tolerance, first=first), process, 0.8, low)
    np.testing.assert_allclose(x[0].numpy(), theirs.y[:, -1], rtol=1e-9)
    assert theirs.nfev == 1 + 6 * attempts  # it keeps the last slope of a step for the next
    assert calls == 7 * attempts


@pytest.mark.parametrize("step", [RK45(), DPMSolverAdaptive(), DPMSolverAdaptive(variable="x0", stages=2)], ids=str)
def test_the_error_falls_with_the_tolerance(step):
    from dataclasses import replace

    process, start = Gaussian(LinearVP()), torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(6, 2)
    exact = solve_ivp(velocity(process), (0.8, 0.1), start.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-12)
    truth, errors, calls = torch.from_numpy(exact.y[:, -1]).reshape(6, 2), [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        x, n = ours(replace(step, atol=tolerance, rtol=tolerance), process, 0.8, 0.1, start)
        errors.append(float((x - truth).abs().max()))
        calls.append(n)
        assert errors[-1] < 20 * tolerance
    assert errors[0] > 10 * errors[1] > 100 * errors[2], errors
    assert calls[0] < calls[1] < calls[2]


def published(start, t, s, order, data, atol, rtol, first):
    """The adaptive DPM-Solver of one example, in closed forms and plain numbers: state, evaluations."""
    process = Gaussian(LinearVP())

    def at(l):
        return process.points(process.schedule.time(2 * torch.tensor([l], dtype=torch.float64)))[0]

    calls = 0

    def m(x, p):
        nonlocal calls
        calls += 1
        x0 = DATA.denoiser(process)(x, torch.full((1,), p.t, dtype=torch.float64)).mean
        return x0 if data else (x - p.alpha * x0) / p.sigma

    def a1(q):
        return -math.expm1(-q) if data else math.expm1(q)

    def a2(q):
        return 1 + math.expm1(-q) / q if data else math.expm1(q) / q - 1

    def base(x, p, q, value):
        c, keep = (q.alpha, q.sigma / p.sigma) if data else (-q.sigma, q.alpha / p.alpha)
        return keep * x + c * a1(q.half_log_snr - p.half_log_snr) * value

    x, l, end, h = start, t.half_log_snr, s.half_log_snr, first
    while end - l > 1e-12:
        h = min(h, end - l)
        p, q = at(l), at(l + h)
        c, value = (q.alpha if data else -q.sigma), m(x, p)
        u = at(l + h / order)
        one = m(base(x, p, u, value), u)
        if order == 2:
            low, high = base(x, p, q, value), base(x, p, q, value) + c * 2 * a2(h) * (one - value)
        else:
            v = at(l + 2 * h / 3)
            k = v.alpha if data else -v.sigma
            two = m(base(x, p, v, value) + k * 2 * a2(2 * h / 3) * (one - value), v)
            low = base(x, p, q, value) + c * 3 * a2(h) * (one - value)
            high = base(x, p, q, value) + c * 1.5 * a2(h) * (two - value)
        scale = torch.maximum(torch.tensor(atol), rtol * torch.maximum(low.abs(), x.abs()))
        error = float(((high - low) / scale).square().mean().sqrt())
        if error <= 1:
            x, l = high, l + h
        h *= min(max(0.9 * error ** (-1 / order), 0.2), 5.0)
    return x, calls


@pytest.mark.parametrize("data", [False, True], ids=["noise", "data"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("options", [(0.0078, 0.05, 0.05), (1e-4, 1e-3, 0.05), (1e-4, 1e-3, 2.0)])
def test_dpm_solver_12_and_23(order, data, options):
    """The third case begins with a step that is refused."""
    process = Gaussian(LinearVP())
    t, s = process.points([0.9, 0.05])
    expected, calls = published(START, t, s, order, data, *options)
    atol, rtol, first = options
    step = DPMSolverAdaptive(variable="x0" if data else "eps", stages=order, atol=atol, rtol=rtol, first=first)
    x, used = ours(step, process, 0.9, 0.05)
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-10)
    assert used == calls


def test_every_example_takes_its_own_steps():
    """Alone or beside others, to the last bit, though the others need many more steps."""
    process = Gaussian(LinearVP())
    start = torch.tensor([[0.9, -0.4], [30.0, -30.0], [0.0, 0.1]], dtype=torch.float64)
    for step in (RK45(), DPMSolverAdaptive()):
        together, _ = ours(step, process, 0.8, 0.1, start)
        for i in range(3):
            alone, _ = ours(step, process, 0.8, 0.1, start[i : i + 1])
            assert torch.equal(alone[0], together[i])


def test_mistakes():
    denoiser = DATA.denoiser(Gaussian(Rectified()))
    with pytest.raises(UsageProblem, match="cannot leave pure noise"):
        sample(denoiser, DPMSolverAdaptive(), Uniform(2), (2, 2))
    assert sample(denoiser, RK45(), Uniform(2), (2, 2)).isfinite().all()
    with pytest.raises(Problem, match="did not meet the tolerances"):
        sample(DATA.denoiser(Gaussian(EDM())), RK45(most=50), Karras(2), (2, 2))
    with pytest.raises(UsageProblem, match="has 2 or 3"):
        DPMSolverAdaptive(stages=1)
    with pytest.raises(UsageProblem, match="unknown variable"):
        DPMSolverAdaptive(variable="score")
    for name in ("atol", "rtol", "first", "safety"):
        with pytest.raises(UsageProblem, match=f"{name} is 0"):
            RK45(**{name: 0.0})
    assert RK45().evaluations(2) is None
    assert sample(denoiser, DPMSolverAdaptive(), LogSNR(2), (2, 2)).isfinite().all()
