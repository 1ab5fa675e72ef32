"""Law 5: the measured order of convergence is the declared one. Law 6: there and back.

Walks start and end away from clean data, where every path is smooth.
"""

from itertools import pairwise

import laws_parts as parts
import pytest
import torch
from probes import moments, slope

from unnoise.errors import UsageProblem
from unnoise.oracles import gaussian
from unnoise.processes.gaussian import CLEAN
from unnoise.samplers import PNDM, Adams, Ancestral, Churn, Euler, Heun, Integers, Karras, PredictorCorrector, sample
from unnoise.schedules import FromBetas

SPANS = {  # where the path of the mixture bends, in each schedule's own time
    "linear betas": (0.9, 0.1),
    "cosine betas": (0.9, 0.1),
    "linear VP": (0.9, 0.1),
    "sub-VP": (0.9, 0.15),
    "cosine": (0.9, 0.15),
    "VE": (0.75, 0.4),
    "EDM": (0.04, 0.004),
    "rectified": (0.9, 0.1),
    "learned": (0.8, 0.2),
}
DETERMINISTIC = {
    name: step for name, step in parts.STEPS.items() if step.order is not None and name not in parts.IN_NOISE
}


def walk(steps, top, low):
    """Even steps in t between two points."""
    return lambda process: process.points([top + (low - top) * i / steps for i in range(steps + 1)])


