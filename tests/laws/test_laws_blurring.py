"""The blurring paper's process: every solver of the house runs on it unchanged, at its declared order."""

import math

import laws_parts as parts
import pytest
import torch
from probes import OneHot, slope

from unnoise.denoisers import NetworkDenoiser, Raw
from unnoise.denoisers.preconditioning import KINDS
from unnoise.errors import UsageProblem
from unnoise.explain import noise_levels
from unnoise.likelihood import Flow, likelihood, variational_bound
from unnoise.objectives import Matching, implied_weighting
from unnoise.objectives import Uniform as UniformTimes
from unnoise.oracles import gaussian
from unnoise.papers.blurring import Blurring
from unnoise.processes import DCT, Dissipating, Gaussian
from unnoise.samplers import Adams, Ancestral, SingleStep, Uniform, sample
from unnoise.schedules import Cosine

SIZE = 4
TOP, LOW = 0.85, 0.25  # where paths bend


@pytest.fixture(scope="module")
def scene():
    """The paper's schedule at the scale of 4x4, Gaussian data of falling spectrum, and their exact denoiser."""
    process = Gaussian(Dissipating(Cosine(-10.0, 10.0), (SIZE, SIZE), blur=1.0, floor=0.05), DCT())
    mean = 0.3 * parts.normal(1, SIZE, SIZE, seed=2)
    variance = 1 / (1 + process.schedule.rate(mean))
    return process, mean, variance, gaussian(mean, variance).denoiser(process)


def at(point, mean, variance):
    """Mean and variance of the state at a point."""
    return point.alpha * mean, point.alpha**2 * variance + point.sigma**2


def walk(process, steps, power=1):
    return process.points([TOP + (LOW - TOP) * (i / steps) ** power for i in range(steps + 1)])


DETERMINISTIC = [name for name, step in parts.STEPS.items() if step.order is not None and name != "deis in time"]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_order(scene, name):
    """Against the closed flow of each frequency, in which (x - mean_t) / std_t stays."""
    process, mean, variance, oracle = scene
    step, counts, errors = parts.STEPS[name], (80, 160, 320), []
    if isinstance(step, SingleStep) and step.stages == 3:
        counts = (20, 40, 80)  # before they reach rounding
    power = 2 if isinstance(step, Adams) and step.coordinate != "steps" else 1  # their first steps are of lower order
    (m, v), (m_low, v_low) = (at(p, mean, variance) for p in process.points([TOP, LOW]))
    x = m + v.sqrt() * parts.normal(4, 1, SIZE, SIZE, seed=3)
    truth = m_low + (v_low / v).sqrt() * (x - m)
    for n in counts:
        points = walk(process, n, power)
        out = sample(oracle, step, lambda _: points, x.shape, start=x, dtype=torch.float64)  # noqa: B023
        errors.append(float((process.state(out) - truth).square().mean().sqrt()))
    if name == "single step in v":  # rounding comes before the share of the fourth order is gone
        assert slope(errors, counts) > step.order - 0.15, errors
    else:
        assert slope(errors, counts) == pytest.approx(step.order, abs=0.15), errors


STOCHASTIC = [
    "ancestral",
    "ancestral, large",
    "ancestral, mixed",
    "ancestral, optimal",
    "ddim, eta 0.5",
    "euler-maruyama",
    "reverse diffusion",
    "sde-dpm-solver++ 2m",
    "seeds-1",
    "seeds-2",
    "seeds-3",
]


