"""Law 2: every kind of prediction and every preconditioning says the same thing in other numbers."""

import itertools
import math

import laws_parts as parts
import pytest
import torch
from torch import nn

from unnoise.denoisers import EDM, IDDPM, VE, VP, NetworkDenoiser, relation
from unnoise.denoisers.preconditioning import KINDS
from unnoise.errors import UsageProblem
from unnoise.objectives import Matching, UniformSteps
from unnoise.processes import Gaussian
from unnoise.schedules import EDM as EDMSchedule

N, D = 64, 3
SCHEDULES, PRECONDITIONINGS = list(parts.SCHEDULES), list(parts.PRECONDITIONINGS)
T = torch.arange(1, N + 1, dtype=torch.float64) * 15 / 1000  # integers of a chain of 1000, up to 0.96


def scene(name):
    process, x0, eps = parts.process(name), parts.normal(N, D), parts.normal(N, D, seed=1)
    c = process.with_derivatives(T, x0)
    return process, c, x0, eps, c.alpha * x0 + c.sigma * eps


def definitions(c, x0, eps, xt):
    return {
        "x0": x0,
        "eps": eps,
        "v": c.alpha * eps - c.sigma * x0,
        "score": -(xt - c.alpha * x0) / c.sigma**2,
        "velocity": c.dalpha * x0 + c.dsigma * eps,
    }


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_kind_is_its_definition(name):
    _, c, x0, eps, xt = scene(name)
    truth = definitions(c, x0, eps, xt)
    assert set(truth) == set(KINDS), "a new kind of prediction needs its definition here"
    for kind in KINDS:
        p, q = relation(kind, c)
        assert relative(p * xt + q * x0, truth[kind]) < 1e-11


@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions_are_cycles(name):
    _, c, x0, eps, xt = scene(name)
    truth = definitions(c, x0, eps, xt)
    for there, back in itertools.permutations(KINDS, 2):
        (p, q), (p2, q2) = relation(there, c), relation(back, c)
        other = p2 * xt + q2 * (truth[there] - p * xt) / q
        again = p * xt + q * (other - p2 * xt) / q2
        scale = truth[there].abs().clamp(min=1)
        assert float(((again - truth[there]) / scale).abs().max()) < 1e-8, (there, back)


class Answer(nn.Module):
    """A network that knows what it should say, and remembers what it was told."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, t, cond=None):
        self.seen, self.told = x, t
        return self.output


@pytest.mark.parametrize("precondition", PRECONDITIONINGS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_network_that_says_the_target_recovers_the_data(name, precondition):
    process, c, x0, _, xt = scene(name)
    part = parts.PRECONDITIONINGS[precondition]
    if precondition == "DDPM mean":
        if "betas" not in name:
            pytest.skip("the mean of the step before belongs to a chain")
        part = type(part)(process.schedule, "mean")
    p, q = part.relation(c)
    network = Answer(p * xt + q * x0)
    guess = NetworkDenoiser(network, process, part)(xt, T)
    assert float(((guess.mean - x0) * (c.alpha / c.sigma).clamp(max=1)).abs().max()) < 1e-10
    assert torch.isfinite(network.told).all()
    assert torch.equal(network.seen, xt * part.c_in(c))


def test_mean_prediction_is_ddpms():
    """mu~ from betas alone, at every step but the first, where it is the data."""
    part = parts.PRECONDITIONINGS["DDPM mean"]
    process = Gaussian(part.schedule)
    steps = torch.arange(1, 1001)
    x0, xt = parts.normal(1000, 1), parts.normal(1000, 1, seed=1)
    p, q = part.relation(process.at(steps / torch.tensor(1000.0).double(), xt))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1).double(), abar[:-1]])
    mean = (before.sqrt() * betas / (1 - abar))[:, None] * x0
    mean = mean + ((1 - betas).sqrt() * (1 - before) / (1 - abar))[:, None] * xt
    torch.testing.assert_close(p * xt + q * x0, mean, rtol=1e-10, atol=1e-12)


SIGMA = torch.logspace(math.log10(0.002), math.log10(80), N, dtype=torch.float64)
SD = 0.5


def columns():
    """c_skip, c_out, c_in, c_noise and loss weight as EDM's table 1 prints them."""
    s, one = SIGMA, torch.ones_like(SIGMA)
    vp_time = (torch.sqrt(0.1**2 + 2 * 19.9 * torch.log(1 + s**2)) - 0.1) / 19.9
    u, c1, c2, m = [0.0], 0.001, 0.008, 1000
    for j in range(m, 0, -1):
        ratio = (math.sin(math.pi / 2 * (j - 1) / (m * (c2 + 1))) / math.sin(math.pi / 2 * j / (m * (c2 + 1)))) ** 2
        u.insert(0, math.sqrt((u[0] ** 2 + 1) / max(ratio, c1) - 1))
    nearest = (torch.tensor(u).double()[None] - s[:, None]).abs().argmin(1)
    return {
        "VP": (VP(), one, -s, 1 / (1 + s**2).sqrt(), 999 * vp_time, 1 / s**2),
        "VE": (VE(), one, s, one, (s / 2).log(), 1 / s**2),
        "IDDPM": (IDDPM(), one, -s, 1 / (1 + s**2).sqrt(), (999 - nearest).double(), 1 / s**2),
        "EDM": (
            EDM(SD),
            SD**2 / (s**2 + SD**2),
            s * SD / (s**2 + SD**2).sqrt(),
            1 / (s**2 + SD**2).sqrt(),
            s.log() / 4,
            (s**2 + SD**2) / (s * SD) ** 2,
        ),
    }


