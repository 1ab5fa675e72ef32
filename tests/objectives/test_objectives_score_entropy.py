"""Score entropy against its definition, summed over every jump, with matrix exponentials for all laws."""

from itertools import product

import pytest
import torch

from unnoise.denoisers import RatioDenoiser
from unnoise.errors import UsageProblem
from unnoise.likelihood import score_entropy_nats
from unnoise.networks import TransformerOptions
from unnoise.objectives import ScoreEntropy, SquaredRatios, Uniform
from unnoise.oracles import Joint
from unnoise.processes import AbsorbGraph, Gaussian, Jump, LogLinear, Ratios, UniformGraph
from unnoise.rng import Rng, stream
from unnoise.schedules import Cosine

N = 3
GRAPHS = {"uniform": UniformGraph(N), "absorb": AbsorbGraph(N)}


def generator(graph):
    if graph.name == "uniform":
        return torch.full((N, N), 1 / N, dtype=torch.float64) - torch.eye(N, dtype=torch.float64)
    q = -torch.eye(N + 1, dtype=torch.float64)
    q[N], q[N, N] = 1, 0
    return q


def by_definition(graph, log_ratios, x, x0, total):
    q = generator(graph)
    forward = torch.matrix_exp(total * q)[:, x0]
    found = 0.0
    for y in range(graph.states):
        if y == x or q[x, y] == 0:
            continue
        r, s = forward[y] / forward[x], log_ratios[y].exp()
        found += q[x, y] * (s - (r * log_ratios[y] if r > 0 else 0) + (r * (r.log() - 1) if r > 0 else 0))
    return float(found)


def random_ratios(graph, x, seed):
    found = torch.randn(*x.shape, graph.states, generator=stream(seed, 5), dtype=torch.float64)
    return found.scatter(-1, x[..., None], 0.0)


def squares_by_definition(graph, log_ratios, x, x0, total):
    q = generator(graph)
    forward = torch.matrix_exp(total * q)[:, x0]
    others = [y for y in range(graph.states) if y != x]
    return float(sum(q[x, y] * (log_ratios[y].exp() - forward[y] / forward[x]) ** 2 / 2 for y in others))


@pytest.mark.parametrize("total", [1e-3, 0.4, 6.9])
@pytest.mark.parametrize("name", GRAPHS)
def test_squared_errors_are_the_definition(name, total):
    graph = GRAPHS[name]
    pairs = [(x, z) for x, z in product(range(graph.states), range(N)) if name == "uniform" or x in (z, N)]
    x, x0 = (torch.tensor(column) for column in zip(*pairs, strict=True))
    l = random_ratios(graph, x, 1)
    found = graph.squared_error(l, x, x0, torch.full(x.shape, total, dtype=torch.float64))
    for i, (a, b) in enumerate(pairs):
        assert float(found[i]) == pytest.approx(squares_by_definition(graph, l[i], a, b, total), rel=1e-10, abs=1e-11)