def reference(mixture, process, x, top, low, steps):
    """The probability flow dx/dt = f x - g^2/2 score by the classical fourth-order method, from the exact score."""
    denoiser = mixture.denoiser(process)

    def flow(x, t):
        t = torch.full((len(x),), t, dtype=torch.float64)
        c = process.with_derivatives(t, x)
        f = c.dalpha / c.alpha
        return f * x - c.sigma * (c.dsigma - f * c.sigma) * denoiser.score(x, t)

    h = (low - top) / steps
    for i in range(steps):
        t = top + i * h
        k1 = flow(x, t)
        k2 = flow(x + h / 2 * k1, t + h / 2)
        k3 = flow(x + h / 2 * k2, t + h / 2)
        k4 = flow(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.fixture(scope="module", params=list(SPANS))
def flow(request):
    """A process, states of the mixture at its top, and where the exact flow takes them."""
    process, mixture = parts.process(request.param), parts.smooth_mixture()
    top, low = SPANS[request.param]
    rng = parts.Together(32, seed=2)
    x = process.corrupt(mixture.sample(rng), process.point(top), rng)
    steps = 800 if "betas" in request.param else 400  # whole steps of the chain: it is a cubic between its integers
    return process, mixture, x, reference(mixture, process, x, top, low, steps), (top, low)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_order(flow, name):
    process, mixture, x, truth, span = flow
    step, errors = DETERMINISTIC[name], []
    counts = (20, 40, 80, 160) if step.order < 4 else (100, 200, 400)  # where the fourth order shows
    for steps in counts:
        out = sample(mixture.denoiser(process), step, walk(steps, *span), x.shape, start=x, dtype=torch.float64)
        errors.append(float((out - truth).square().mean().sqrt()))
    if step.order == 4 and isinstance(process.schedule, FromBetas):
        assert max(errors) < 1e-5, errors  # where it ends: the second derivative of a chain jumps at its integers
    elif isinstance(step, PNDM):  # of higher order where the noise level is time itself
        assert slope(errors, counts) > step.order - 0.15, errors
    else:
        assert slope(errors, counts) == pytest.approx(step.order, abs=0.15), errors


def in_noise(process, steps, top, low, power=1):
    """Even steps in log(alpha/sigma); with `power` 2 the first are small, as a multistep method's first orders are low."""
    half_log_snr = [top + (low - top) * (i / steps) ** power for i in range(steps + 1)]
    return process.points(process.schedule.time(2 * torch.tensor(half_log_snr, dtype=torch.float64)))


@pytest.mark.parametrize("name", [name for name in parts.IN_NOISE if parts.STEPS[name].order is not None])
def test_deterministic_order_in_noise(name):
    """Solvers that know nothing but noise levels: their order, and that the path on which these lie is nothing to them."""
    step, mixture, process = parts.STEPS[name], parts.smooth_mixture(), parts.process("EDM")
    power, counts = (
        (2, (80, 160, 320)) if isinstance(step, Adams) and step.coordinate != "steps" else (1, (40, 80, 160))
    )
    rng = parts.Together(16, seed=2)
    points = in_noise(process, 1, -1.5, 1.6)
    x = process.corrupt(mixture.sample(rng), points[0], rng)
    truth, errors = reference(mixture, process, x, points[0].t, points[1].t, 2000), []
    for steps in counts:
        points = in_noise(process, steps, -1.5, 1.6, power)
        out = sample(mixture.denoiser(process), step, lambda _: points, x.shape, start=x, dtype=torch.float64)  # noqa: B023
        errors.append(float((out - truth).square().mean().sqrt()))
    assert slope(errors, counts) == pytest.approx(step.order, abs=0.15), errors
    for other in map(parts.process, parts.SCHEDULES):
        points = in_noise(other, counts[0], -1.5, 1.6, power)
        start = x * points[0].alpha
        out = sample(mixture.denoiser(other), step, lambda _: points, x.shape, start=start, dtype=torch.float64)  # noqa: B023
        error = float((out / points[-1].alpha - truth).square().mean().sqrt())
        assert error == pytest.approx(errors[0], rel=1e-3, abs=1e-9)


# Law 5 for steps that draw noise: on Gaussian data the sampler is affine, and its moments are computed exactly.


@pytest.mark.parametrize("name", ["linear VP", "cosine", "rectified"])
@pytest.mark.parametrize(
    "step",
    [
        "ancestral",
        "ancestral, large",
        "ancestral, mixed",
        "ddim, eta 0.5",
        "euler-maruyama",
        "reverse diffusion",
    ],
)
def test_weak_order(name, step):
    process, step = parts.process(name), parts.STEPS[step]
    denoiser = parts.scalar_gaussian(process, 0.3, 0.25)
    top, low, counts = 0.9, 0.2, (40, 80, 160, 320)
    a, b = process.point(top), process.point(low)
    variance, mean = [], []
    for steps in counts:
        points = walk(steps, top, low)(process)
        m, v = moments(denoiser, step, points, 0.3 * a.alpha, 0.25 * a.alpha**2 + a.sigma**2)
        mean.append(abs(m - 0.3 * b.alpha))
        variance.append(abs(v - 0.25 * b.alpha**2 - b.sigma**2))
    assert slope(variance, counts) == pytest.approx(step.weak_order, abs=0.1), variance
    assert max(mean) < 1e-10 or slope(mean, counts) > step.weak_order - 0.1, mean


def test_optimal_variance_makes_gaussian_data_exact():
    """The posterior mean is affine and the variance constant, so the reverse step is exactly Gaussian: any step size."""
    for name in parts.SCHEDULES:
        process = parts.process(name)
        for steps in (1, 3, 10):
            points = [*walk(steps, 1.0, 0.3)(process)[:-1], CLEAN] if steps > 1 else [process.point(1.0), CLEAN]
            top = points[0]
            if top.alpha == 0:
                continue
            denoiser = parts.scalar_gaussian(process, 0.3, 0.25)
            mean, variance = moments(
                denoiser, parts.STEPS["ancestral, optimal"], points, 0.3 * top.alpha, 0.25 * top.alpha**2 + top.sigma**2
            )
            last = points[-2]
            left = 0.25 * last.sigma**2 / (0.25 * last.alpha**2 + last.sigma**2)  # the last step draws nothing
            assert mean == pytest.approx(0.3, abs=1e-9)
            assert variance == pytest.approx(0.25 - left, abs=1e-9)


@pytest.mark.parametrize("name", ["EDM", "linear VP", "cosine"])
@pytest.mark.parametrize("inner", [Euler(), Heun()], ids=["euler", "heun"])
def test_churn_weak_order(name, inner):
    """Every sub-step of churn keeps the marginals, but for the error of its ODE step (s_churn fixed, s_noise 1)."""
    process = parts.process(name)
    top, low = {"EDM": (0.03, 0.003)}.get(name, (0.85, 0.25))
    step, counts, errors = Churn(inner, s_churn=3, s_min=0, s_max=1e9, s_noise=1.0), (160, 320, 640, 1280), []
    a, b = process.point(top), process.point(low)
    for steps in counts:
        points = walk(steps, top, low)(process)
        _, v = moments(parts.scalar_gaussian(process), step, points, 0, 0.25 * a.alpha**2 + a.sigma**2)
        errors.append(abs(v - 0.25 * b.alpha**2 - b.sigma**2))
    assert slope(errors, counts) == pytest.approx(step.weak_order, abs=0.15), errors


def test_churn_ends_at_the_variance_of_the_data():
    """EDM, rho = 7 grid: without its last step the walk ends at sd^2 + sigma_min^2, at the second order."""
    process, counts, errors = parts.process("EDM"), (256, 512, 1024), []
    for steps in counts:
        points = Karras(steps)(process)[:-1]
        step = Churn(s_churn=40, s_noise=1.0)
        _, variance = moments(parts.scalar_gaussian(process), step, points, 0, 0.25 + 80**2)
        errors.append(abs(variance - 0.25 - 0.002**2))
    assert slope(errors, counts) == pytest.approx(2, abs=0.15), errors
    assert errors[-1] < 1e-4


@pytest.mark.parametrize("steps, euler, heun", [(64, 1, 2)])
def test_edm_flow_of_gaussian_data_is_closed(steps, euler, heun):
    """x(sigma) = x(sigma_0) sqrt((sd^2 + sigma^2) / (sd^2 + sigma_0^2)), on the rho = 7 grid."""
    process = parts.process("EDM")
    denoiser = gaussian(torch.zeros(1).double(), 0.25).denoiser(process)
    x = torch.tensor([[40.0]], dtype=torch.float64)
    truth = 40 * ((0.25 + 0.002**2) / (0.25 + 80**2)) ** 0.5
    for step, order in ((Euler(), euler), (Heun(), heun)):
        counts, errors = (steps, 2 * steps, 4 * steps), []
        for n in counts:
            out = sample(denoiser, step, lambda p, n=n: Karras(n)(p)[:-1], x.shape, start=x, dtype=torch.float64)
            errors.append(abs(float(out) - truth))
        assert slope(errors, counts) == pytest.approx(order, abs=0.1)


# Known numbers, exactly.


def ratio(step, steps, variance, spacing="both"):
    """Standard deviation after sampling a chain of linear betas from N(0, 1), over the data's."""
    process = parts.process("linear betas")
    points = Integers(steps, spacing)(process)
    return (moments(parts.scalar_gaussian(process, 0, variance), step, points, 0, 1)[1] / variance) ** 0.5


@pytest.mark.parametrize(
    "variance, errors", [(1.0, [0.1854, 0.0918, 0.0366, 0.01833]), (0.25, [0.2768, 0.1391, 0.0562, 0.0283])]
)
def test_ddim_shrinks_as_its_paper_says(variance, errors):
    ours = [1 - ratio(parts.STEPS["ddim"], steps, variance) for steps in (10, 20, 50, 100)]
    assert ours == pytest.approx(errors, abs=6e-5)


@pytest.mark.parametrize(
    "step, ratios",
    [
        ("ancestral, large", {10: 1.1975, 20: 1.0926, 100: 1.0172, 1000: 1.0015}),
        ("ancestral", {10: 0.646, 20: 0.776, 100: 0.936, 1000: 0.992}),
        ("ancestral, optimal", {10: 0.9998, 20: 0.9998, 100: 0.9998, 1000: 0.9998}),
    ],
)
def test_std_of_respaced_chains(step, ratios):
    ours = {steps: ratio(parts.STEPS[step], steps, 0.25) for steps in ratios}
    assert ours == pytest.approx(ratios, abs=6e-5 if step != "ancestral" else 6e-4)


def test_fixed_large_is_exact_for_unit_variance():
    """Every marginal stays N(0, 1); the last step, which draws nothing, leaves a_1 = 0.9999 of the variance."""
    assert ratio(Ancestral(variance="large"), 1000, 1.0) ** 2 == pytest.approx(0.9999, abs=1e-12)


def test_a_point_mass_is_returned_from_anywhere():
    process = parts.process("linear betas")
    target = parts.normal(1, 5, seed=1)
    denoiser = gaussian(target[0], 0.0).denoiser(process)
    x = 10 * parts.normal(1, 5)
    for name, step in parts.STEPS.items():
        if "learned" in name:
            continue
        for steps in (1, 20) if "churn" not in name else (20,):
            try:
                out = sample(denoiser, step, Integers(steps), x.shape, start=x, dtype=torch.float64)
            except UsageProblem:
                assert steps == 1  # methods of several steps refuse a walk that is shorter
                continue
            torch.testing.assert_close(out, target, rtol=0, atol=1e-6)


# Law 6: there and back


def back_and_forth(process, step, counts, top, low):
    mixture = parts.smooth_mixture()
    denoiser, rng = mixture.denoiser(process), parts.Together(200, seed=1)
    x = process.corrupt(mixture.sample(rng), process.point(low), rng)
    errors = []
    for steps in counts:
        points = walk(steps, top, low)(process)
        up = sample(denoiser, step, lambda _: points[::-1], x.shape, start=x, dtype=torch.float64)  # noqa: B023
        down = sample(denoiser, step, lambda _: points, x.shape, start=up, dtype=torch.float64)  # noqa: B023
        errors.append(float((down - x).square().mean().sqrt()))
    return errors


@pytest.mark.parametrize("name", list(SPANS))
@pytest.mark.parametrize("step", ["heun", "euler", "ddim"])
def test_there_and_back(name, step):
    """Data to noise and back along the flow: the error falls with the order of the step, or faster."""
    errors = back_and_forth(parts.process(name), parts.STEPS[step], (40, 80, 160), *SPANS[name])
    order = parts.STEPS[step].order
    for coarse, fine in pairwise(errors):
        assert coarse / fine > 0.85 * 2**order, errors


def test_ddim_encoding_error_halves():
    errors = back_and_forth(parts.process("linear betas"), parts.STEPS["ddim"], (25, 50, 100, 200), 1.0, 0.02)
    assert [a / b for a, b in pairwise(errors)] == pytest.approx([2, 2, 2], abs=0.25), errors


def test_every_step_declares_an_order():
    for name, step in parts.STEPS.items():
        corrects = name in parts.CORRECTORS or isinstance(step, PredictorCorrector)  # a bias that no grid removes
        if corrects or name in parts.ADAPTIVE:  # the tolerance decides, not the grid
            assert step.order is None and step.weak_order is None
        else:
            assert step.order in (1, 2, 3, 4) or step.weak_order in (1, 2)
