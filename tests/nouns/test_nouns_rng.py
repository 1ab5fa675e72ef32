"""Random streams belong to examples."""

import pytest
import torch

from unnoise.rng import Rng, stream


def test_a_stream_is_named_by_its_key():
    a, b = (torch.rand(5, generator=stream(3, 1, 4)) for _ in range(2))
    assert torch.equal(a, b)
    others = [(3, 1, 5), (3, 4, 1), (1, 4), (4,), (3, 1, 4, 0), (0, 3, 1, 4), (3, 1, -4)]
    assert all(not torch.equal(a, torch.rand(5, generator=stream(*key))) for key in others)


@pytest.mark.parametrize("prefix", [(), (7,), (7, 2**40)])
def test_neighbouring_keys_never_meet(prefix):
    """The last number is sent to 32 bits one to one, so seeds and places in a batch have streams of their own."""
    first = torch.tensor([stream(*prefix, i).initial_seed() for i in range(20_000)])
    assert len(first.unique()) == 20_000
    assert first.double().mean() == pytest.approx(2**31, rel=0.03)


@pytest.mark.parametrize("draw", ["normal", "uniform", "integers", "bernoulli"])
def test_draws_of_an_example_are_its_own(draw):
    def numbers(rng):
        return {
            "normal": lambda: rng.normal(3, 17),
            "uniform": lambda: rng.uniform(5),
            "integers": lambda: rng.integers(10, 40),
            "bernoulli": lambda: rng.bernoulli(0.5, 40),
        }[draw]()

    whole = numbers(Rng.from_seeds([5, 1, 2**33, 9]))
    for i, seed in enumerate([5, 1, 2**33, 9]):
        assert torch.equal(numbers(Rng.from_seeds([seed]))[0], whole[i])
    assert not torch.equal(whole[0], whole[1])
    step = numbers(Rng.for_step(0, 3, range(4)))
    assert torch.equal(numbers(Rng.for_step(0, 3, [2, 3])), step[2:])
    assert not torch.equal(numbers(Rng.for_step(0, 4, range(4))), step)


def test_laws_of_the_draws():
    rng, n = Rng.from_seeds([0]), 200_000
    x = rng.normal(n)[0].double()
    assert abs(float(x.mean())) < 5 / n**0.5 and abs(float(x.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float((x**4).mean()) - 3) < 5 * (96 / n) ** 0.5
    u = rng.uniform(n)[0]
    assert u.dtype == torch.float64 and float(u.min()) >= 0 and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 5 * (1 / 12 / n) ** 0.5
    counts = torch.bincount(rng.integers(7, n)[0], minlength=7)
    assert len(counts) == 7 and float(((counts - n / 7) / (n / 7) ** 0.5).abs().max()) < 5
    assert abs(float(rng.bernoulli(0.3, n).double().mean()) - 0.3) < 5 * (0.21 / n) ** 0.5


def test_streams_are_uncorrelated():
    x = Rng.from_seeds(range(100)).normal(1000).double()
    correlation = (x @ x.T / 1000 - torch.eye(100)).abs().fill_diagonal_(0)
    assert float(correlation.max()) < 5.5 / 1000**0.5


def test_types_and_devices():
    rng = Rng.from_seeds([1, 2])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.zeros(2, 3, dtype=dtype)
        noise = Rng.from_seeds([1, 2]).normal_like(x)
        assert noise.dtype == dtype and noise.shape == x.shape
        torch.testing.assert_close(noise.double(), Rng.from_seeds([1, 2]).normal(3).double(), rtol=1e-2, atol=0)
    elsewhere = torch.zeros(2, 3, device="meta")
    assert rng.normal_like(elsewhere).device == elsewhere.device  # a law may live elsewhere than its numbers


def test_spawned_streams_do_not_depend_on_what_was_drawn():
    a, b = Rng.from_seeds([1, 2]), Rng.from_seeds([1, 2])
    a.normal(100)
    assert torch.equal(a.spawn(7).normal(3), b.spawn(7).normal(3))
    assert not torch.equal(b.spawn(7).normal(3), b.spawn(8).normal(3))
    assert torch.equal(torch.rand(2, generator=a.spawn(7).shared), torch.rand(2, generator=b.spawn(7).shared))


def test_the_shared_stream_is_the_same_for_every_part_of_a_batch():
    halves = [Rng.for_step(1, 2, places, total=4) for places in ([0, 1], [2, 3])]
    a, b = (torch.rand(3, generator=rng.shared) for rng in halves)
    assert torch.equal(a, b)
    assert halves[1].positions == [2, 3] and halves[1].total == 4 and len(halves[1]) == 2
