"""Masking in order: which symbols are hidden when, digits in stages, and laws that agree with counting."""

import itertools
import math

import pytest
import torch

from unnoise.denoisers import Symbols, clamped
from unnoise.errors import UsageProblem
from unnoise.laws import Categorical
from unnoise.oracles import Joint, MarkovChain, Trigrams
from unnoise.processes import AbsorbGraph, Jump, LogLinear, Masking
from unnoise.rng import Rng
from unnoise.samplers import DDIM, Ancestral, Heun, Uniform, sample

torch.set_num_threads(1)


def rng(count, first=0):
    return Rng.from_seeds(range(first, first + count))


def joint(tokens=3, length=3, seed=0):
    weights = torch.rand((tokens,) * length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Joint(weights**3)


def test_as_many_are_hidden_as_the_time_says_and_every_set_is_as_likely():
    process, x0 = Masking(5, (4,)), torch.tensor([[0, 1, 2, 3]]).expand(6000, 4)
    xt = process.corrupt(x0, process.point(0.5), rng(6000))
    hidden = process.symbol(xt) == 5
    assert (hidden.sum(1) == 2).all()
    assert torch.equal(process.symbol(xt)[~hidden], x0[~hidden])
    counts = {pair: int((hidden[:, list(pair)].all(1)).sum()) for pair in itertools.combinations(range(4), 2)}
    for count in counts.values():
        assert abs(count - 1000) < 4.5 * math.sqrt(1000 * 5 / 6)


def test_a_walk_keeps_to_its_order():
    process, x0 = Masking(3, (6,)), torch.tensor([[0, 1, 2, 0, 1, 2]])
    x = process.prior((1, 6)).sample(rng(1))
    order = process.rank(x).argsort()[0]
    for e in range(6):
        x = process.posterior(x, x0, process.point(1 - e / 6), process.point(1 - (e + 1) / 6)).sample(rng(1))
        known = process.symbol(x)[0] != 3
        assert set(order[: e + 1].tolist()) == set(known.nonzero().flatten().tolist())
    assert torch.equal(process.data(x), x0)


@pytest.mark.parametrize("branching", [None, 2, 3, 5])
@pytest.mark.parametrize("tokens", [5, 8])
def test_stages_go_from_coarse_to_fine(tokens, branching):
    process = Masking(tokens, (7,), branching)
    b, stages = branching or tokens, process.stages
    assert b**stages >= tokens and (stages == 1 or b ** (stages - 1) < tokens)
    x0 = torch.arange(tokens).repeat(9)[:7].expand(200, 7)
    t = (1 + torch.arange(200) % process.steps).double() / process.steps
    xt = process.corrupt(x0, t, rng(200))
    symbol, depth, possible = process.beneath(xt, t)
    for d in range(stages + 1):
        at = depth == d
        value = x0 // b ** (stages - d) * b ** (stages - d) if d else torch.full_like(x0, tokens)
        assert torch.equal(symbol[at], value[at])
    left = process.left(t, 200)
    assert torch.equal((stages - depth).sum(1), left)  # every position still needs the stages below it
    assert depth.amax(1).sub(depth.amin(1)).max() <= 1  # one stage at a time
    assert possible.gather(-1, x0[..., None]).all()
    assert ((possible.sum(-1) == 1) == ((depth == stages) | (possible.sum(-1) == 1))).all()
    assert torch.equal(
        possible.sum(-1)[depth == stages], torch.ones_like(left[:1]).expand(int((depth == stages).sum()))
    )


def test_digits_of_a_symbol_multiply_to_its_probability():
    """Through the stages p(x^(s) | x^(s-1)) telescopes to the law of x_0, whatever it is."""
    law = Categorical(torch.randn(1, 1, 7, generator=torch.Generator().manual_seed(1)).double().log_softmax(-1))
    for branching in (2, 3, 7):
        process = Masking(7, (1,), branching)
        for k in range(7):
            x0, total = torch.tensor([[k]]), torch.zeros(1, dtype=torch.float64)
            x = process.prior((1, 1)).sample(rng(1))
            for stage in range(process.stages):
                t, s = (process.point(1 - (stage + i) / process.stages) for i in (0, 1))
                possible = process.beneath(x, t)[2]
                guess = Categorical(law.log_probs.masked_fill(~possible, -torch.inf).log_softmax(-1))
                step = process.reverse_law(guess, x, t, s)
                total += step.log_prob(x0)
                x = process.posterior(x, x0, t, s).sample(rng(1))
            assert torch.allclose(total, law.log_probs[0, 0, k], atol=1e-12)


@pytest.mark.parametrize("branching", [None, 2])
def test_divergence_and_samples_agree_with_the_density(branching):
    process = Masking(4, (2,), branching)
    x = process.corrupt(torch.tensor([[1, 3]]), torch.tensor([1.0]), rng(1))
    t, s = process.point(1.0), process.point(1 - 2 / process.steps)
    p, q = (
        Categorical(torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(i)).double().log_softmax(-1))
        for i in range(2)
    )
    p, q = process.reverse_law(p, x, t, s), process.reverse_law(q, x, t, s)
    every = [torch.tensor([pair]) for pair in itertools.product(range(0, 4, 1 if branching is None else 2), repeat=2)]
    assert math.isclose(sum(float(p.log_prob(y).exp()) for y in every), 1, abs_tol=1e-12)
    kl = sum(float(p.log_prob(y).exp() * (p.log_prob(y) - q.log_prob(y))) for y in every)
    assert math.isclose(float(p.kl(q)), kl, abs_tol=1e-12)
    many = process.reverse_law(Categorical(p.guess.log_probs.expand(8000, 2, 4)), x.expand(8000, 2), t, s).sample(
        rng(8000)
    )
    for y in every:
        share, chance = float((process.symbol(many) == y).all(1).double().mean()), float(p.log_prob(y).exp())
        assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / 8000)


