"""The bound of tokens that jump: with exact ratios it is -log p itself, whatever the graph."""

import math

import pytest
import torch

from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Categorical
from unnoise.likelihood import Chain, Continuous, ImportanceWeighted, likelihood
from unnoise.oracles import Joint
from unnoise.oracles.walks import exact_bound
from unnoise.processes import AbsorbGraph, Jump, LogLinear, UniformGraph
from unnoise.rng import Rng, stream

N = 3
GRAPHS = {"uniform": UniformGraph(N), "absorb": AbsorbGraph(N)}


def joint(length=3):
    return Joint(torch.rand((N,) * length, generator=stream(1, 2), dtype=torch.float64) ** 2)


@pytest.mark.parametrize("name", GRAPHS)
def test_integral_is_minus_log_p(name):
    law, process = joint(), Jump(GRAPHS[name], LogLinear(1e-9))
    x0 = law.every[::5]
    torch.testing.assert_close(exact_bound(law, process, x0), -law.log_prob(x0), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_call_estimates_it(name):
    law, process = joint(), Jump(GRAPHS[name], LogLinear())
    x = law.every[[4, 20]].repeat(60, 1)
    found = likelihood(law.denoiser(process), x, Continuous(draws=40))
    torch.testing.assert_close(found.bits, found.nats / (3 * math.log(2)))
    torch.testing.assert_close(sum(found.parts.values()), found.bits)
    assert set(found.parts) == {"prior", "diffusion", "reconstruction"} and int(found.evaluations[0]) == 41
    for i in range(2):
        nats = found.nats[i::2]
        error = float(nats.std()) / 60**0.5
        wanted = -float(law.log_prob(x[i : i + 1]))
        assert abs(float(nats.mean()) - wanted) < 4 * error + 0.01  # the prior is even where p_1 is not quite
    again = likelihood(law.denoiser(process), x[:1], Continuous(draws=40))
    torch.testing.assert_close(again.nats, found.nats[:1])


class Wrong(Denoiser):
    """Everything equally likely."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, xt, t, cond=None):
        even = Categorical(torch.full((*xt.shape, N), -math.log(N), dtype=torch.float64))
        seen = torch.nn.functional.one_hot(xt.clamp(max=N - 1), N).double().log()
        known = (xt < N)[..., None] & (self.process.graph.name == "absorb")
        return Categorical(torch.where(known, seen, even.log_probs))


@pytest.mark.parametrize("method", [Continuous(draws=50), Chain(50), ImportanceWeighted(50)], ids=lambda m: m.name)
def test_it_tells_the_better_model(method):
    law, process = joint(), Jump(AbsorbGraph(N), LogLinear())
    x = law.sample(Rng.from_seeds(range(200)))
    entropy = -float((law.log_weights.exp() * law.log_weights).sum())
    true = float(likelihood(law.denoiser(process), x, method).nats.mean())
    even = float(likelihood(Wrong(process), x, method).nats.mean())
    assert abs(true - entropy) < 0.15 and true < even
    assert even == pytest.approx(3 * math.log(N), abs=0.15)


def test_chain_bound_falls_to_the_integral_with_its_steps():
    """More steps let positions know of each other."""
    law, process = joint(), Jump(AbsorbGraph(N), LogLinear())
    x = law.sample(Rng.from_seeds(range(400)))
    one, few, many = (float(likelihood(law.denoiser(process), x, Chain(k)).nats.mean()) for k in (1, 4, 64))
    assert one > few > many - 0.02
    assert many == pytest.approx(float(-law.log_prob(x).mean()), abs=0.05)


def test_what_does_not_fit():
    process = Jump(AbsorbGraph(N), LogLinear())
    denoiser, x = joint().denoiser(process), torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(UsageProblem, match="method bound"):
        likelihood(denoiser, x, Continuous(steps=10))
    with pytest.raises(UsageProblem, match="start between 0 and 1"):
        likelihood(denoiser, x, Continuous(start=0.0))
    with pytest.raises(UsageProblem):
        likelihood(denoiser, x, "flow")
