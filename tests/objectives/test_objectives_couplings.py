"""Couplings: the plan of a batch is the best of all permutations; paths join their pairs; replayed pairs stay pairs."""

from itertools import permutations

import torch

from unnoise.couplings import Replayed, minibatch_optimal
from unnoise.objectives import Matching, Uniform
from unnoise.oracles import gaussian
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.schedules import Rectified


def cost(x0, eps):
    return float((x0 - eps).square().sum())


def test_the_plan_is_the_best_permutation_of_the_noise():
    x0 = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    label = {"label": torch.arange(6)}
    same, told, eps = minibatch_optimal(x0, label, Rng.from_seeds(range(6)))
    drawn = Rng.from_seeds(range(6)).normal(2, 3)
    assert same is x0 and told is label
    assert {tuple(e.flatten().tolist()) for e in eps} == {tuple(e.flatten().tolist()) for e in drawn}
    best = min(cost(x0, drawn[list(p)]) for p in permutations(range(6)))
    assert abs(cost(x0, eps) - best) < 1e-4


def test_in_one_dimension_the_plan_sorts():
    x0 = torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    _, _, eps = minibatch_optimal(x0, None, Rng.from_seeds(range(64)))
    assert torch.equal(x0.flatten().argsort(), eps.flatten().argsort())


def test_the_loss_of_a_perfect_guess_of_coupled_pairs_is_zero():
    """Where eps is a function of x_0, x_t tells x_0, and the velocity can be known exactly."""

    def mirrored(x0, cond, rng):
        return x0, cond, -2 * x0

    class Exact(torch.nn.Module):
        process = Gaussian(Rectified())

        def forward(self, xt, t, cond=None):
            from unnoise.laws import Estimate

            point = self.process.at(t, xt)
            return Estimate(xt / (point.alpha - 2 * point.sigma))

    x0 = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    loss = Matching("velocity", Uniform(0.4), coupling=mirrored)(Exact(), x0, None, Rng.from_seeds(range(50)))
    assert float(loss.per_example.abs().max()) < 1e-18
    independent = Matching("velocity", Uniform(0.4))(Exact(), x0, None, Rng.from_seeds(range(50)))
    assert float(independent.per_example.mean()) > 0.1


def test_optimal_pairs_are_nearer_to_the_exact_map_than_independent_ones():
    """For N(0, 1/4) data the optimal map halves the noise; a plan of 256 comes close to it, chance does not."""
    rng = Rng.from_seeds(range(256))
    x0 = 0.5 * rng.spawn(1).normal(1)
    _, _, eps = minibatch_optimal(x0, None, rng)
    assert float((x0 - eps / 2).square().mean()) < 0.02
    assert float((x0 - Rng.from_seeds(range(256)).normal(1) / 2).square().mean()) > 0.3


def test_replayed_pairs_stay_pairs_and_are_simulated_once():
    asked = []

    def simulate():
        asked.append(1)
        data = torch.arange(10.0)[:, None]
        return data, {"label": torch.arange(10)}, 100 + data

    coupling = Replayed(simulate)
    for step in range(2):
        x0, cond, eps = coupling(torch.zeros(32, 1), None, Rng.for_step(0, step, range(32)))
        assert torch.equal(eps, x0 + 100) and torch.equal(cond["label"].float(), x0[:, 0])
        assert len(x0.unique()) > 5
    assert len(asked) == 1


def test_independent_noise_needs_no_coupling():
    x0 = torch.zeros(4, 2)
    process = Gaussian(Rectified())
    oracle = gaussian(torch.zeros(2).double(), 1.0).denoiser(process)

    def drawn(x0, cond, rng):
        return x0, cond, rng.normal(2)

    a = Matching("velocity", Uniform(0.1))(oracle, x0, None, Rng.from_seeds(range(4)))
    b = Matching("velocity", Uniform(0.1), coupling=drawn)(oracle, x0, None, Rng.from_seeds(range(4)))
    torch.testing.assert_close(a.per_example, b.per_example)


def test_the_straight_path_may_leave_noise_in_the_data():
    """Its inverse in log-SNR, its derivatives and its ends."""
    path, t = Rectified(0.05), torch.linspace(0, 0.99, 12, dtype=torch.float64)
    torch.testing.assert_close(path.time(path.log_snr(t)), t, atol=1e-12, rtol=0)
    h = 1e-6
    slopes = [(f(t + h) - f(t - h)) / (2 * h) for f in (path.alpha, path.sigma)]
    for exact, measured in zip(path.derivatives(t), slopes, strict=True):
        torch.testing.assert_close(exact, measured, atol=1e-9, rtol=0)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert path.sigma(ends).tolist() == [0.05, 1.0] and path.alpha(ends).tolist() == [1.0, 0.0]
