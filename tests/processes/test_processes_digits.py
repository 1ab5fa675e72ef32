"""Symbols guessed digit by digit: the law of the digits is that of the symbols, wherever it is asked."""

import math

import pytest
import torch

from unnoise.denoisers import Levels, Symbols, clamped
from unnoise.errors import UsageProblem
from unnoise.laws import Categorical
from unnoise.likelihood import per_symbol, variational_bound
from unnoise.processes import Digits, Masking
from unnoise.processes.digits import digits
from unnoise.rng import Rng
from unnoise.samplers import Ancestral, Uniform, sample

torch.set_num_threads(1)


def rng(count, first=0):
    return Rng.from_seeds(range(first, first + count))


def some(batch, length, stages, base, seed=0):
    return torch.randn(
        batch, length, stages, base, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).log_softmax(-1)


def whole(law):
    """The same law, a probability for each symbol."""
    return Categorical(law.mean.log())


def test_digits_are_those_of_the_number():
    x = torch.arange(27)
    assert [int("".join(map(str, row)), 3) for row in digits(x, 3, 3).tolist()] == x.tolist()


def test_as_a_law_of_symbols():
    """Probabilities, densities, divergences and samples, against the law written out over all symbols."""
    p, q = Digits(some(1, 4, 3, 2)), Digits(some(1, 4, 3, 2, 1))
    assert torch.allclose(p.mean.sum(-1), torch.ones(1, 4, dtype=torch.float64))
    x = torch.tensor([[0, 7, 5, 2]])
    assert torch.allclose(p.log_prob(x), whole(p).log_prob(x))
    assert torch.allclose(p.kl(q), whole(p).kl(whole(q)))
    many = Digits(p.log_probs.expand(20_000, 4, 3, 2)).sample(rng(20_000))
    share = torch.stack([(many == k).double().mean(0) for k in range(8)], -1)
    assert ((share - p.mean[0]).abs() < 5 * (p.mean[0] * (1 - p.mean[0]) / 20_000).sqrt()).all()
    point = Digits.certain(x, 3, 2)
    assert torch.equal(point.sample(rng(1)), x) and float(point.log_prob(x)) == 0
    assert math.isclose(float(point.kl(p)), -float(p.log_prob(x)))
    with pytest.raises(UsageProblem, match="does not exist"):
        p.kl(whole(p))


def table(process, seed=0):
    """A denoiser by a table: what it says depends on what is shown at the position alone."""
    numbers = torch.nn.Embedding(Symbols.vocabulary(process), Symbols.outputs(process, "direct"))
    torch.nn.init.normal_(numbers.weight, generator=torch.Generator().manual_seed(seed))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.numbers = numbers

        def forward(self, x, t, cond=None):
            return self.numbers(x)

    return Symbols(Network(), process, "direct").double()


class Whole(torch.nn.Module):
    """The same guesses, as laws of symbols."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.process, self.space = denoiser, denoiser.process, denoiser.space

    def forward(self, xt, t, cond=None):
        return whole(self.denoiser(xt, t, cond))


@pytest.mark.parametrize("base, stages", [(2, 3), (3, 2)])
def test_steps_and_bounds_are_those_of_the_law_of_symbols(base, stages):
    process = Masking(base**stages, (6,), base)
    by_digit = table(process)
    by_symbol = Whole(by_digit)
    x0 = torch.randint(0, process.tokens, (36, 6), generator=torch.Generator().manual_seed(0))
    t = (1 + torch.arange(36) % process.steps).double() / process.steps
    xt = process.corrupt(x0, t, rng(36))
    guess = by_digit(xt, t)
    assert isinstance(guess, Digits)
    possible = process.beneath(xt, t)[2]
    assert (guess.mean[~possible] == 0).all() and torch.allclose(guess.mean.sum(-1), torch.ones(36, 6).double())
    other = table(process, 3)(xt, t)
    for s in (process.stage_end(t), torch.zeros_like(t)):
        a, b = (process.reverse_law(g, xt, t, s) for g in (guess, whole(guess)))
        c, d = (process.reverse_law(g, xt, t, s) for g in (other, whole(other)))
        assert torch.allclose(a.log_prob(x0), b.log_prob(x0))
        assert torch.allclose(c.kl(c), torch.zeros(36).double()) and torch.allclose(a.kl(c), b.kl(d))
        posterior = process.posterior(xt, x0, t, s)
        assert torch.allclose(posterior.kl(a), -b.log_prob(x0))
        assert (posterior.log_prob(x0) == 0).all() and (posterior.log_prob((x0 + 1) % process.tokens).isinf()).any()
    assert torch.allclose(*(per_symbol(m, x0, t, rng(36)) for m in (by_digit, by_symbol)))  # type: ignore[arg-type]
    points = Uniform(4 * stages)(process)
    bounds = [variational_bound(m, Ancestral(), points, x0, rng(36)).total for m in (by_digit, by_symbol)]  # type: ignore[arg-type]
    assert torch.allclose(*bounds)


def test_known_symbols_are_kept_through_all_stages():
    process = Masking(16, (4,), 2)
    given = clamped(torch.tensor([5, 0, 15, 0]), torch.tensor([True, False, True, False]))
    x = sample(given(table(process)), Ancestral(), Uniform(16), (200, 4), rng=rng(200))
    assert (x[:, 0] == 5).all() and (x[:, 2] == 15).all() and x[:, 1].unique().numel() > 8


def test_sounds_have_a_level_for_every_sample_of_16_bits():
    process = Masking(1 << 16, (1, 1 << 16), 2, scale=1 << 16)
    stored = torch.arange(-32768, 32768)[None, None]
    x = stored.float() / 32768
    assert torch.equal(process.numbers(x), stored + 32768)
    assert torch.equal(process.data(process.state(x)), x)
    coarse = Masking(256, (1, 3), scale=256)
    assert coarse.numbers(torch.tensor([[[-1.0, 0.0, 1.0]]])).tolist() == [[[0, 128, 255]]]


def test_networks_of_images_are_shown_levels_and_what_is_known():
    process, seen = Masking(4, (2, 3, 3), 2, scale=3), []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, t, cond=None):
            seen.append(x)
            return self.weight + torch.arange(8.0)[:, None, None].expand(len(x), 8, 3, 3)

    denoiser = Levels(Network(), process, "data", width=5)
    assert Levels.inputs(2, 5) == 14
    xt = process.corrupt(torch.full((1, 2, 3, 3), 2 / 3 - 1 + 2 / 3), torch.tensor([0.75]), rng(1))
    guess = denoiser(xt, torch.tensor([0.75]))
    symbol, depth = process.surface(xt, torch.tensor([0.75]))
    shown = seen[0]
    assert shown.shape == (1, 14, 3, 3)
    assert torch.equal(shown[:, :2] == 0, symbol == 4) and torch.equal(shown[:, 2:4], depth / 2)
    assert torch.allclose(shown[:, :2][depth == 1], torch.tensor(1 / 3))  # of level 2, the coarse digit
    assert torch.equal(shown[0, 4:9, 1, 1], denoiser.vectors.weight[symbol[0, 0, 1, 1]])
    free = guess.log_probs[depth == 0]
    for channel in (0, 1):
        logits = guess.log_probs[0, channel][depth[0, channel] == 0]
        assert torch.allclose(logits[:, 1:] - logits[:, :-1], torch.ones(len(logits), 3))
    assert len(free) and guess.log_probs.shape == (1, 2, 3, 3, 4)
    with pytest.raises(UsageProblem, match="have none"):
        Levels(Network(), Masking(4, (2, 3, 3)), "data", 5)
