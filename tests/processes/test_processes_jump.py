"""Jump processes against matrix exponentials of their generators, entry by entry."""

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.laws import Categorical, Pinned
from unnoise.processes import AbsorbGraph, GeometricTotal, Jump, LogLinear, Ratios, UniformGraph
from unnoise.rng import Rng, stream

N = 4
GRAPHS = {"uniform": UniformGraph(N), "absorb": AbsorbGraph(N)}
NOISES = {"log-linear": LogLinear(), "geometric": GeometricTotal()}


def generator(name):
    """Q, written down from its definition: columns sum to 0."""
    if name == "uniform":
        return torch.full((N, N), 1 / N, dtype=torch.float64) - torch.eye(N, dtype=torch.float64)
    q = -torch.eye(N + 1, dtype=torch.float64)
    q[N] = 1
    q[N, N] = 0
    return q


def every(graph):
    return torch.arange(graph.states)


def close(a, b, tolerance=1e-13):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_is_the_exponential_of_its_generator(name):
    graph, q = GRAPHS[name], generator(name)
    v = torch.rand(7, graph.states, generator=stream(1), dtype=torch.float64)
    for total in (1e-6, 0.3, 2.0, 6.9):
        e = torch.matrix_exp(total * q)
        close(graph.apply(total, v), v @ e.T)
        close(graph.row(total, every(graph)), e)
        close(graph.column(total, every(graph)).T, e)
        back = torch.matrix_exp(-total * q)
        close(graph.apply(-total, v), v @ back.T, 1e-12 * float(back.abs().max()))
    off = q - torch.diag(q.diagonal())
    close(graph.edges(every(graph)), off)
    assert q.sum(0).abs().max() < 1e-15


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_rate_is_the_slope_of_the_total(noise):
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(noise.total(t).sum(), t)
    close(noise.rate(t.detach()), slope, 1e-12)


def test_fractions_and_ends_of_the_noises():
    process = Jump(AbsorbGraph(N), LogLinear(1e-3))
    t = torch.linspace(0.1, 1, 7, dtype=torch.float64)
    close(-torch.expm1(-process.noise.total(t)), 0.999 * t)
    ends = GeometricTotal(1e-4, 20.0)
    close(ends.total(torch.tensor([0.0, 1.0], dtype=torch.float64)), torch.tensor([1e-4, 20.0], dtype=torch.float64))
    for noise in NOISES.values():  # t = 0 is clean data, whatever noise a schedule begins with
        assert Jump(AbsorbGraph(N), noise).point(0.0).is_clean
        x0 = torch.tensor([[0, 3, 1]])
        assert torch.equal(Jump(AbsorbGraph(N), noise).corrupt(x0, torch.zeros(1), Rng.from_seeds([0])), x0)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("name", GRAPHS)
def test_marginal_transition_and_posterior_are_one_chain(name, noise):
    process, q = Jump(GRAPHS[name], noise), generator(name)
    s, t = process.points([0.35, 0.8])
    one, two = (torch.matrix_exp(p.total * q) for p in (s, t))
    between = torch.matrix_exp((t.total - s.total) * q)
    x0 = torch.arange(N)
    close(process.marginal(x0, t).mean, two[:, :N].T)
    close(process.transition(every(process.graph), s, t).mean, between.T)
    for x in range(process.graph.states):
        for z in range(N):
            if two[x, z] == 0:
                continue  # an impossible pair
            wanted = one[:, z] * between[x] / two[x, z]
            found = process.posterior(torch.tensor([x]), torch.tensor([z]), t, s).mean[0]
            close(found, wanted, 1e-12)
    at = torch.tensor([0.8, 0.35], dtype=torch.float64)  # one time for each example
    x0 = torch.tensor([[1, 2], [0, 3]])
    found = process.marginal(x0, at).mean
    close(found[0], process.marginal(x0[0], t).mean)
    close(found[1], process.marginal(x0[1], s).mean)


@pytest.mark.parametrize("name", GRAPHS)
def test_struck_tokens_follow_the_marginal(name):
    process = Jump(GRAPHS[name], LogLinear())
    x0 = torch.full((1, 200_000), 2)
    t = process.point(0.6)
    xt = process.corrupt(x0, t, Rng.from_seeds([5]))
    share = torch.bincount(xt[0], minlength=process.graph.states) / x0.numel()
    p = process.marginal(x0[:, 0], t).mean[0]
    assert ((share - p).abs() <= 5 * (p * (1 - p) / x0.numel()).sqrt() + 1e-12).all()


def truth(process, q, t, x):
    """For a token with the law `q` of x_0 given x_t = x: its ratios, by the definition of a conditional law."""
    forward = torch.matrix_exp(t.total * generator(process.graph.name))[:, :N]
    w = torch.where(forward[x] > 0, q / forward[x].clamp(min=1e-300), 0.0)
    return forward @ w


