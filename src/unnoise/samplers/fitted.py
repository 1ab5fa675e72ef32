r"""Any deterministic sampler of one guess a step is a table: each state, and the end, combines the first state and the guesses,

    x_{i+1} = a_i x_T + sum_{j <= i} b_ij x_0(x_j, t_j),        row i = (a_i, b_i0, ..., b_ii)

(2305.14677 fits such rows to a fine solver's states). `table` reads the rows off a sampler by running it on symbols; `Fitted`
adds corrections to them, which `unnoise.tuning` finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Estimate
from ..processes import Gaussian, Process
from ..processes.gaussian import Point
from ..rng import Rng
from .exponential import combine
from .loop import Denoise, Step
from .multistep import DPMSolverMultistep


class _Symbols(Denoiser):
    """Its k-th guess is the k-th unit vector."""

    def __init__(self, process: Gaussian):
        super().__init__()
        self.process, self.seen = process, 0

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        self.seen += 1
        guess = torch.zeros_like(xt)
        guess[0, self.seen] = 1.0
        return Estimate(guess)


def table(step: Step, process: Gaussian, points: Sequence[Point]) -> list[list[float]]:
    """The rows of `step` on a grid. Raises UsageProblem where it has none: it draws noise, or guesses more than once a step."""
    steps = len(points) - 1
    if step.order is None or step.evaluations(steps) != steps:
        raise UsageProblem(f"the sampler {step.name!r} is no table: choose a deterministic one of one guess a step")
    if isinstance(points[0].alpha, Tensor):
        raise UsageProblem("a table of a sampler needs one noise level, and this process has one for each frequency")
    symbols = _Symbols(Gaussian(process.schedule))
    x = torch.zeros(1, steps + 1, dtype=torch.float64)
    x[0, 0] = 1.0
    denoise, rng, rows = Denoise(symbols, 1, None, x.device), Rng.from_seeds([0]), []
    state = step.init(denoise, x, points)
    for i, (t, s) in enumerate(pairwise(points)):
        x, state = step.step(denoise, x, t, s, state, rng)
        rows.append(x[0, : i + 2].tolist())
    return rows


@dataclass(frozen=True)
class Fitted(Step):
    """`inner`, with a row of `corrections` added to each row of its table; without any, `inner` itself."""

    name: ClassVar[str] = "fitted"
    inner: Step = field(default_factory=DPMSolverMultistep)
    corrections: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if any(len(row) != i + 2 for i, row in enumerate(self.corrections)):
            raise UsageProblem("the corrections of a fitted sampler are rows of 2, 3, 4, ... numbers")

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return None if self.corrections else self.inner.order

    @property
    def weak_order(self) -> int | None:  # type: ignore[override]
        return None if self.corrections else self.inner.weak_order

    @property
    def strong_order(self) -> int | float | None:  # type: ignore[override]
        return None if self.corrections else self.inner.strong_order

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return self.inner.least_steps

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return bool(self.corrections) or self.inner.remembers

    def evaluations(self, steps: int) -> int:
        return self.inner.evaluations(steps)

    def check(self, process: Process) -> None:
        super().check(process)
        self.inner.check(process)

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> Any:
        if not self.corrections:
            return self.inner.init(denoise, x, points)
        rows = table(self.inner, denoise.process, points)
        if len(self.corrections) != len(rows):
            raise UsageProblem(
                f"this sampler was fitted to {len(self.corrections)} steps, not to {len(rows)}; take as many, or another sampler"
            )
        return corrected(rows, self.corrections), [x]

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: Any, rng: Rng) -> tuple[Tensor, Any]:
        if not self.corrections:
            return self.inner.step(denoise, x, t, s, state, rng)
        rows, seen = state
        seen = [*seen, denoise.process.state(denoise(x, t).mean)]
        return combine(*zip(rows[len(seen) - 2], seen, strict=True)), (rows, seen)


def corrected(rows: list[list[float]], corrections: Sequence[Sequence[float]]) -> list[list[float]]:
    """The rows with the corrections added."""
    return [[a + b for a, b in zip(row, more, strict=True)] for row, more in zip(rows, corrections, strict=True)]