@pytest.mark.parametrize("total", [1e-3, 0.4, 6.9])
@pytest.mark.parametrize("name", GRAPHS)
def test_closed_forms_are_the_definition(name, total):
    graph = GRAPHS[name]
    pairs = [(x, z) for x, z in product(range(graph.states), range(N)) if name == "uniform" or x in (z, N)]
    x, x0 = (torch.tensor(column) for column in zip(*pairs, strict=True))
    l = random_ratios(graph, x, 1)
    found = graph.score_entropy(l, x, x0, torch.full(x.shape, total, dtype=torch.float64))
    for i, (a, b) in enumerate(pairs):
        assert float(found[i]) == pytest.approx(by_definition(graph, l[i], a, b, total), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("name", GRAPHS)
def test_it_is_zero_at_the_true_ratios_and_nowhere_else(name):
    graph = GRAPHS[name]
    for total, z in product((0.01, 1.0, 5.0), range(N)):
        forward = torch.matrix_exp(total * generator(graph))[:, z]
        x = torch.tensor([i for i in range(graph.states) if forward[i] > 0])
        true = (forward / forward[x][:, None]).log()
        x0, totals = torch.full_like(x, z), torch.full(x.shape, total, dtype=torch.float64)
        scale = max(1.0, float(graph.row(total, x).amin().clamp(min=1e-3) ** -1))
        assert graph.score_entropy(true, x, x0, totals).abs().max() < 1e-13 * scale
        others = (true + 0.1 * (torch.arange(graph.states) != x[:, None])).masked_fill(true.isinf(), -torch.inf)
        moved = graph.score_entropy(others, x, x0, totals)
        assert (moved[x == N] > 1e-7).all() if name == "absorb" else (moved > 1e-7).all()


def law_at(process, joint, t):
    """p_t of every state and p(x_t | x_0), by products of matrix exponentials."""
    e = torch.matrix_exp(process.point(t).total * generator(process.graph))[:, :N]
    states = torch.cartesian_prod(*[torch.arange(process.graph.states)] * joint.length)
    given = torch.stack(
        [torch.stack([e[s[i], joint.every[:, i]] for i in range(joint.length)]).prod(0) for s in states]
    )
    return states, given, given @ joint.log_weights.exp().flatten()


@pytest.mark.parametrize("loss", ["score_entropy", "squared_error"])
@pytest.mark.parametrize("name", GRAPHS)
def test_marginal_ratios_are_the_oracles_and_the_minimum(name, loss):
    """Of both losses, though each compares with the ratios given one x_0."""
    process, t = Jump(GRAPHS[name], LogLinear()), 0.6
    joint = Joint(torch.rand(N, N, generator=stream(4), dtype=torch.float64))
    states, given, p = law_at(process, joint, t)
    number = {tuple(s.tolist()): i for i, s in enumerate(states)}
    times = torch.full((len(states),), t, dtype=torch.float64)
    log_ratios = process.log_ratios(joint.denoiser(process)(states, times), states, process.point(t))
    for s, i in product(range(len(states)), range(2)):
        for y in range(process.graph.states):
            other = states[s].clone()
            other[i] = y
            if name == "uniform" or (states[s][i] == N and y < N):  # the ratios of which anything depends
                wanted = p[number[tuple(other.tolist())]] / p[s]
                assert float(log_ratios[s, i, y].exp()) == pytest.approx(float(wanted), rel=1e-11)
    leaf = log_ratios.clone().requires_grad_()
    weights = given * joint.log_weights.exp().flatten()  # p(x_0) p(x_t | x_0)
    total = process.point(t).total
    charge, loss = getattr(process.graph, loss), 0.0
    for j, x0 in enumerate(joint.every):
        possible = weights[:, j] > 0
        terms = charge(
            leaf[possible],
            states[possible],
            x0.expand(int(possible.sum()), -1),
            torch.full((1, 1), total, dtype=torch.float64),
        )
        loss = loss + (weights[possible, j, None] * terms).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    at_self = torch.nn.functional.one_hot(states, process.graph.states).bool()
    assert gradient.masked_fill(at_self, 0).abs().max() < 1e-13


def test_denoising_and_explicit_score_entropy_differ_by_a_constant():
    process, t = Jump(UniformGraph(N), LogLinear()), 0.5
    joint = Joint(torch.rand(N, N, generator=stream(6), dtype=torch.float64))
    states, given, p = law_at(process, joint, t)
    times = torch.full((len(states),), t, dtype=torch.float64)
    true = process.log_ratios(joint.denoiser(process)(states, times), states, process.point(t))
    weights = given * joint.log_weights.exp().flatten()
    gaps = []
    for seed in (1, 2, 3):
        l = random_ratios(process.graph, states, seed)
        terms = [
            process.graph.score_entropy(
                l, states, z.expand(9, -1), torch.tensor(process.point(t).total, dtype=torch.float64)
            )
            for z in joint.every
        ]
        denoising = sum((weights[:, j, None] * term).sum() for j, term in enumerate(terms))
        away = torch.nn.functional.one_hot(states, N) == 0
        explicit = (p[:, None, None] * away * (l.exp() - true.exp() * l + true.exp() * (true - 1)) / N).sum()
        gaps.append(float(denoising - explicit))
    assert max(gaps) - min(gaps) < 1e-13 and gaps[0] > 1e-3, gaps


def small(name, normalised=False):
    torch.manual_seed(0)
    network = TransformerOptions(width=16, depth=1, heads=2).build(GRAPHS[name].states, N)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return RatioDenoiser(network, Jump(GRAPHS[name], LogLinear()), normalised)


def test_normalised_it_is_weighted_cross_entropy():
    """sigma / (e^sbar - 1) = 1/t for log-linear noise."""
    denoiser = small("absorb", normalised=True)
    process = denoiser.process
    x0 = torch.randint(N, (6, 5), generator=stream(8))
    t = torch.linspace(0.01, 0.99, 6, dtype=torch.float64)
    xt = process.corrupt(x0, t, Rng.from_seeds(range(6)))
    assert (xt == N).any()
    guess = denoiser(xt, t)
    nats = score_entropy_nats(process, guess, x0, xt, t)
    logits = denoiser.network(xt, process.noise.total(t).float())
    cross = torch.nn.functional.cross_entropy(logits.mT, x0, reduction="none") * (xt == N)
    torch.testing.assert_close(nats.double(), cross.sum(1).double() / t, rtol=1e-4, atol=1e-4)


def test_it_is_that_of_the_normalised_ratios_and_what_their_sum_costs():
    """Absorbing: (Z - 1 - log Z) / (e^sbar - 1) more at every MASK, Z the sum over tokens of the ratios times e^sbar - 1."""
    free, process = small("absorb"), Jump(GRAPHS["absorb"], LogLinear())
    normalised = RatioDenoiser(free.network, process, normalised=True)
    x0, t = torch.randint(N, (6, 5), generator=stream(8)), torch.linspace(0.01, 0.99, 6, dtype=torch.float64)
    xt = process.corrupt(x0, t, Rng.from_seeds(range(6)))
    odds = torch.expm1(process.noise.total(t))[:, None]
    z = free(xt, t).log_ratios.detach()[..., :N].exp().sum(-1) * odds
    more = (z - 1 - z.log()) / odds * process.noise.rate(t)[:, None] * (xt == N)
    a, b = (score_entropy_nats(process, denoiser(xt, t), x0, xt, t).detach() for denoiser in (free, normalised))
    torch.testing.assert_close((a - b).double(), more.sum(1), rtol=1e-3, atol=1e-4)
    assert float(more.min()) >= 0 and float(more.max()) > 0.1


@pytest.mark.parametrize("name", GRAPHS)
def test_ratios_of_a_network(name):
    denoiser = small(name)
    x = torch.tensor([[0, 2, GRAPHS[name].states - 1]])
    guess = denoiser(x, torch.tensor([0.4]).double())
    assert isinstance(guess, Ratios)
    assert guess.log_ratios.gather(-1, x[..., None]).abs().max() == 0
    torch.testing.assert_close(guess.mean.sum(-1), torch.ones(1, 3, dtype=torch.float64))
    if name == "absorb":
        logits = denoiser.network(x, denoiser.process.noise.total(torch.tensor([0.4])))[0, 2]
        torch.testing.assert_close(guess.mean[0, 2], logits.softmax(-1).double(), rtol=1e-5, atol=1e-6)
        assert guess.mean[0, 0, 0] == 1  # what is seen is known


@pytest.mark.parametrize("name", GRAPHS)
def test_objective_is_differentiable_and_tells_bits(name):
    denoiser = small(name)
    x0 = torch.randint(N, (4, 6), generator=stream(9))
    loss = ScoreEntropy(Uniform(1e-3))(denoiser, x0, None, Rng.from_seeds(range(4)))
    assert loss.per_example.shape == (4,) and loss.per_example.isfinite().all()
    torch.testing.assert_close(loss.terms["bits"], loss.per_example.detach() / (6 * torch.tensor(2.0).log()))
    loss.per_example.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters())


