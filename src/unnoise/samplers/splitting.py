r"""Splitting the reverse SDE about rest: what the process would do without data is solved exactly (2112.07068).

A linear SDE at rest, u ~ N(0, S), looks the same backwards but for its drift, S A^T S^-1 in place of A. So, backwards,

    du = [S A^T S^-1 u] dB + Q^(1/2) dw  +  Q (score + S^-1 u) dB,

of which the first part, noise and all, is a Gaussian law (`LinearSDE.relaxed`), and the second the score's surplus over that
of rest (`LinearSDE.excess`): the kick that data give. For a damped process, S A^T S^-1 is A with the velocity reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..errors import UsageProblem
from ..processes import LinearSDE, Process
from ..processes.linear import Kernel
from ..rng import Rng
from ..scalars import plus
from .loop import Denoise, Step


@dataclass(frozen=True)
class SSCS(Step):
    """Half a step of rest, the whole kick, half a step of rest: the symmetric splitting CLD sampler.

    stages 1: as published, a kick by Euler with the score of the step's first time: weak order 1.
    stages 2: a kick by the midpoint rule with the scores of the step's middle, two evaluations: weak order 2.
    """

    name: ClassVar[str] = "sscs"
    needs: ClassVar[type[Process]] = LinearSDE
    stages: int = 1

    def __post_init__(self) -> None:
        if self.stages not in (1, 2):
            raise UsageProblem(f"stages is {self.stages}, but a kick has 1 (as published) or 2 (of second order)")

    @property
    def weak_order(self) -> int:  # type: ignore[override]
        return self.stages

    def evaluations(self, steps: int) -> int:
        return self.stages * (steps - 1) + 1

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Kernel]) -> dict[float, Kernel]:  # type: ignore[override]
        """The middle of each step, by its first time."""
        self.fits(len(points) - 1)
        middles: Any = denoise.process.points([(t.t + s.t) / 2 for t, s in zip(points, points[1:], strict=False)])
        return {float(t.t): middle for t, middle in zip(points, middles, strict=False)}

    def step(  # type: ignore[override]
        self, denoise: Denoise, x: Tensor, t: Kernel, s: Kernel, state: dict[float, Kernel], rng: Rng
    ) -> tuple[Tensor, dict[float, Kernel]]:
        process: LinearSDE = denoise.process  # type: ignore[assignment]
        if s.is_clean:
            return process.state(denoise(x, t).mean), state  # type: ignore[arg-type]

        def kick(u: Tensor, at: Any) -> Tensor:
            return process.excess(u, denoise(u, at).mean, at)

        middle, h = state[float(t.t)], float(t.t) - float(s.t)
        u = process.relaxed(x, t, middle).sample(rng)
        at, trial = (t, u) if self.stages == 1 else (middle, plus(u, h / 2, kick(u, middle)))
        u = plus(u, h, kick(trial, at))
        return process.relaxed(u, middle, s).sample(rng), state
