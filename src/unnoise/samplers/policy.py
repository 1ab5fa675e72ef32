r"""Which symbols to reveal together: the cheapest schedule of so many steps, by dynamic programming (2110.02037).

Because order does not matter, k symbols that are revealed together when e are known cost k L_e. So a schedule e_1 = 0 < e_2 <
... costs sum (e_{j+1} - e_j) L_{e_j}, and the cheapest of j steps that knows s symbols is

    cost[j, s] = min over r < s of cost[j-1, r] + (s - r) L_r.
"""

from __future__ import annotations

import math
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
    plans = [Plan(row) for row in losses.tolist()]
    for _ in range(budget - stages):
        max(plans, key=lambda plan: plan.saving).lengthen()
    return [stage * length + start for stage, plan in enumerate(plans) for start in plan.starts]


class Plan:
    """The cheapest schedule of one stage, of one step at first, and `lengthen`ed by one at a time; `losses` fall.

    Because they fall, each further step saves less than the one before, so steps go to the stage that saves most by them; and
    cost[j, s] is the lowest of lines in s whose slopes L_r fall with r, which one sweep over s finds: D operations for a step.
    """

    def __init__(self, losses: Sequence[float]):
        self.losses, self.came = losses, []
        self.cost = [0.0] + [math.inf] * len(losses)
        self.ahead = self._further()
        self.lengthen()

    @property
    def saving(self) -> float:
        """What one step more would save; -inf where there are as many as symbols."""
        return self.cost[-1] - self.ahead[0][-1]

    @property
    def starts(self) -> list[int]:
        """Where the steps begin."""
        found, at = [], len(self.losses)
        for came in reversed(self.came):
            at = came[at]
            found.append(at)
        return found[::-1]

    def lengthen(self) -> None:
        self.cost, came = self.ahead
        self.came.append(came)
        self.ahead = self._further()

    def _further(self) -> tuple[list[float], list[int]]:
        """cost[j + 1, s] of every s, and the r that it came from."""
        lines: list[
            tuple[float, float, int]
        ] = []  # slope, height at 0, r: those that are lowest somewhere, from `first` on
        cost, came, first = [math.inf], [0], 0
        for r, slope in enumerate(self.losses):
            if self.cost[r] < math.inf:
                line = (slope, self.cost[r] - r * slope, r)
                while len(lines) - first > 1 and _hidden(lines[-2], lines[-1], line):
                    lines.pop()
                lines.append(line)
            s = r + 1
            while first + 1 < len(lines) and _at(lines[first + 1], s) <= _at(lines[first], s):
                first += 1
            cost.append(_at(lines[first], s) if lines else math.inf)
            came.append(lines[first][2] if lines else 0)
        return cost, came


def _at(line: tuple[float, float, int], s: int) -> float:
    return line[0] * s + line[1]


def _hidden(a: tuple[float, float, int], b: tuple[float, float, int], c: tuple[float, float, int]) -> bool:
    """Whether b, between a and c in slope, is nowhere below both."""
    if b[0] == c[0]:
        return c[1] <= b[1]
    return (c[1] - a[1]) * (a[0] - b[0]) <= (b[1] - a[1]) * (a[0] - c[0])


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
