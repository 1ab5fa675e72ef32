"""The flow's likelihood against closed forms: Gaussians and mixtures, in any process, rank, batch and basis."""

import math

import likelihood_toys as toys
import pytest
import torch
from probes import slope
from torch import nn

from unnoise.denoisers import NetworkDenoiser, Raw
from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import Problem, UsageProblem
from unnoise.laws import Estimate
from unnoise.likelihood import Flow, flow_nats, likelihood
from unnoise.likelihood.clock import clock
from unnoise.likelihood.flow import velocity_and_divergence
from unnoise.networks import MLPOptions
from unnoise.oracles import gaussian
from unnoise.processes import DCT, Gaussian, Process
from unnoise.rng import Rng
from unnoise.schedules import Schedule

LN2PI = math.log(2 * math.pi)


def of_gaussian(process, x, variance):
    """The flow is linear, x_1 = x_0 sqrt(v_1 / v_0): its density of x, nats, with the process's own prior and start."""
    low, high = (process.point(t) for t in (clock(process, None, "").low, clock(process, None, "").high))
    v0, v1 = (c.alpha**2 * variance + c.sigma**2 for c in (low, high))
    prior = process.prior(x.shape, high).std ** 2
    end = (low.alpha * x) ** 2 * v1 / v0
    return (0.5 * (end / prior + math.log(prior) + LN2PI - math.log(v1 / v0)) - math.log(low.alpha)).flatten(1).sum(1)


@pytest.mark.parametrize("name", toys.SCHEDULES)
def test_gaussian_data(name):
    process, x = toys.process(name), 0.5 * toys.normal(5, 3)
    denoiser = gaussian(torch.zeros(3).double(), 0.25).denoiser(process)
    result = likelihood(denoiser, x, Flow(tolerance=1e-8))
    truth = of_gaussian(process, x, 0.25)
    torch.testing.assert_close(result.nats, truth, rtol=0, atol=2e-6)
    torch.testing.assert_close(result.bits, truth / (3 * math.log(2)), rtol=0, atol=2e-6)
    data = 0.5 * (x**2 / 0.25 + math.log(0.25) + LN2PI).sum(
        1
    )  # of the data themselves: prior and start are nearly theirs
    assert float((result.nats.mean() - data.mean()).abs()) / (3 * math.log(2)) < 1e-3
    loose, fixed = likelihood(denoiser, x), likelihood(denoiser, x, Flow(solver="rk4", steps=80))
    torch.testing.assert_close(loose.nats, truth, rtol=0, atol=5e-4)
    torch.testing.assert_close(fixed.nats, truth, rtol=0, atol=5e-4)
    assert int(loose.evaluations.max()) < 200 and (fixed.evaluations == 320).all()


@pytest.mark.parametrize("name", ["cosine", "rectified"])
@pytest.mark.parametrize("label", [None, 0, 1, -1])
def test_mixtures(name, label):
    """Processes that end in pure noise: nothing but the data's own density is left."""
    process, data = toys.process(name), toys.mixture()
    x = data.sample(Rng.from_seeds(range(8)))
    cond = None if label is None else {"label": torch.full((8,), label)}
    truth = -data.log_prob(x, Gaussian(toys.SCHEDULES["rectified"]), torch.zeros(8).double(), (cond or {}).get("label"))
    result = likelihood(data.denoiser(process), x, Flow(tolerance=1e-6), cond=cond)
    torch.testing.assert_close(result.nats, truth, rtol=1e-4, atol=1e-4)  # blurred by 0.001


def test_each_example_has_its_own_label():
    process, data = toys.process("cosine"), toys.mixture()
    x = data.sample(Rng.from_seeds(range(3)))
    whole = likelihood(data.denoiser(process), x, cond={"label": torch.tensor([0, 1, -1])})
    for i, label in enumerate((0, 1, -1)):
        alone = likelihood(data.denoiser(process), x[i : i + 1], cond={"label": torch.tensor([label])})
        torch.testing.assert_close(alone.nats, whole.nats[i : i + 1], rtol=1e-10, atol=1e-10)
        assert int(alone.evaluations[0]) == int(whole.evaluations[i])