def moments(oracle, step, points, mean, variance, draws=3):
    """Mean and variance of every frequency after a walk that starts with these: exactly, for the walk is affine."""
    rows, event = 2 + draws * len(points), mean.shape
    start = torch.zeros(rows, *event, dtype=torch.float64)
    start[1] = 1
    out = sample(oracle, step, lambda _: points, start.shape, rng=OneHot(rows, 2), start=start, dtype=torch.float64)
    out = oracle.process.state(out)
    slopes = out[1:] - out[0]
    return out[0] + slopes[0] * mean, slopes[0] ** 2 * variance + (slopes[1:] ** 2).sum(0)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order(scene, name):
    process, mean, variance, oracle = scene
    step, counts, errors = parts.STEPS[name], (40, 80, 160), []
    for n in counts:
        points = walk(process, n)
        m, v = moments(oracle, step, points, *(c[0] for c in at(points[0], mean[None], variance[None])))
        m_low, v_low = at(points[-1], mean, variance)
        errors.append(max(float((v - v_low).abs().max()), float((m - m_low).abs().max())))
    if name == "ancestral, optimal":  # exact for Gaussian data
        assert max(errors) < 1e-10
    else:
        assert slope(errors, counts) > step.weak_order - 0.15, errors


def test_one_noise_level_is_asked_for_in_a_sentence(scene):
    _, mean, _, oracle = scene
    for name in ("deis in time", "churn heun"):
        with pytest.raises(UsageProblem, match="for each frequency"):
            sample(oracle, parts.STEPS[name], Uniform(5), (1, *mean.shape))


# Without blur it is the plain process.


class Mixing(torch.nn.Module):
    """A network in which pixels depend on their neighbours."""

    def forward(self, x, t, cond=None):
        return torch.tanh(x.roll(1, -1) + 0.5 * x.roll(1, -2)) * (1 - t[:, None, None, None] / 2)


WALKERS = [n for n in (*DETERMINISTIC, *STOCHASTIC) if n != "ancestral, optimal"]
ONE_STAGE = [n for n in WALKERS if not isinstance(parts.STEPS[n], SingleStep) or parts.STEPS[n].stages == 1]


