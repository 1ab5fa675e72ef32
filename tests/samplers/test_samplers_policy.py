"""The cheapest schedule of steps: against every schedule there is, and as a grid."""

import itertools

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.processes import Gaussian, Masking
from unnoise.samplers import Policy, even_policy, policy_cost, step_policy
from unnoise.schedules import Cosine


def schedules(total, budget, stage=None):
    """Every schedule of exactly `budget` steps whose steps stay within stages."""
    for rest in itertools.combinations(range(1, total), budget - 1):
        policy = [0, *rest]
        if stage is None or all(boundary in policy for boundary in range(0, total, stage)):
            yield policy


def test_the_sheet_of_three():
    losses = torch.tensor([3.0, 2.0, 1.0])
    assert step_policy(losses, 1) == [0]
    assert step_policy(losses, 3) == [0, 1, 2]
    assert [policy_cost(losses, step_policy(losses, k)) for k in (1, 2, 3)] == [9, 7, 6]


@pytest.mark.parametrize("total", range(1, 10))
def test_no_schedule_is_cheaper(total):
    losses = torch.rand(total, generator=torch.Generator().manual_seed(total), dtype=torch.float64)
    losses = losses.sort(descending=True).values
    for budget in range(1, total + 1):
        policy = step_policy(losses, budget)
        assert len(policy) == budget and policy[0] == 0 and policy == sorted(set(policy))
        best = min(policy_cost(losses, other) for other in schedules(total, budget))
        assert policy_cost(losses, policy) == pytest.approx(best, abs=1e-12)
        assert policy_cost(losses, policy) <= policy_cost(losses, even_policy(total, budget)) + 1e-12


def test_stages_are_not_mixed():
    losses = torch.tensor([[3.0, 2.5, 0.5], [1.0, 0.9, 0.8]], dtype=torch.float64)
    for budget in range(2, 7):
        policy = step_policy(losses, budget)
        assert 3 in policy
        best = min(policy_cost(losses, other) for other in schedules(6, budget, stage=3))
        assert policy_cost(losses, policy) == pytest.approx(best, abs=1e-12)
    with pytest.raises(UsageProblem, match="from 2 to 6 steps, not 1"):
        step_policy(losses, 1)
    with pytest.raises(UsageProblem, match="not 7"):
        step_policy(losses, 7)


@pytest.mark.parametrize("seed", range(20))
def test_stages_share_the_steps_at_best(seed):
    """Three stages of four, some of them flat or with losses that repeat, against every schedule there is."""
    losses = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    losses = (losses * (3, 30, 300)[seed % 3]).round().sort(1, descending=True).values
    for budget in range(3, 13):
        policy = step_policy(losses, budget)
        assert len(policy) == budget and {0, 4, 8} <= set(policy) and policy == sorted(set(policy))
        best = min(policy_cost(losses, other) for other in schedules(12, budget, stage=4))
        assert policy_cost(losses, policy) == pytest.approx(best, abs=1e-12)


def test_thousands_of_symbols_are_planned_in_a_moment():
    """CIFAR-10's 3072 symbols in four stages; on straight lines even steps are the best."""
    losses = torch.linspace(3, 0, 3073, dtype=torch.float64)[:-1].expand(4, -1)
    policy = step_policy(losses, 48)
    assert policy_cost(losses, policy) == pytest.approx(policy_cost(losses, even_policy(4 * 3072, 48)), rel=1e-12)


def test_noise_is_sorted_out():
    """Losses that rise by chance give the schedule of their sorted kin."""
    losses = torch.tensor([3.0, 1.0, 2.0, 0.5])
    assert step_policy(losses, 2) == step_policy(losses.sort(descending=True).values, 2)


def test_the_even_schedule_is_rounded():
    assert even_policy(10, 4) == [0, 2, 5, 8]
    assert even_policy(3, 3) == [0, 1, 2]


def test_as_a_grid():
    process = Masking(5, (4,))
    with pytest.raises(UsageProblem, match="does not know yet"):
        Policy(2)(process)
    process.losses[0], process.seen[0] = torch.tensor([4.0, 1.0, 0.9, 0.8]).double(), 1
    points = Policy(2)(process)
    assert [point.t for point in points] == [1.0, 0.75, 0.0]
    assert [point.t for point in Policy(4)(process)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(UsageProblem, match="from 1 to 4 steps"):
        Policy(5)(process)
    with pytest.raises(UsageProblem, match="grid policy"):
        Policy(3)(Gaussian(Cosine()))
    with pytest.raises(UsageProblem, match="one order"):
        Policy(3)(Masking(5, (4,), order="left-to-right"))