@pytest.mark.parametrize("solver, order", [("heun", 2), ("rk4", 4)])
def test_orders_of_the_fixed_solvers(solver, order):
    process, data = toys.process("cosine"), toys.mixture()
    x = data.sample(Rng.from_seeds(range(6)))
    rng, errors, counts = Rng.from_seeds(range(6)), [], (80, 160)
    truth, _ = flow_nats(data.denoiser(process), x, rng, tolerance=1e-9)
    for steps in counts:
        nats, _ = flow_nats(data.denoiser(process), x, rng, solver=solver, steps=steps)
        errors.append(float((nats - truth).square().mean().sqrt()))
    assert slope(errors, counts) == pytest.approx(order, abs=0.25), errors


def test_adaptive_error_falls_with_its_tolerance():
    process, data = toys.process("cosine"), toys.mixture()
    x = data.sample(Rng.from_seeds(range(6)))
    rng = Rng.from_seeds(range(6))
    truth, most = flow_nats(data.denoiser(process), x, rng, tolerance=1e-9)
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        nats, count = flow_nats(data.denoiser(process), x, rng, tolerance=tolerance)
        errors.append(float((nats - truth).abs().max()))
        calls.append(int(count.sum()))
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and calls[0] < calls[1] < calls[2] < int(most.sum())


def test_rademacher_is_exact_for_a_diagonal_jacobian_and_gaussian_probes_are_not():
    denoiser = gaussian(torch.zeros(80).double(), 0.25).denoiser(toys.process("cosine"))
    x, solved = 0.5 * toys.normal(3, 80), {"solver": "rk4", "steps": 10}
    exact, one, many, rough = (
        likelihood(denoiser, x, Flow(divergence=kind, probes=probes, **solved)).nats
        for kind, probes in (("exact", 1), ("rademacher", 1), ("rademacher", 3), ("gaussian", 1))
    )
    torch.testing.assert_close(one, exact, rtol=1e-10, atol=0)
    torch.testing.assert_close(many, exact, rtol=1e-10, atol=0)
    assert float((rough - exact).abs().min()) > 0.01
    assert torch.equal(likelihood(denoiser, x, Flow(**solved)).nats, one)  # auto: 80 numbers are many


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_more_probes_are_quieter(kind):
    process, data, n = toys.process("cosine"), toys.mixture(), 600
    x = data.sample(Rng.from_seeds([3])).expand(n, 2)
    rng = lambda: Rng.from_seeds(range(n))  # noqa: E731
    how = {"solver": "rk4", "steps": 15}
    truth, _ = flow_nats(data.denoiser(process), x[:1], Rng.from_seeds([0]), divergence="exact", **how)
    one, _ = flow_nats(data.denoiser(process), x, rng(), divergence=kind, **how)
    four, _ = flow_nats(data.denoiser(process), x, rng(), divergence=kind, probes=4, **how)
    for nats in (one, four):
        assert abs(float(nats.mean() - truth)) < 4.5 * float(nats.std()) / n**0.5
    assert float(one.var() / four.var()) == pytest.approx(4, rel=0.35)


def test_divergence_of_a_network():
    """Against the whole Jacobian of the flow, through the preconditioning."""
    network = MLPOptions(width=16, depth=2).build(2)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p.copy_(0.3 * toys.normal(*p.shape, seed=i))
    process = toys.process("linear VP")
    denoiser = NetworkDenoiser(network.double(), process, Raw("eps"))
    x, t = toys.normal(3, 2), torch.tensor([0.2, 0.5, 0.9]).double()
    flow = lambda x, t: process.velocity(x, denoiser(x, t).mean, t)  # noqa: E731
    velocity, divergence = velocity_and_divergence(denoiser, x, t, process.with_derivatives(t, x), None, None)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: flow(v, t[i : i + 1]), x[i : i + 1])
        assert float(divergence[i]) == pytest.approx(float(jacobian.reshape(2, 2).trace()), rel=1e-9)
    torch.testing.assert_close(velocity, flow(x, t))