def test_a_chain_of_one_symbol_a_step_samples_the_joint():
    law = joint()
    x = sample(law.denoiser(Masking(3, (3,))), Ancestral(), Uniform(3), (12_000, 3), rng=rng(12_000))
    numbers = x @ torch.tensor([9, 3, 1])
    found = torch.bincount(numbers, minlength=27) / 12_000
    p = law.log_weights.exp().flatten()
    assert ((found - p).abs() < 5 * (p * (1 - p) / 12_000).sqrt() + 1e-4).all()


def test_known_symbols_condition_the_rest_exactly():
    """A prompt in the middle: the rest has the joint's conditional law, though the order would reveal it elsewhere."""
    law = joint(seed=3)
    given = clamped(torch.tensor([0, 2, 0]), torch.tensor([False, True, False]))
    x = sample(given(law.denoiser(Masking(3, (3,)))), Ancestral(), Uniform(3), (9000, 3), rng=rng(9000))
    assert (x[:, 1] == 2).all()
    p = law.log_weights.exp()[:, 2, :].flatten()
    p, found = p / p.sum(), torch.bincount(3 * x[:, 0] + x[:, 2], minlength=9) / 9000
    assert ((found - p).abs() < 5 * (p * (1 - p) / 9000).sqrt() + 1e-4).all()


def test_left_to_right_is_an_order_too():
    process = Masking(3, (5,), order="left-to-right")
    x = process.corrupt(torch.tensor([[0, 1, 2, 0, 1]]), torch.tensor([0.4]), rng(1))
    assert process.symbol(x).tolist() == [[0, 1, 2, 3, 3]]


def test_grey_levels_are_symbols():
    process = Masking(17, (1, 2, 2), scale=16)
    x0 = torch.tensor([[[[-1.0, 0.0], [0.125, 1.0]]]])
    assert process.numbers(x0).flatten().tolist() == [0, 8, 9, 16]
    assert torch.allclose(process.data(process.state(x0)), x0)
    assert (process.data(process.prior((1, 1, 2, 2)).sample(rng(1))) == 0).all()


def test_the_prior_is_the_end_and_nothing_else():
    process = Masking(4, (3,))
    x0 = torch.tensor([[0, 1, 2]])
    assert float(process.marginal(x0, process.point(1.0)).kl(process.prior((1, 3)))) == 0
    assert process.marginal(x0, process.point(2 / 3)).kl(process.prior((1, 3))).isinf()
    x = process.corrupt(x0, process.point(2 / 3), rng(1))
    assert math.isclose(float(process.marginal(x0, process.point(2 / 3)).log_prob(x)), -math.log(6))
    assert process.marginal(x0, process.point(1 / 3)).log_prob(x).isinf()


def test_a_running_mean_of_what_symbols_cost():
    process = Masking(4, (2,))
    for value in (1.0, 3.0):
        process.observe(torch.tensor([1.0, 0.5]).double(), torch.tensor([value, 2 * value]).double())
    assert process.losses.tolist() == [[2.0, 4.0]] and process.seen.tolist() == [[2, 2]]
    for _ in range(200):  # what it paid at first is forgotten
        process.observe(torch.ones(2).double(), torch.tensor([7.0, 9.0]).double())
    assert abs(float(process.losses[0, 0]) - 8.0) < 1e-3 and process.seen.tolist() == [[402, 2]]


def test_of_long_events_neighbours_share_their_mean():
    process = Masking(4, (130,), 2)  # two stages; groups of three
    t = 1 - torch.tensor([0, 1, 3, 130, 259]).double() / 260
    process.observe(t, torch.tensor([1.0, 2.0, 5.0, 7.0, 9.0]).double())
    assert process.losses[0, :7].tolist() == [1.5, 1.5, 1.5, 5.0, 5.0, 5.0, 0.0]
    assert process.seen[0, :7].tolist() == [2, 2, 2, 1, 1, 1, 0]
    assert process.losses[1, :4].tolist() == [7.0, 7.0, 7.0, 0.0] and process.losses[1, -2:].tolist() == [0.0, 9.0]


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_markov_oracles_say_what_the_written_out_joint_says(shape):
    """Forwards and backwards, against the sum over all sequences, for every pattern of masks."""
    length, tokens, generator = 4, shape[0], torch.Generator().manual_seed(5)
    if len(shape) == 1:
        p = torch.rand(tokens, tokens, generator=generator, dtype=torch.float64) + 0.05
        chain = MarkovChain(p / p.sum(1, keepdim=True), length)
    else:
        p = torch.rand(tokens, tokens, tokens, generator=generator, dtype=torch.float64) + 0.05
        chain = Trigrams(p / p.sum(2, keepdim=True), length)
    every = torch.cartesian_prod(*[torch.arange(tokens)] * length)
    weights = chain.log_prob(every).exp()
    assert math.isclose(float(weights.sum()), 1, abs_tol=1e-12)
    whole = Joint(weights.reshape((tokens,) * length))
    process = Masking(tokens, (length,))
    for left in range(1, length + 1):
        t = torch.full((len(every),), left / length).double()
        xt = process.corrupt(every, t, rng(len(every)))
        a, b = chain.denoiser(process)(xt, t).mean, whole.denoiser(process)(xt, t).mean
        assert torch.allclose(a, b, atol=1e-12)