@pytest.mark.parametrize("name", GRAPHS)
def test_ratios_and_laws_are_two_forms_of_one_guess(name):
    process = Jump(GRAPHS[name], LogLinear())
    graph, t, s = process.graph, process.point(0.7), process.point(0.4)
    for x in range(graph.states):
        q = torch.rand(N, generator=stream(x, 3), dtype=torch.float64)
        if name == "absorb" and x < N:
            q = torch.nn.functional.one_hot(torch.tensor(x), N).double()  # an unmasked token is known
        q = q / q.sum()
        law, xt = Categorical(q.log()[None]), torch.tensor([x])
        ratios = process.log_ratios(law, xt, t).exp()
        close(ratios[0], truth(process, q, t, x), 1e-12)
        close(ratios[0, x], torch.ones((), dtype=torch.float64), 1e-12)
        told = Ratios(graph, t.total, xt, ratios.log())
        close(told.law.mean[0], q, 1e-12)
        # the analytic step is the mean of the posterior over the law, by either form
        wanted = sum(q[z] * process.posterior(xt, torch.tensor([z]), t, s).mean[0] for z in range(N) if q[z] > 0)
        close(process.leap(law, xt, t, s).mean[0], wanted, 1e-12)
        close(process.leap(told, xt, t, s).mean[0], wanted, 1e-12)
        close(process.leap(told, xt, t, process.point(0.0)).mean[0], q, 1e-12)


@pytest.mark.parametrize("name", GRAPHS)
def test_rates_are_the_derivative_of_the_analytic_step(name):
    process = Jump(GRAPHS[name], LogLinear())
    graph, t, h = process.graph, process.point(0.7), 1e-5
    x = graph.states - 1
    q = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    law, xt = Categorical(q.log()[None]), torch.tensor([x])
    moved = [process.leap(law, xt, t, process.point(0.7 - i * h)).mean[0] for i in (1, 2)]
    slope = (4 * moved[0] - moved[1] - 3 * graph.one_hot(xt)[0]) / (2 * h)
    rates = process.rates(law, xt, t)[0]
    others = torch.arange(graph.states) != x
    close(rates[others], slope[others], 1e-7)
    step = process.tau_leap(law, xt, t, process.point(0.69)).mean[0]
    close(step[others], 0.01 * rates[others], 1e-12)


def test_what_is_no_law_becomes_the_nearest():
    """Guessed ratios of the uniform graph can ask for negative probabilities: they are 0."""
    process = Jump(UniformGraph(N), LogLinear())
    t, xt = process.point(0.5), torch.tensor([0])
    law = Ratios(process.graph, t.total, xt, torch.tensor([[0.0, 5.0, -9.0, -9.0]]).double()).law.mean
    assert law.min() == 0 and float(law.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", GRAPHS)
def test_known_tokens_walk_their_own_posterior(name):
    process = Jump(GRAPHS[name], LogLinear())
    n = process.graph.states - 1
    t, s, xt = process.point(0.7), process.point(0.4), torch.tensor([[n, n]])
    free = Categorical(torch.full((1, 2, N), 1 / N, dtype=torch.float64).log())
    pinned = Pinned(free, torch.tensor([True, False]), torch.tensor([2, 0]))
    for step in (process.leap, process.tau_leap):
        law = step(pinned, xt, t, s).mean
        close(law[:, :1], process.posterior(xt, torch.tensor([[2, 2]]), t, s).mean[:, :1])
        close(law[:, 1:], step(free, xt, t, s).mean[:, 1:])
    clean = process.leap(pinned, torch.tensor([[1, 1]]), t, process.point(0.0)).mean
    assert float(clean[0, 0, 2]) == 1  # even where the state denies it


def test_prior_is_what_even_tokens_become():
    process = Jump(AbsorbGraph(N), LogLinear(1e-3))
    law = process.prior((2, 3)).mean
    close(law, torch.tensor([2.5e-4] * N + [0.999], dtype=torch.float64).expand(2, 3, -1))
    nats = process.marginal(torch.zeros(2, 3, dtype=torch.long), process.point(1.0)).kl(process.prior((2, 3)))
    close(nats, torch.full((2,), 3 * 1e-3, dtype=torch.float64) * torch.tensor(N).double().log(), 1e-10)


def test_what_is_impossible_is_refused():
    with pytest.raises(UsageProblem, match="2 or more"):
        AbsorbGraph(1)
    with pytest.raises(UsageProblem, match="fraction of tokens"):
        LogLinear(0.0)
    with pytest.raises(UsageProblem, match="does not rise"):
        GeometricTotal(1.0, 0.5)
    process, x = Jump(AbsorbGraph(N), LogLinear()), torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(UsageProblem, match="eta"):
        process.posterior(x, x, process.point(0.5), process.point(0.4), eta=0.5)
