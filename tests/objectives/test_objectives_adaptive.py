"""Noise levels that adapt: the loss stays what it was, its variance falls, and what is drawn is what was asked for."""

import math

import pytest
import torch

from unnoise.objectives import Adaptive, EDMLoss, LogNormal, Matching, Stratified, Uniform, implied_weighting
from unnoise.oracles import Mixture
from unnoise.processes import Gaussian
from unnoise.rng import Rng, stream
from unnoise.schedules import EDM, Cosine, FromBetas, Learned, cosine_betas

N = 4096
PROCESSES = {
    "cosine": (Gaussian(Cosine(-12.0, 12.0)), Uniform()),
    "EDM": (Gaussian(EDM()), LogNormal()),
    "chain": (Gaussian(FromBetas(cosine_betas(1000))), Uniform(0.002)),
    "learned": (Gaussian(Learned(-10, 12, units=16).requires_grad_(False)), Stratified()),
}


def taught(times, process, loss, rounds=40):
    """After the losses `loss(log_snr)` of many batches."""
    for i in range(rounds):
        t, _ = times.sample(process, Rng.for_step(0, i, range(500)))
        times.observe(t, loss(process.schedule.log_snr(t)))
    return times


def peaked(log_snr):
    return torch.exp(-0.5 * ((log_snr - 2) / 1.5) ** 2) + 1e-3


@pytest.mark.parametrize("name", PROCESSES)
def test_expectations_are_those_of_the_base(name):
    """Of any function of t, before and after learning, by batches that cover the levels evenly."""
    process, base = PROCESSES[name]
    times = Adaptive(base, bins=60)
    f = lambda t: torch.cos(process.schedule.log_snr(t) / 3)  # noqa: E731
    expected = f(base.draw(process, Rng.for_step(7, 0, range(40_000)))).mean()
    for learned in (False, True):
        if learned:
            taught(times, process, peaked)
        t, weight = times.sample(process, Rng.for_step(1, 0, range(40_000)))
        # the base's own Monte Carlo error, and that of a rule of 40,000 even points
        assert float((weight * f(t)).mean()) == pytest.approx(float(expected), abs=5 * 0.7 / 200 + 2e-3)
        assert float(weight.mean()) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_it_draws_in_proportion_to_the_loss(name):
    """p(lambda) = (1 - floor) c loss x base + floor / range, which the draws themselves confirm."""
    process, base = PROCESSES[name]
    times = taught(Adaptive(base, bins=60, floor=0.1), process, peaked)
    ends = process.schedule.log_snr(torch.tensor([1.0, 0.0]).double()).clamp(-20, 20)
    grid = torch.linspace(*ends.tolist(), 20_001).double()[1:-1]
    implied = implied_weighting(Matching("eps", times), process, grid)
    assert float(torch.trapezoid(implied.drawn, grid)) == pytest.approx(1, abs=2e-3)
    wanted = peaked(grid) * implied.density
    wanted = 0.9 * wanted / torch.trapezoid(wanted, grid) + 0.1 / float(ends[1] - ends[0])
    bins = lambda p: p[: len(p) // 300 * 300].reshape(-1, 300).mean(1)  # noqa: E731
    assert float((bins(implied.drawn) - bins(wanted)).abs().mean()) < 0.1 * float(wanted.mean())
    t, _ = times.sample(process, Rng.for_step(1, 0, range(N)))
    shares = torch.histc(process.schedule.log_snr(t), 20, *ends.tolist()) / N
    mass = implied.drawn * (grid[1] - grid[0])
    expected = torch.histogram(grid, 20, range=tuple(ends.tolist()), weight=mass).hist
    torch.testing.assert_close(shares, expected, atol=6 / N + 2e-3, rtol=0)


def test_it_forgets():
    """The losses of long ago are as if they had not been."""
    process, base = PROCESSES["cosine"]
    a = taught(Adaptive(base), process, lambda l: 100 * torch.exp(-((l + 5) ** 2)), 30)
    b = Adaptive(base)
    for times in (a, b):
        taught(times, process, peaked, 300)
    t = torch.linspace(0.05, 0.95, 50).double()
    assert float((a.drawn(process, t) - b.drawn(process, t)).abs().max()) < 0.05 * float(b.drawn(process, t).max())


def test_levels_not_seen_are_taken_for_usual_ones():
    process, base = PROCESSES["cosine"]
    times = Adaptive(base, bins=10, floor=0.05)
    _, _, before = times._layout(process)
    times.sample(process, Rng.for_step(0, 0, range(4)))
    times.observe(process.schedule.time(torch.tensor([0.1]).double()), torch.tensor([3.0]))
    _, _, after = times._layout(process)
    torch.testing.assert_close(before, after)  # one loss says nothing of how losses differ
    assert float(after.min()) >= 0.05 / 10


def mixture():
    return Mixture(torch.tensor([[-0.8], [0.1], [0.9]]), 0.01)


@pytest.mark.parametrize("weighting", ["elbo", EDMLoss()], ids=["elbo", "edm"])
def test_it_lowers_the_deviation_of_a_loss_and_not_its_mean(weighting):
    """With the exact denoiser of a mixture, against even times of the cosine."""
    data, process = mixture(), Gaussian(Cosine(-12.0, 12.0))
    denoiser, found = data.denoiser(process), {}
    for name, times in {"cosine": Stratified(), "adaptive": Adaptive(Stratified())}.items():
        objective, losses = Matching("eps", times, weighting), []
        for i in range(160):
            x0 = data.sample(Rng.from_seeds(range(64 * i, 64 * i + 64)))
            loss = objective(denoiser, x0, None, Rng.for_step(2, i, range(64)))
            objective.observe(loss)
            losses.append(loss.per_example)
        found[name] = torch.stack(losses[60:])
    a, b = found["cosine"], found["adaptive"]
    assert float(b.std()) < 0.8 * float(a.std())
    assert abs(float(a.mean() - b.mean())) < 5 * math.hypot(float(a.mean(1).std()), float(b.mean(1).std())) / 10


def test_a_resumed_training_draws_the_same():
    process, base = PROCESSES["cosine"]
    one, two = taught(Adaptive(base), process, peaked), Adaptive(base)
    two.load_state_dict(one.state_dict())
    for a, b in zip(*(t.sample(process, Rng.for_step(3, 9, range(32))) for t in (one, two)), strict=True):
        assert torch.equal(a, b)
    assert set(one.state_dict()) == {"sums", "counts"}


def test_two_processes_draw_what_one_would():
    process, base = PROCESSES["cosine"]
    times = taught(Adaptive(base), process, peaked)
    whole, _ = times.sample(process, Rng.for_step(3, 9, range(32), total=32))
    halves = [times.sample(process, Rng.for_step(3, 9, r, total=32))[0] for r in (range(16), range(16, 32))]
    assert torch.equal(whole, torch.cat(halves))
    losses = torch.rand(32, generator=stream(0), dtype=torch.float64)
    times.observe(whole, losses)
    assert float(times.counts.sum()) > 0