def test_trigrams_keep_their_law_and_are_fitted_from_text():
    p = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1
    chain = Trigrams(p / p.sum(2, keepdim=True), 12)
    assert torch.allclose(torch.einsum("ab,abc->bc", chain.initial, chain.transition), chain.initial, atol=1e-12)
    fitted = Trigrams.fit(chain.sample(rng(4000)), 3, prior=0.0)
    assert (fitted.transition - chain.transition).abs().max() < 0.03


def test_absorbing_jumps_and_masks_have_one_exact_guess():
    """What is known of x_0 is the same, whichever process hid the rest."""
    law, x0 = joint(seed=7), torch.tensor([[0, 1, 2], [2, 2, 1]])
    masking, jump = Masking(3, (3,)), Jump(AbsorbGraph(3), LogLinear())
    xt = masking.corrupt(x0, torch.tensor([2 / 3, 1 / 3]).double(), rng(2))
    ours = law.denoiser(masking)(xt, torch.tensor([2 / 3, 1 / 3]).double()).mean
    theirs = law.denoiser(jump)(masking.symbol(xt), torch.tensor([0.4, 0.4]).double()).mean
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_what_makes_no_sense_is_told():
    with pytest.raises(UsageProblem, match="2 or more"):
        Masking(1, (4,))
    with pytest.raises(UsageProblem, match="branching is 1"):
        Masking(4, (4,), branching=1)
    process = Masking(4, (4,))
    with pytest.raises(UsageProblem, match="one chain only"):
        DDIM().check(process)
    with pytest.raises(UsageProblem, match="'heun' needs a"):
        Heun().check(process)
    with pytest.raises(UsageProblem, match="Categorical"):
        from unnoise.laws import Estimate

        process.reverse_law(
            Estimate(torch.zeros(1, 4)), process.prior((1, 4)).sample(rng(1)), *process.points([1.0, 0.5])
        )


def guessing(process, parametrisation, seed=0):
    """A denoiser whose network is a table: logits by what is shown at the position alone."""
    table = torch.nn.Embedding(Symbols.vocabulary(process), Symbols.outputs(process, parametrisation))
    torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(seed))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = table

        def forward(self, x, t, cond=None):
            return self.table(x)

    return Symbols(Network(), process, parametrisation)


@pytest.mark.parametrize("parametrisation", ["data", "direct"])
@pytest.mark.parametrize("branching", [None, 2, 3])
def test_guesses_are_laws_of_what_is_possible(parametrisation, branching):
    process = Masking(7, (6,), branching)
    x0 = torch.randint(0, 7, (30, 6), generator=torch.Generator().manual_seed(0))
    t = (1 + torch.arange(30) % process.steps).double() / process.steps
    xt = process.corrupt(x0, t, rng(30))
    p = guessing(process, parametrisation)(xt, t).mean
    assert torch.allclose(p.sum(-1), torch.ones(30, 6), atol=1e-5)
    assert (p[~process.beneath(xt, t)[2]] == 0).all()


def test_a_direct_guess_of_a_digit_is_the_softmax_of_its_slice():
    process = Masking(8, (6,), branching=2)
    denoiser = guessing(process, "direct")
    x0 = torch.randint(0, 8, (36, 6), generator=torch.Generator().manual_seed(0))
    t = (1 + torch.arange(36) % process.steps).double() / process.steps
    xt = process.corrupt(x0, t, rng(36))
    symbol, depth, _ = process.beneath(xt, t)
    p, seen = denoiser(xt, t).mean.detach(), 0
    for i, j in itertools.product(range(36), range(6)):
        if (d := int(depth[i, j])) == 3:
            continue
        shown = 8 if d == 0 else d * 8 + int(symbol[i, j]) + 1
        digit = denoiser.network.table.weight[shown].unflatten(0, (3, 2))[d].softmax(0)
        base, width = (0 if d == 0 else int(symbol[i, j])), 2 ** (2 - d)
        found = [float(p[i, j, base + c * width : base + (c + 1) * width].sum()) for c in (0, 1)]
        assert found == pytest.approx(digit.tolist(), abs=1e-5)
        seen += 1
    assert seen > 50
