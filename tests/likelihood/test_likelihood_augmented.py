"""The flow's likelihood where the state is more than the data: exact with an exact score, a bound with any other."""

import pytest
import torch

from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.likelihood import Chain, Continuous, Flow, likelihood
from unnoise.likelihood.clock import flow_clock
from unnoise.likelihood.flow import flow_nats, probes_for, velocity_and_divergence
from unnoise.oracles import Mixture, gaussian
from unnoise.processes import CriticallyDamped, LinearSDE
from unnoise.rng import Rng


def double(values):
    return torch.tensor(values, dtype=torch.float64)


FAST = CriticallyDamped(beta=(4.0, 12.0))  # at t = 1 nothing is left of the data
THIRD = LinearSDE(
    double([[0, 1, 0], [-1, 0, 2], [0, -2, -3]]),
    torch.diag(double([0, 0, 6])),
    torch.diag(double([0, 0.04, 0.04])),
    (8, 24),
)
DATA = Mixture(double([[-0.7, 0.2], [0.5, 0.6]]), double([[0.05, 0.1], [0.1, 0.02]]))


@pytest.mark.parametrize("process", [FAST, THIRD], ids=["critical", "third order"])
def test_density_of_a_mixture(process):
    """Whatever velocity is drawn: that of the data blurred by snr^(-1/2) at the start, to the solver's error."""
    x = DATA.sample(Rng.from_seeds(range(4)))
    method = Flow(tolerance=1e-7, divergence="exact")
    found = likelihood(DATA.denoiser(process), x, method)
    again = likelihood(DATA.denoiser(process), x, method, rng=Rng.from_seeds(range(10, 14)))
    low = process.point(flow_clock(process, None).low)
    blurred = DATA.evidence(x, torch.ones(4, 1).double(), low.snr.rsqrt().expand(4, 1))
    assert float(low.snr.rsqrt()) == pytest.approx(1e-3, rel=0.06)
    torch.testing.assert_close(-found.nats, blurred, rtol=0, atol=2e-4)
    torch.testing.assert_close(again.nats, found.nats, rtol=0, atol=2e-4)


class Wrong(Denoiser):
    """The exact guess of N(0, 1/4) data, pulled away."""

    def __init__(self, process):
        super().__init__()
        self.inner, self.process = gaussian(double([0.0, 0.0]), 0.25).denoiser(process), process

    def forward(self, xt, t, cond=None):
        return Estimate(0.8 * self.inner(xt, t).mean + 0.05 * torch.sin(3 * xt[:, 0]))


def test_more_velocities_tighten_the_bound():
    x = 0.5 * torch.randn(1, 2, generator=torch.Generator().manual_seed(0)).double().expand(60, 2)
    grey = (x * 8).round() / 8
    how = {"solver": "heun", "steps": 60, "divergence": "exact"}
    one, eight = (
        likelihood(Wrong(FAST), grey, Flow(draws=k, **how), levels=17, rng=Rng.from_seeds(range(60))) for k in (1, 8)
    )
    assert float(one.nats.mean()) > float(eight.nats.mean())
    assert float(one.nats.std()) > float(eight.nats.std())


def test_divergence_is_the_trace_of_the_jacobian():
    denoiser, u = Wrong(FAST), torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    t = double([0.05, 0.4, 0.9])
    velocity, divergence = velocity_and_divergence(denoiser, u, t, FAST.at(t), None, None)
    for i in range(3):
        at = t[i : i + 1]
        flow = lambda u, at=at: FAST.velocity(u, denoiser(u, at).mean, at)  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(flow, u[i : i + 1]).reshape(4, 4)
        assert float(divergence[i]) == pytest.approx(float(jacobian.trace()), rel=1e-9)
        torch.testing.assert_close(velocity[i : i + 1], flow(u[i : i + 1]))


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_measures_only_what_the_guess_moves(kind):
    n, x = 300, double([[0.4, -0.2]])
    how = {"solver": "rk4", "steps": 25}

    def nats(divergence, count):
        u, log_q = FAST.opening(x, FAST.point(1e-2), Rng.from_seeds([3]))
        process = Fixed(u.expand(count, 2, 2), log_q.expand(count))
        return flow_nats(
            Wrong(process), x.expand(count, 2), Rng.from_seeds(range(count)), divergence=divergence, start=1e-2, **how
        )[0]

    exact, found = nats("exact", 1), nats(kind, n)
    assert abs(float(found.mean() - exact)) < 4.5 * float(found.std()) / n**0.5 + 1e-9
    probes = probes_for(torch.zeros(5, 2, 2), kind, 2, Rng.from_seeds(range(5)), FAST.stirred(torch.zeros(5, 2, 2)))
    assert float(probes[:, :, 0].abs().max()) == 0 and float(probes[:, :, 1].abs().min()) > 0


class Fixed(CriticallyDamped):
    """Whose flow begins at given states."""

    def __init__(self, states, log_q):
        super().__init__(beta=FAST.beta)
        self.states, self.log_q = states, log_q

    def opening(self, x, t, rng):
        return self.states, self.log_q


@pytest.mark.parametrize("method", [Chain(), Continuous()], ids=["bound", "continuous"])
def test_bounds_that_do_not_exist_are_refused(method):
    with pytest.raises(UsageProblem, match="CriticallyDamped"):
        likelihood(DATA.denoiser(FAST), torch.zeros(2, 2).double(), method)


def test_batch_and_seeds():
    x = DATA.sample(Rng.from_seeds(range(3)))
    whole = likelihood(DATA.denoiser(FAST), x, Flow(draws=2), rng=Rng.from_seeds([5, 6, 7]), levels=17)
    alone = likelihood(DATA.denoiser(FAST), x[1:2], Flow(draws=2), rng=Rng.from_seeds([6]), levels=17)
    torch.testing.assert_close(alone.nats, whole.nats[1:2], rtol=1e-9, atol=1e-9)