@pytest.mark.parametrize(
    "name, blur",
    [*((n, 0.0) for n in WALKERS), *((n, 1e-9) for n in ONE_STAGE)],  # stages lie elsewhere with a level per frequency
)
def test_without_blur_samples_are_the_plain_ones(name, blur):
    """From one noise, 1e-8 apart in the same basis: by its very coefficients, and as the limit of a vanishing blur."""
    schedule = Cosine(-10.0, 10.0)
    processes = Gaussian(Dissipating(schedule, (SIZE, SIZE), blur), DCT()), Gaussian(schedule, DCT())
    x = parts.normal(3, 1, SIZE, SIZE)
    ours, theirs = (
        sample(NetworkDenoiser(Mixing(), p, Raw("eps", scale=1.0)), parts.STEPS[name], Uniform(12), x.shape, start=x,
               rng=parts.Together(3), dtype=torch.float64)
        for p in processes
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


# Schedule


def test_dissipation_is_the_heat_equation():
    """d_t of a long cosine is what Gaussian blur of width sigma_B does to it, mirrored at the borders."""
    from scipy.ndimage import gaussian_filter

    schedule = Dissipating(Cosine(), (64, 48), blur=4.0, floor=1e-12)
    x = parts.normal(1, 1, 64, 48)
    for t in (0.3, 0.6, 1.0):
        d = schedule.dissipation(torch.tensor([t], dtype=torch.float64))
        ours = DCT().inverse(d * DCT()(x))[0, 0]
        width = 4.0 * math.sin(math.pi * t / 2) ** 2
        theirs = torch.from_numpy(gaussian_filter(x[0, 0].numpy(), width, mode="reflect", truncate=12))
        tolerance = 1e-3 if width > 1.5 else 0.05  # a sampled Gaussian is not the continuous one where it is narrow
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("floor", [0.001, 0.2])
def test_alpha_is_the_papers(floor):
    schedule, t = Dissipating(Cosine(-10.0, 10.0), (3, 5), 2.0, floor), torch.tensor([0.2, 0.9], dtype=torch.float64)
    for i, u in enumerate(t.tolist()):
        for n in range(3):
            for m in range(5):
                rate = (math.pi * n / 3) ** 2 + (math.pi * m / 5) ** 2
                tau = (2 * math.sin(math.pi * u / 2) ** 2) ** 2 / 2
                b = math.atan(math.exp(-5))
                a = math.cos((math.atan(math.exp(5)) - b) * u + b)
                expected = a * ((1 - floor) * math.exp(-rate * tau) + floor)
                assert float(schedule.alpha(t)[i, 0, n, m]) == pytest.approx(expected, rel=1e-12)


def test_derivatives_are_finite_differences():
    schedule, h = Dissipating(Cosine(-10.0, 10.0), (3, 5), 2.0), 1e-6
    t = torch.linspace(0.01, 0.99, 23, dtype=torch.float64)
    for value, f in zip(schedule.derivatives(t), (schedule.alpha, schedule.sigma), strict=True):
        torch.testing.assert_close(value, (f(t + h) - f(t - h)) / (2 * h), rtol=1e-5, atol=1e-8)


def test_transitions_compose(scene):
    """s -> t -> r is s -> r, for every frequency (Chapman-Kolmogorov), and all variances are positive."""
    process = Blurring(blur=20.0).process((8, 6))
    s, t, r = process.points([0.1, 0.5, 0.8])
    one, zero = torch.ones(1, 1, 8, 6, dtype=torch.float64), torch.zeros(1, 1, 8, 6, dtype=torch.float64)
    st, tr, sr = (process.transition(one, a, b) for a, b in ((s, t), (t, r), (s, r)))
    torch.testing.assert_close(st.mean * tr.mean, sr.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close((tr.mean * st.std) ** 2 + tr.std**2, (sr.std**2).expand_as(one), rtol=1e-10, atol=0)
    assert float(process.transition(zero, s, t).std.min()) > 0


@pytest.mark.parametrize("options", [{"blur": -1.0}, {"floor": 0.0}, {"floor": 2.0}])
def test_impossible_schedules_are_refused(options):
    with pytest.raises(UsageProblem, match="blur >= 0"):
        Dissipating(Cosine(), (4, 4), **options)


# Networks and losses on it


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_any_kind_gives_the_data_back(kind):
    process = Blurring(blur=3.0).process((SIZE, SIZE))
    x0, t = parts.normal(5, 1, SIZE, SIZE), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    eps = parts.normal(5, 1, SIZE, SIZE, seed=1)
    c = process.with_derivatives(t, x0)
    u = process.state(x0)
    xt = c.alpha * u + c.sigma * eps
    value = {
        "x0": u,
        "eps": eps,
        "v": c.alpha * eps - c.sigma * u,
        "score": -eps / c.sigma,
        "velocity": c.dalpha * u + c.dsigma * eps,
    }[kind]

    class Answer(torch.nn.Module):
        def forward(self, x, t, cond=None):
            return process.data(value)

    torch.testing.assert_close(NetworkDenoiser(Answer(), process, Raw(kind))(xt, t).mean, x0, rtol=1e-8, atol=1e-8)


def test_the_loss_is_the_papers():
    """mean |eps - eps_theta|^2 in pixels, of a network that sees z_t = IDCT(alpha DCT(x)) + sigma eps."""
    process = Blurring(blur=3.0).process((SIZE, SIZE))
    x0 = parts.normal(6, 2, SIZE, SIZE)
    seen = {}

    class Network(torch.nn.Module):
        def forward(self, x, t, cond=None):
            seen["z"], seen["t"] = x, t / 1000
            return torch.sin(x)

    denoiser = NetworkDenoiser(Network(), process, Raw("eps"))
    loss = Matching("eps", UniformTimes())(denoiser, x0, None, parts.Together(6, seed=3)).per_example
    rng = parts.Together(6, seed=3)
    t = UniformTimes().draw(process, rng)
    noise = DCT().inverse(rng.normal(2, SIZE, SIZE))
    alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)[:, None, None, None]
    z = DCT().inverse(alpha * DCT()(x0)) + sigma * noise
    torch.testing.assert_close(seen["z"], z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(seen["t"], t)
    torch.testing.assert_close(loss, (noise - torch.sin(z)).square().flatten(1).mean(1), rtol=1e-7, atol=1e-9)


def test_the_loss_weights_all_frequencies_of_the_noise_alike():
    process, t = Blurring(blur=3.0).process((SIZE, SIZE)), torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    assert torch.equal(Matching("eps", UniformTimes()).on_eps(process, t)[0], torch.ones(7, dtype=torch.float64))
    with pytest.raises(UsageProblem, match="each frequency"):
        Matching("x0", UniformTimes()).on_eps(process, t)
    with pytest.raises(UsageProblem, match="one log-SNR for each frequency"):
        implied_weighting(Matching("eps", UniformTimes()), process)
    with pytest.raises(UsageProblem, match="one log-SNR for each frequency"):
        noise_levels(process, 5)


def test_the_bound_of_the_exact_guess_is_the_entropy(scene):
    """With its own variances the reverse chain of Gaussian data is the true one, whatever the number of steps."""
    process, mean, variance, oracle = scene
    n = 4000
    x0 = process.data(mean + variance.sqrt() * parts.normal(n, 1, SIZE, SIZE, seed=6))
    rng = parts.Together(n, seed=8)
    terms = variational_bound(oracle, Ancestral(variance="optimal"), Uniform(25)(process), x0, rng)
    nats = terms.total * SIZE**2 * math.log(2)
    entropy = float((0.5 * (2 * math.pi * math.e * variance).log()).sum())
    assert float(nats.mean()) == pytest.approx(entropy, abs=4.5 * float(nats.std()) / n**0.5)
    plain = variational_bound(oracle, Ancestral(), Uniform(25)(process), x0, parts.Together(n, seed=8))
    assert float(plain.total.mean()) > float(terms.total.mean()) + 0.05  # and any other variances pay for it


def test_grey_levels_are_not_decoded_frequency_by_frequency(scene):
    _, mean, _, oracle = scene
    with pytest.raises(UsageProblem, match="method flow"):
        likelihood(oracle, mean[None], "bound", levels=256)


def test_bfloat16_is_for_the_network_alone():
    """Under autocast the state's transform keeps float32's digits."""
    x = parts.normal(2, 1, 28, 28).float()
    with torch.autocast("cpu", torch.bfloat16):
        there = DCT()(x)
        back = DCT().inverse(there)
    assert there.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_likelihood_of_the_flow(scene):
    process, mean, variance, oracle = scene
    u = mean + variance.sqrt() * parts.normal(3, 1, SIZE, SIZE, seed=5)
    found = likelihood(oracle, process.data(u), Flow(solver="rk4", steps=200, divergence="exact")).nats
    expected = (0.5 * (u - mean) ** 2 / variance + 0.5 * (2 * math.pi * variance).log()).flatten(1).sum(1)
    assert float((found - expected).abs().max()) < 0.02 * expected.abs().max()


@pytest.mark.parametrize("step", ["ancestral", "ddim"])
def test_float32_is_enough_though_alpha_spans_five_powers_of_ten(step):
    """The guess of a lost frequency is a hundred thousand times its share of the state; the walk never sees the difference."""
    process = Blurring(blur=20.0).process((32, 32))
    denoiser = NetworkDenoiser(Mixing(), process, Raw("eps", scale=1.0))
    single, double = (
        sample(
            denoiser, parts.STEPS[step], lambda p: p.points([1 - 0.1 * i for i in range(10)]), (2, 1, 32, 32), dtype=d
        )
        for d in (torch.float32, torch.float64)
    )
    assert float((single.double() - double).norm() / double.norm()) < 1e-4
