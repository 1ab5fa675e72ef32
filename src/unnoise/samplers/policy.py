r"""Which symbols to reveal together: the cheapest schedule of so many steps, by dynamic programming (2110.02037).

Because order does not matter, k symbols that are revealed together when e are known cost k L_e. So a schedule e_1 = 0 < e_2 <
... costs sum (e_{j+1} - e_j) L_{e_j}, and the cheapest of j steps that knows s symbols is

    cost[j, s] = min over r < s of cost[j-1, r] + (s - r) L_r.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..processes import Process
from ..processes.masking import Masking
from .grids import Grid


def step_policy(losses: Tensor, budget: int) -> list[int]:
    """Where the steps of the cheapest schedule begin: `budget` increasing numbers of known symbols, the first 0.

    losses   L by the number of known symbols (D,), or (stages, D): a step does not reach into the next stage, and numbers go
             on counting through the stages. They are sorted decreasing, in each stage, which takes out estimation noise.
    Raises UsageProblem for budgets that none has.
    """
    losses = torch.atleast_2d(losses).double().sort(1, descending=True).values
    stages, length = losses.shape
    total = stages * length
    if not stages <= budget <= total:
        raise UsageProblem(
            f"{total} symbols in {stages} stage{'s' * (stages > 1)} take from {stages} to {total} steps, not {budget}"
        )
    r, s = torch.arange(total)[:, None], torch.arange(total + 1)
    within = (s > r) & (s <= (r // length + 1) * length)
    price = torch.where(within, (s - r) * losses.flatten()[:, None], torch.inf)  # of a step from r to s
    cost, came = torch.full((total + 1,), torch.inf, dtype=torch.float64), []
    cost[0] = 0.0
    for _ in range(budget):
        best = (cost[:-1, None] + price).min(0)
        came.append(best.indices)
        cost = best.values
    policy, at = [], total
    for step in reversed(came):
        at = int(step[at])
        policy.append(at)
    return policy[::-1]


def even_policy(total: int, budget: int) -> list[int]:
    """Steps of one length, rounded."""
    return [round(total * j / budget) for j in range(budget)]


def policy_cost(losses: Tensor, policy: Sequence[int]) -> float:
    """What a schedule costs with losses as they are, in their unit, for all symbols together."""
    losses = torch.atleast_2d(losses).double().flatten()
    ends = [*policy[1:], len(losses)]
    return sum((end - start) * float(losses[start]) for start, end in zip(policy, ends, strict=True))


@dataclass(frozen=True)
class Policy(Grid):
    """The cheapest schedule of `steps` steps for a model that reveals symbols, by what they cost in its training."""

    name: ClassVar[str] = "policy"

    def times(self, process: Process) -> list[float]:
        if not isinstance(process, Masking):
            raise UsageProblem(
                f"the grid policy is for symbols that are masked in order, and this model's process is "
                f"{type(process).__name__}; use the grid uniform"
            )
        if process.order != "random":
            raise UsageProblem("one order alone leaves nothing to choose together; use the grid uniform")
        if not bool((process.seen > 0).all()):
            raise UsageProblem(
                "this model does not know yet what each step costs; train it on, or use the grid uniform"
            )
        return [1 - e / process.steps for e in step_policy(process.losses, self.steps)]
