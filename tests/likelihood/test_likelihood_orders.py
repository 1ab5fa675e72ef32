"""The order-agnostic bound: against sums written out, against the integral of the jump process, and by every estimator."""

import itertools
import math

import pytest
import torch

from unnoise.denoisers import Denoiser, NextSymbols, Symbols
from unnoise.errors import UsageProblem
from unnoise.laws import Categorical
from unnoise.likelihood import independent_masks, likelihood, losses_by_step, per_symbol
from unnoise.likelihood.orders import OrderAgnostic as Bound
from unnoise.networks.transformer import TransformerOptions
from unnoise.objectives import LeftToRight, OrderAgnostic
from unnoise.oracles import Joint, gaussian
from unnoise.processes import Gaussian, Masking
from unnoise.rng import Rng
from unnoise.samplers import policy_cost
from unnoise.schedules import Cosine

torch.set_num_threads(1)


def rng(count):
    return Rng.from_seeds(range(count))


def joint(seed=0, tokens=3, length=3):
    weights = torch.rand((tokens,) * length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Joint(weights**3)


class Wrong(Denoiser):
    """The joint's guess, tempered: a model whose bound is not tight, and whose orders do not agree."""

    def __init__(self, law, process):
        super().__init__()
        self.inner, self.process = law.denoiser(process), process

    def forward(self, xt, t, cond=None):
        return Categorical((0.5 * self.inner(xt, t).log_probs).log_softmax(-1))


def enumerated(denoiser, x, known_first):
    """L_n of one x by the number of unknown positions n: the mean over all sets of known positions."""
    process, length, losses = denoiser.process, x.shape[1], []
    for n in range(1, length + 1):
        values = []
        for hidden in itertools.combinations(range(length), n):
            rank = torch.zeros(1, length, dtype=torch.int64)
            rank[0, [i for i in range(length) if i not in hidden]] = torch.arange(length - n)
            rank[0, list(hidden)] = torch.arange(length - n, length)
            t = torch.tensor([n / length]).double()
            xt = process.join(process.coarse(x, process.depth(rank, t)), rank)
            log_probs = denoiser(xt, t).log_probs[0]
            values.append(-sum(float(log_probs[i, x[0, i]]) for i in hidden) / n)
        losses.append(sum(values) / len(values))
    return torch.tensor(losses[::-1] if known_first else losses, dtype=torch.float64)


def test_with_the_true_conditionals_the_bound_is_the_likelihood():
    """sum_n L_n = -log p(x) for every x: enumerated over all masks, no chance left."""
    law = joint()
    denoiser = law.denoiser(Masking(3, (3,)))
    for x in law.every:
        total = float(enumerated(denoiser, x[None], False).sum())
        assert total == pytest.approx(-float(law.log_prob(x[None])), abs=1e-10)


def test_the_estimate_is_unbiased_and_lies_above():
    law = joint(1)
    wrong, x = Wrong(law, Masking(3, (3,))), torch.tensor([[2, 0, 1]])
    exact = float(enumerated(wrong, x, False).sum())
    assert exact > -float(law.log_prob(x))
    found = likelihood(wrong, x.expand(3000, 3), Bound(draws=3), rng=rng(3000)).nats
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 3000**0.5
    spread = likelihood(wrong, x.expand(3000, 3), Bound(draws=1), rng=rng(3000)).nats
    assert found.std() < spread.std()
    chain = likelihood(wrong, x.expand(3000, 3), "bound", rng=rng(3000)).nats
    assert abs(float(chain.mean()) - exact) < 4 * float(chain.std()) / 3000**0.5


def test_it_is_the_bound_of_the_continuous_absorbing_chain():
    """int_0^1 dt/t sum_n Binomial(n; D, t) n L_n = sum_n L_n, by quadrature; chains of T steps come down to it."""
    law = joint(2)
    rows = torch.stack([enumerated(Wrong(law, Masking(3, (3,))), x[None], True) for x in law.every])
    losses = (law.log_weights.exp().flatten()[:, None] * rows).sum(0)
    exact = float(losses.sum())
    t = (torch.arange(200_000).double() + 0.5) / 200_000
    terms = sum(math.comb(3, n) * t**n * (1 - t) ** (3 - n) * n * losses[3 - n] for n in (1, 2, 3)) / t
    assert float(terms.mean()) == pytest.approx(exact, abs=1e-8)
    chains = [independent_masks(losses, steps) for steps in (1, 2, 4, 8, 16, 64, 1024)]
    assert chains == sorted(chains, reverse=True)
    assert chains[0] == pytest.approx(3 * float(losses[0]), abs=1e-10)
    assert chains[-1] == pytest.approx(exact, rel=1e-3) and chains[-1] > exact


@pytest.mark.parametrize("policy", [[0], [0, 1], [0, 2], [0, 3], [0, 1, 3], [0, 1, 2, 3]])
def test_a_schedule_costs_what_its_chain_takes(policy):
    """(s - r) L_r for each step: the mean over every order of what the chain pays, of a model whose orders do not agree."""
    law = joint(5, 2, 4)
    process = Masking(2, (4,))
    denoiser, p = Wrong(law, process), law.log_weights.exp().flatten()
    mean = (p[:, None] * torch.stack([enumerated(denoiser, x[None], True) for x in law.every])).sum(0)
    taken, orders = 0.0, list(itertools.permutations(range(4)))
    for order in orders:
        rank = torch.tensor(order).expand_as(law.every)
        for r, s in itertools.pairwise([*policy, 4]):
            now, then = process.points([1 - r / 4, 1 - s / 4])
            xt = process.join(process.coarse(law.every, process.depth(rank, now)), rank)
            step = process.reverse_law(denoiser(xt, now.over(xt)), xt, now, then)
            taken -= float(p @ step.log_prob(law.every)) / len(orders)
    assert taken == pytest.approx(policy_cost(mean, policy), abs=1e-10)


def test_losses_of_the_true_model_fall_with_what_is_known_and_parallel_steps_cost_more():
    law = joint(3)
    denoiser, p = law.denoiser(Masking(3, (3,))), law.log_weights.exp().flatten()
    rows = torch.stack([enumerated(denoiser, x[None], True) for x in law.every])
    mean = (p[:, None] * rows).sum(0)
    assert mean[0] > mean[1] > mean[2]
    entropy = -float((p * p.log()).sum())
    assert policy_cost(mean, [0, 1, 2]) == pytest.approx(entropy, abs=1e-10)
    assert policy_cost(mean, [0]) > policy_cost(mean, [0, 1]) > entropy
    single = law.log_weights.exp().sum((1, 2))
    independent = Joint(torch.einsum("a,b,c->abc", single, single, single))
    flat = torch.stack([enumerated(independent.denoiser(Masking(3, (3,))), x[None], True) for x in independent.every])
    costs = (independent.log_weights.exp().flatten()[:, None] * flat).sum(0)
    assert policy_cost(costs, [0]) == pytest.approx(policy_cost(costs, [0, 1, 2]), abs=1e-10)


def small(process, causal=False, parametrisation="data"):
    torch.manual_seed(0)
    options = TransformerOptions(width=16, depth=2, heads=2, causal=causal)
    network = options.build(Symbols.vocabulary(process), Symbols.outputs(process, parametrisation))
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return NextSymbols(network, process) if causal else Symbols(network, process, parametrisation)


@pytest.mark.parametrize("branching", [None, 2])
def test_the_loss_is_the_bound(branching):
    """The mean of the loss over all t is the bound, in bits per symbol; the table by steps sums to it."""
    denoiser = small(Masking(5, (4,), branching))
    x = torch.tensor([[0, 3, 4, 1]])
    steps, many = denoiser.process.steps, 2000
    objective = OrderAgnostic(steps, plain=0.0)
    with torch.no_grad():
        loss = objective(denoiser, x.expand(many, 4), None, rng(many)).per_example.double()
    bound = likelihood(denoiser, x.expand(500, 4), Bound(draws=steps), rng=rng(500))
    error = (loss.var() / many + bound.bits.var() / 500) ** 0.5
    assert abs(float(loss.mean() - bound.bits.mean())) < 4 * error
    table = losses_by_step(denoiser, x.expand(500, 4), Rng.from_seeds(range(500, 1000)))
    assert table.shape == (500, steps)
    spread = (table.sum(1).var() / 500 + bound.nats.var() / 500) ** 0.5
    assert abs(float(table.sum(1).mean() - bound.nats.mean())) < 4 * spread


def test_the_loss_has_finite_gradients_at_every_stage():
    for branching, parametrisation in ((None, "data"), (2, "data"), (2, "direct"), (3, "direct")):
        denoiser = small(Masking(7, (4,), branching), parametrisation=parametrisation)
        x = torch.randint(0, 7, (64, 4), generator=torch.Generator().manual_seed(0))
        loss = OrderAgnostic(denoiser.process.steps, plain=0.1)(denoiser, x, None, rng(64))
        loss.per_example.mean().backward()
        gradients = [w.grad for w in denoiser.parameters() if w.grad is not None]
        assert all(g.isfinite().all() for g in gradients) and any(g.abs().max() > 0 for g in gradients)


def test_plain_adds_the_sum_over_what_is_unknown():
    denoiser = small(Masking(5, (4,)))
    x = torch.randint(0, 5, (32, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (OrderAgnostic(4, plain)(denoiser, x, None, rng(32)) for plain in (0.0, 0.5))
    unknown = (a.t * 4).round()
    added = 0.5 * a.unweighted * unknown / (4 * math.log(2))
    assert torch.allclose(b.per_example.double() - a.per_example.double(), added, atol=1e-6)


def test_the_process_learns_what_each_step_costs():
    denoiser = small(Masking(5, (4,)))
    objective, x = OrderAgnostic(4), torch.zeros(8, 4, dtype=torch.int64)
    with torch.no_grad():
        loss = objective(denoiser, x, None, Rng.for_step(0, 0, range(8)))
    objective.observe(loss)
    objective.follow(denoiser)
    process = denoiser.process
    assert process.seen.tolist() == [[2, 2, 2, 2]]
    for e in range(4):
        mine = loss.unweighted[(4 - (loss.t * 4).round()) == e]
        assert float(process.losses[0, e]) == pytest.approx(float(mine.mean()), rel=1e-6)
    assert "process.losses" in denoiser.state_dict()


def test_a_causal_network_has_its_likelihood_in_one_call():
    """The same as step by step from left to right; and what comes later does not matter."""
    denoiser = small(Masking(5, (6,), order="left-to-right"), causal=True)
    x = torch.randint(0, 5, (3, 6), generator=torch.Generator().manual_seed(0))
    at_once = likelihood(denoiser, x, Bound())
    assert at_once.evaluations.tolist() == [1, 1, 1]
    assert torch.allclose(at_once.nats, likelihood(denoiser, x, "bound").nats, atol=1e-4)
    loss = LeftToRight()(denoiser, x, None, rng(3)).per_example
    assert torch.allclose(loss.double(), at_once.bits, atol=1e-5)
    changed = x.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % 5
    a, b = (denoiser.conditionals(y).log_probs[:, :4] for y in (x, changed))
    assert torch.allclose(a, b, atol=1e-6)
    every = torch.cartesian_prod(*[torch.arange(5)] * 2)
    short = small(Masking(5, (2,), order="left-to-right"), causal=True)
    assert float(torch.exp(-likelihood(short, every, Bound()).nats).sum()) == pytest.approx(1, abs=1e-5)


def test_what_does_not_fit_is_told():
    with pytest.raises(UsageProblem, match="masked in order"):
        likelihood(gaussian(torch.zeros(2), 1.0).denoiser(Gaussian(Cosine())), torch.zeros(1, 2), Bound())
    with pytest.raises(UsageProblem, match="draws is 0"):
        Bound(draws=0)
    with pytest.raises(UsageProblem, match="left-to-right"):
        small(Masking(5, (4,)), causal=True)
    with pytest.raises(UsageProblem, match="causal network"):
        LeftToRight()(small(Masking(5, (4,))), torch.zeros(1, 4, dtype=torch.int64), None, rng(1))
    with pytest.raises(UsageProblem, match="random orders"):
        law = joint()
        likelihood(law.denoiser(Masking(3, (3,), order="left-to-right")), law.every, Bound())


def test_example_i_is_its_own():
    denoiser, x = small(Masking(5, (4,))), torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    t = torch.tensor([0.5, 1.0]).double()
    with torch.no_grad():
        both, one = per_symbol(denoiser, x, t, rng(2)), per_symbol(denoiser, x[1:], t[1:], Rng.from_seeds([1]))
    assert torch.allclose(both[1:], one, atol=1e-6)