def test_scaled_squares_are_those_of_probabilities():
    """Absorbing and log-linear, with normalised ratios: Brier's score over t."""
    denoiser = small("absorb", normalised=True)
    process = denoiser.process
    x0, t = torch.randint(N, (6, 5), generator=stream(8)), torch.linspace(0.01, 0.99, 6, dtype=torch.float64)
    rng = Rng.from_seeds(range(6))
    xt = process.corrupt(x0, t, rng)
    guess = denoiser(xt, t)
    found = SquaredRatios(Uniform(1e-3), scaled=True).error(process, guess, x0, xt, t)
    q = denoiser.network(xt, process.noise.total(t).float()).softmax(-1).double()
    brier = ((q - torch.nn.functional.one_hot(x0, N)) ** 2).sum(-1) / 2 * (xt == N)
    torch.testing.assert_close(found.double(), brier.sum(1) / t, rtol=1e-4, atol=1e-4)
    loss = SquaredRatios(Uniform(1e-3))(denoiser, x0, None, rng)
    assert loss.per_example.isfinite().all() and loss.terms == {}


def test_pairs_that_do_not_fit():
    with pytest.raises(UsageProblem, match="absorbing"):
        RatioDenoiser(torch.nn.Identity(), Jump(UniformGraph(N), LogLinear()), normalised=True)
    denoiser = small("uniform")
    denoiser.process = Gaussian(Cosine())
    with pytest.raises(UsageProblem, match="ratios of tokens"):
        ScoreEntropy(Uniform())(denoiser, torch.zeros(1, 2).long(), None, Rng.from_seeds([0]))