@pytest.mark.parametrize("column", columns())
def test_edm_table_1(column):
    part, c_skip, c_out, c_in, c_noise, weight = columns()[column]
    process = Gaussian(EDMSchedule())
    t = SIGMA / 80
    c = process.at(t, SIGMA)
    p, q = part.relation(c)
    for ours, table in ((-p / q, c_skip), (1 / q, c_out), (part.c_in(c) * torch.ones_like(t), c_in)):
        torch.testing.assert_close(ours, table, rtol=1e-12, atol=0)
    torch.testing.assert_close(part.c_noise(t, process.schedule.log_snr(t)), c_noise, rtol=1e-9, atol=1e-9)
    # comparing F is comparing D with the column's weight: all four give equal losses for equal D
    objective = Matching("F", UniformSteps(1000))
    y, noise = parts.normal(N, D), parts.normal(N, D, seed=1)
    xt, guess = y + SIGMA[:, None] * noise, parts.normal(N, D, seed=2)
    network = Answer((guess - c_skip[:, None] * xt) / c_out[:, None])
    denoiser = NetworkDenoiser(network, process, part)
    loss = objective.compare_at(denoiser, y, xt, t, None, torch.ones(N))
    torch.testing.assert_close(loss.per_example, weight * ((guess - y) ** 2).mean(1), rtol=1e-8, atol=1e-10)
    # and that is plain mean squared error on the network's output
    target = (y - c_skip[:, None] * xt) / c_out[:, None]
    torch.testing.assert_close(loss.per_example, ((network.output - target) ** 2).mean(1), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sd", [0.5, 1.3])
def test_edm_gives_unit_variances_on_any_process(name, sd):
    process = parts.process(name)
    c = process.at(torch.linspace(0.001, 1, N, dtype=torch.float64), torch.ones(N))
    part = EDM(sd)
    p, q = part.relation(c)
    variance = c.alpha**2 * sd**2 + c.sigma**2
    torch.testing.assert_close(part.c_in(c) ** 2 * variance, torch.ones(N).double(), rtol=1e-12, atol=0)
    target = (p * c.alpha + q) ** 2 * sd**2 + p**2 * c.sigma**2  # Var F* for data of variance sd^2
    torch.testing.assert_close(target, torch.ones(N).double(), rtol=1e-9, atol=0)


def test_edm_limits():
    part, x, f = EDM(SD), 1.7, 0.9
    clean, noisy = (Gaussian(EDMSchedule()).point(s / 80) for s in (1e-12, 1e12))
    p, q = part.relation(clean)
    assert (f - p * x) / q == pytest.approx(x, abs=1e-11)
    p, q = part.relation(noisy)
    assert (f - p * x) / q == pytest.approx(SD * f, abs=1e-11)
    top = parts.process("rectified").point(1.0)  # no signal left: alpha = 0
    p, q = part.relation(top)
    assert (f - p * x) / q == pytest.approx(SD * f, abs=1e-15)
    assert part.c_in(top) == 1


@pytest.mark.parametrize("column", columns())
@pytest.mark.parametrize("name", ["linear VP", "cosine", "rectified"])
def test_columns_see_only_the_noise_level(name, column):
    """A process scaled by alpha and the unscaled one of the same sigma/alpha give the same guess, for any network."""
    part = columns()[column][0]
    scaled, unscaled = parts.process(name), Gaussian(EDMSchedule())
    t = torch.linspace(0.01, 0.95, N, dtype=torch.float64)
    c = scaled.at(t, torch.ones(N, D))
    x = parts.normal(N, D)
    network = lambda x, t, cond=None: torch.tanh(x + 0.1 * t[:, None])  # noqa: E731

    class Net(nn.Module):
        def forward(self, x, t, cond=None):
            return network(x, t)

    ours = NetworkDenoiser(Net(), scaled, part)(c.alpha * x, t).mean
    theirs = NetworkDenoiser(Net(), unscaled, part)(x, (c.ratio / 80).squeeze(1)).mean
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_learned_range_splits_the_channels():
    process, _, x0, _, xt = scene("linear betas")
    v = parts.normal(N, D, seed=5)
    p, q = relation("eps", process.at(T, xt))
    denoiser = NetworkDenoiser(
        Answer(torch.cat([p * xt + q * x0, v], 1)), process, parts.PRECONDITIONINGS["DDPM"], True
    )
    guess = denoiser(xt, T)
    assert relative(guess.mean, x0) < 1e-10
    assert torch.equal(guess.fraction, (v + 1) / 2)


def test_the_ddpm_network_is_told_the_index():
    process, _, _, _, xt = scene("linear betas")
    network = Answer(torch.zeros_like(xt))
    NetworkDenoiser(network, process, parts.PRECONDITIONINGS["DDPM"])(xt, T)
    torch.testing.assert_close(network.told, torch.arange(1, N + 1).double() * 15 - 1, rtol=0, atol=1e-10)


def test_the_network_keeps_its_precision_and_the_state_its_own():
    process, _, _, _, xt = scene("EDM")

    class Net(nn.Linear):
        def forward(self, x, t, cond=None):
            self.types = x.dtype, t.dtype
            return super().forward(x)

    net = Net(D, D)
    guess = NetworkDenoiser(net, process, EDM())(xt, T).mean
    assert net.types == (torch.float32, torch.float32)
    assert guess.dtype == torch.float64


@pytest.mark.parametrize(
    "build", [lambda: relation("noise", None), lambda: parts.P.Raw("noise"), lambda: Matching("f", None)]
)
def test_unknown_kinds_are_refused_by_name(build):
    with pytest.raises(UsageProblem, match="kind of prediction"):
        build()
