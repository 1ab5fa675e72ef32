"""Exact laws of sequences against sums over all of them."""

import itertools

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.likelihood import losses_by_step
from unnoise.oracles import Joint, MarkovChain
from unnoise.processes import AbsorbGraph, Jump, LogLinear, Masking, UniformGraph
from unnoise.rng import Rng, stream

GRAPHS = {"uniform": UniformGraph(3), "absorb": AbsorbGraph(3)}


def small_joint(length=3, seed=0):
    return Joint(torch.rand((3,) * length, generator=stream(seed, 9), dtype=torch.float64) ** 3)


def small_chain(length=4):
    return MarkovChain(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.25, 0.25]]).double().softmax(1), length)


@pytest.mark.parametrize("name", GRAPHS)
def test_guess_of_a_joint_by_bayes_rule(name):
    joint, process = small_joint(), Jump(GRAPHS[name], LogLinear())
    point = process.point(0.6)
    forward = process.marginal(torch.arange(3), point).mean  # p(x_t | x_0), a row for each x_0
    xt = torch.tensor([[0, 2, 1], [process.graph.states - 1, 1, 0], [process.graph.states - 1] * 3])
    guess = joint.denoiser(process)(xt, point.over(xt)).mean
    for b, state in enumerate(xt):
        weights = torch.zeros(3, 3, dtype=torch.float64)
        for x0 in joint.every:
            p = (
                joint.log_prob(x0[None]).exp()
                * torch.stack([forward[z, x] for z, x in zip(x0, state, strict=True)]).prod()
            )
            for i, z in enumerate(x0):
                weights[i, z] += p[0]
        torch.testing.assert_close(guess[b], weights / weights.sum(1, keepdim=True), rtol=1e-12, atol=1e-14)


def test_chain_is_the_joint_it_spans():
    chain = small_chain()
    joint = Joint(chain.log_prob(torch.cartesian_prod(*[torch.arange(3)] * 4)).exp().reshape(3, 3, 3, 3))
    assert float(joint.log_weights.exp().sum()) == pytest.approx(1)
    torch.testing.assert_close(chain.initial @ chain.transition, chain.initial)
    evidence = torch.rand(5, 4, 3, generator=stream(2), dtype=torch.float64).log()
    evidence[0, 1] = torch.tensor([0.0, -torch.inf, -torch.inf])
    torch.testing.assert_close(chain.given(evidence), joint.given(evidence), rtol=1e-10, atol=1e-12)
    p = joint.log_weights.flatten()
    assert chain.entropy == pytest.approx(float(-(p.exp() * p).sum()), abs=1e-12)


def test_samples_are_of_the_law():
    chain, joint = small_chain(2), small_joint(2)
    for law in (chain, joint):
        x = law.sample(Rng.from_seeds(range(4000)))
        share = torch.bincount(x[:, 0] * 3 + x[:, 1], minlength=9) / len(x)
        p = law.log_prob(torch.cartesian_prod(torch.arange(3), torch.arange(3))).exp()
        assert ((share - p).abs() < 5 * (p * (1 - p) / len(x)).sqrt()).all()
        assert torch.equal(law.sample(Rng.from_seeds([7]))[0], x[7])


def test_fitted_chain_finds_its_transitions():
    chain = small_chain(200)
    found = MarkovChain.fit(chain.sample(Rng.from_seeds(range(100))), 3)
    assert (found.transition - chain.transition).abs().max() < 0.03 and found.length == 200


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageProblem, match="rows sum to 1"):
        MarkovChain(torch.ones(2, 2), 3)
    with pytest.raises(UsageProblem, match="equal axes"):
        Joint(torch.ones(2, 3))
    with pytest.raises(UsageProblem, match="do not fit"):
        small_chain().denoiser(Jump(AbsorbGraph(4), LogLinear()))


def chain(tokens=3, length=5, seed=4):
    p = torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2 + 0.01
    return MarkovChain(p / p.sum(1, keepdim=True), length)


def test_what_tokens_of_a_chain_cost_is_what_counting_says():
    """All sequences, and all sets of known positions."""
    law = chain()
    every = torch.cartesian_prod(*[torch.arange(3)] * 5)
    p, process, found = law.log_prob(every).exp(), Masking(3, (5,)), []
    for known in range(5):
        t, sets = process.point(1 - known / 5), list(itertools.combinations(range(5), known))
        total = 0.0
        for first in sets:
            rest = [i for i in range(5) if i not in first]
            rank = torch.tensor([*first, *rest]).argsort().expand(len(every), -1)
            xt = process.join(process.coarse(every, process.depth(rank, t)), rank)
            log_probs = law.denoiser(process)(xt, t.over(xt)).log_probs.gather(-1, every[..., None])[..., 0]
            total -= float(p @ log_probs[:, rest].mean(1)) / len(sets)
        found.append(total)
    assert torch.allclose(law.costs(), torch.tensor(found, dtype=torch.float64), atol=1e-12)
    with pytest.raises(UsageProblem, match="keep their law"):
        MarkovChain(law.transition, 5, torch.tensor([1.0, 0, 0])).costs()


def test_estimated_costs_are_the_exact_ones():
    law = chain(5, 12)
    x = law.sample(Rng.from_seeds(range(3000)))
    rows = losses_by_step(law.denoiser(Masking(5, (12,))), x, Rng.from_seeds(range(3000)))
    assert ((rows.mean(0) - law.costs()).abs() < 4.5 * rows.std(0) / 3000**0.5).all()
    assert abs(float(law.costs().sum()) - law.entropy) < 1e-12