def test_batch_order_and_seeds():
    process, data = toys.process("linear VP"), toys.mixture()
    x, seeds = data.sample(Rng.from_seeds(range(5))), [7, 1, 2**31, 4, 5]
    how = Flow(divergence="gaussian", draws=2)
    whole = likelihood(data.denoiser(process), x, how, rng=Rng.from_seeds(seeds), levels=17)
    for i, seed in enumerate(seeds):
        alone = likelihood(data.denoiser(process), x[i : i + 1], how, rng=Rng.from_seeds([seed]), levels=17)
        torch.testing.assert_close(alone.nats, whole.nats[i : i + 1], rtol=1e-10, atol=1e-10)
    back = likelihood(data.denoiser(process), x.flip(0), how, rng=Rng.from_seeds(seeds[::-1]), levels=17)
    torch.testing.assert_close(back.nats.flip(0), whole.nats, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("event", [(6,), (1, 2, 3), (2, 1, 3, 1)])
def test_any_rank(event):
    n = math.prod(event)
    denoiser = gaussian(torch.zeros(event).double(), 0.25).denoiser(toys.process("cosine"))
    x = 0.5 * toys.normal(2, *event)
    flat = gaussian(torch.zeros(n).double(), 0.25).denoiser(toys.process("cosine"))
    torch.testing.assert_close(
        likelihood(denoiser, x).nats, likelihood(flat, x.reshape(2, n)).nats, rtol=1e-9, atol=1e-9
    )
    how = Flow(divergence="rademacher", solver="heun", steps=5)
    torch.testing.assert_close(likelihood(denoiser, x, how).nats, likelihood(flat, x.reshape(2, n), how).nats)


def test_the_density_integrates_to_one():
    data = toys.mixture()
    side = torch.linspace(-3, 3, 45, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    result = likelihood(data.denoiser(toys.process("cosine")), x, Flow(solver="rk4", steps=25))
    assert float(torch.exp(-result.nats).sum() * (side[1] - side[0]) ** 2) == pytest.approx(1, abs=1e-3)


class Blur(Schedule):
    """One coefficient for each of 4 x 4 frequencies."""

    prior_std = 1.0

    def __init__(self):
        super().__init__()
        f = torch.arange(4, dtype=torch.float64)
        self.rates = 0.2 * (f[:, None] ** 2 + f**2)

    def alpha(self, t):
        t = t[:, None, None, None]
        return torch.cos(math.pi / 2 * t) * torch.exp(-self.rates * torch.sin(math.pi / 2 * t) ** 2)

    def sigma(self, t):
        return torch.sin(math.pi / 2 * t[:, None, None, None])


def test_one_signal_for_each_frequency():
    """Each frequency flows by itself: x_1 = x_0 sqrt(v_1 / v_0)."""
    process, variance = Gaussian(Blur(), DCT()), 0.25
    oracle = gaussian(torch.zeros(1, 4, 4).double(), variance).denoiser(process)
    x, start = 0.5 * toys.normal(2, 1, 4, 4), 0.01
    nats, _ = flow_nats(oracle, x, Rng.from_seeds([0, 1]), tolerance=1e-7, start=start)
    ticking = clock(process, start, "")
    low, high = process.points([ticking.low, ticking.high])
    v0, v1 = (c.alpha**2 * variance + c.sigma**2 for c in (low, high))
    end = (low.alpha * process.state(x)) ** 2 * v1 / v0
    truth = (0.5 * (end + LN2PI - (v1 / v0).log()) - low.alpha.log()).flatten(1).sum(1)
    torch.testing.assert_close(nats, truth, rtol=0, atol=1e-4)


class Cold(Process):
    pass


class Lost(Denoiser):
    def __init__(self, process, value=float("nan")):
        super().__init__()
        self.process, self.value = process, nn.Parameter(torch.tensor(value).double())

    def forward(self, xt, t, cond=None):
        return Estimate(self.value * xt)


@pytest.mark.parametrize(
    "denoiser, how, words",
    [
        (Lost(Cold()), Flow(), "Cold process has no probability flow"),
        (Lost(toys.process("VE")), Flow(), "not finite"),
        (Lost(toys.process("VE"), 0.5), Flow(start=1.5), "start is 1.5"),
        (Lost(toys.process("VE"), 0.5), dict(solver="euler"), "unknown solver"),
        (Lost(toys.process("VE"), 0.5), dict(divergence="sobol"), "divergence is 'sobol'"),
        (Lost(toys.process("VE"), 0.5), dict(probes=0, divergence="gaussian"), "probes is 0"),
        (Lost(toys.process("VE"), 0.5), dict(tolerance=0.0), "tolerance above 0"),
        (Lost(toys.process("VE"), 0.5), "fow", "did you mean 'flow'"),
    ],
)
def test_mistakes(denoiser, how, words):
    with pytest.raises((UsageProblem, Problem), match=words):
        likelihood(denoiser, torch.zeros(2, 3), Flow(**how) if isinstance(how, dict) else how)
