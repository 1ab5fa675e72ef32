r"""Single-step exponential solvers: stages within a step, polynomials through them. DPM-Solver, DPM-Solver++ S, SEEDS.

With the notation of exponential.py and stages t > u_1 > u_2 > s at fractions r_1, r_2 of the step in the flow's coordinate,

    x_1 = x moved to u_1 by m_t;                       x_2 = x moved to u_2 by the line through m_t, m_1
    x_s: two stages    line through m_t, m_1 ("taylor"), or half the first weight for its slope ("dpmsolver")
         three stages  parabola through m_t, m_1, m_2, or the line through m_t, m_2

Three stages have order 3 at r_2 = 2/3 alone, parabola or line: x_1 is a state of order 1, and there it has no weight in the limit.

At eta > 0 the same steps solve the reverse SDE (SEEDS, 2305.14267). Each stage then has its own noise, and the noises of one step
share one Brownian path: N_b = g_b/g_a N_a + spread(a, b) z, from node to node. With independent or reused stage noises the
order in law falls from 2 to 1, and so it does with z = -1 or 1 (Rademacher), whose fourth moment is not the normal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UsageProblem, unknown
from ..processes import Gaussian
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import Scalar, times
from .exponential import Flow, combine
from .loop import Denoise, Step
from .noise import Kind, Noise, out_of_noise

FORMULAS = ("dpmsolver", "taylor")


@dataclass
class Stages:
    """The stage points of every step of a walk, by their ends; the source of noise; the steps to come."""

    points: dict[tuple[Scalar, Scalar], list[Point]]
    noise: Noise
    left: int


@dataclass(frozen=True)
class SingleStep(Step):
    """`stages` guesses a step, order `stages`; no history, so steps of any size and guidance that changes are fine.

    `r1`, `r2`: where the stages lie; 0 stands for the usual 1/2, or 1/3 and 2/3. `noise`: gaussian, or rademacher. Other
    fields: see `Adams`.
    """

    name: ClassVar[str] = "single-step"
    stages: int = 2
    variable: str = "x0"
    coordinate: str = "log-snr"
    formula: str = "dpmsolver"
    r1: float = 0.0
    r2: float = 0.0
    eta: float = 0.0
    scale: float = 1.0
    brownian: bool = False
    noise: Kind = "gaussian"

    def __post_init__(self) -> None:
        if self.stages not in (1, 2, 3):
            raise UsageProblem(f"stages is {self.stages}, but a single-step sampler has 1, 2 or 3")
        if self.formula not in FORMULAS:
            raise unknown("formula", self.formula, FORMULAS)
        if self.coordinate in ("steps", "time"):
            raise UsageProblem(
                f"the coordinate {self.coordinate} belongs to multistep samplers; choose log-snr for one with stages"
            )
        if self.stages > 1 and not all(0 < r <= 1 for r in self.fractions):
            raise UsageProblem(f"the stages lie at {self.fractions} of the step, but must lie within it")
        if self.stages == 3 and (abs(self.fractions[1] - 2 / 3) > 1e-9 or self.fractions[0] == self.fractions[1]):
            raise UsageProblem("three stages are of order 3 only with r2 = 2/3, and r1 elsewhere; leave r2 out")
        Noise(self.flow, self.brownian, self.noise)  # their own mistakes are told when a sampler is built

    @cached_property
    def flow(self) -> Flow:
        return Flow(self.variable, self.coordinate, self.eta, self.scale)

    @property
    def fractions(self) -> tuple[float, ...]:
        if self.stages == 3:
            return self.r1 or 1 / 3, self.r2 or 2 / 3
        return (self.r1 or 0.5,)[: self.stages - 1]

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return None if self.eta else self.stages

    @property
    def weak_order(self) -> int | None:  # type: ignore[override]
        return min(self.stages, 2 if self.noise == "gaussian" else 1) if self.eta else None

    @property
    def strong_order(self) -> int | None:  # type: ignore[override]
        """Order along one Brownian path: 1, as the noise is additive."""
        return 1 if self.eta and self.noise == "gaussian" else None

    def evaluations(self, steps: int) -> int:
        return self.stages * (steps - 1) + 1

    def stages_of(self, left: int) -> int:
        """Stages of the step after which `left` - 1 steps are to come."""
        return self.stages

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> Stages:
        self.fits(len(points) - 1)
        pairs = [(t, s) for t, s in zip(points, points[1:], strict=False) if not s.is_clean and self.flow.reaches(t)]
        noise = Noise(self.flow, self.brownian, self.noise, points)
        return Stages(self._between(denoise.process, pairs), noise, len(points) - 1)

    def _between(self, process: Gaussian, pairs: list[tuple[Point, Point]]) -> dict[tuple[Scalar, Scalar], list[Point]]:
        """Stages at the fractions of the coordinate; of t, where every frequency has its own noise level."""
        if self.stages == 1 or not pairs:
            return {(t.t, s.t): [] for t, s in pairs}
        count = len(self.fractions)
        if isinstance(pairs[0][0].alpha, Tensor):
            found = process.points([t.t + r * (s.t - t.t) for t, s in pairs for r in self.fractions])
        else:
            log_snr = [self.flow.between(t, s, r) for t, s in pairs for r in self.fractions]
            found = process.points(process.schedule.time(torch.tensor(log_snr, dtype=torch.float64)))
        stages = {(t.t, s.t): found[i * count : (i + 1) * count] for i, (t, s) in enumerate(pairs)}
        if 1 in self.fractions:  # the end itself, not a point that rounding puts beside it
            for (_, s), inner in zip(pairs, stages.values(), strict=True):
                inner[self.fractions.index(1)] = s
        return stages

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: Stages, rng: Rng) -> tuple[Tensor, Stages]:
        process = denoise.process
        u0 = process.state(denoise(x, t).mean)
        stages = self.stages_of(state.left)
        state = Stages(state.points, state.noise, state.left - 1)
        if s.is_clean:
            return u0, state
        if not self.flow.reaches(t):
            return out_of_noise(x, u0, t, s, state.noise, rng), state
        points = state.points.get((t.t, s.t)) or self._between(process, [(t, s)])[t.t, s.t]
        return self.walk(denoise, x, u0, [t, *points[: stages - 1], s], state.noise, rng), state

    def walk(self, denoise: Denoise, x: Tensor, u0: Tensor, nodes: list[Point], noise: Noise, rng: Rng) -> Tensor:
        """From the first node to the last by the stages between; u0 is the guess at the first."""
        t, *inner = nodes
        flow, values, added = self.flow, [self.flow.value(x, u0, t)], None
        for i, u in enumerate(inner):
            if self.eta:
                added = self.disturb(added, noise, x, [*nodes[: i + 1], u], rng)
            weights = self.weights(nodes[: i + 1], t, u, last=i == len(inner) - 1)
            moved = combine((flow.carry(t, u), x), *((w, m) for w, m in zip(weights, values, strict=True)))
            moved = moved if added is None else moved + added
            if i < len(inner) - 1:
                values.append(flow.value(moved, denoise.process.state(denoise(moved, u).mean), u))
        return moved

    def disturb(self, added: Tensor | None, noise: Noise, like: Tensor, nodes: list[Point], rng: Rng) -> Tensor:
        """The noise between the first node and the last: that up to the last but one, carried on, and a fresh draw."""
        a, b = nodes[-2:]
        fresh = noise.draw(like, a, b, rng)
        return fresh if added is None else fresh + times(self.flow.carry(a, b), added)

    def weights(self, nodes: list[Point], t: Point, u: Point, last: bool) -> list:
        """Weights of the values at `nodes` for the move from t to u."""
        flow = self.flow
        if self.formula == "taylor" or not last or len(nodes) == 1:
            return flow.weights(nodes, t, u)
        if len(nodes) == 3:
            first, third = flow.weights([nodes[0], nodes[2]], t, u)
            return [first, 0.0, third]
        total = flow.weights(nodes[:1], t, u)[0]
        slope = total / 2 * (flow.at(u) - flow.at(t)) / (flow.at(nodes[1]) - flow.at(t))
        return [total - slope, slope]


@dataclass(frozen=True)
class DPMSolver(SingleStep):
    """DPM-Solver-1, 2, 3 (2206.00927, alg. 1 and 2): in the noise prediction."""

    name: ClassVar[str] = "dpm-solver"
    stages: int = 3
    variable: str = "eps"


@dataclass(frozen=True)
class DPMSolverPlus(SingleStep):
    """DPM-Solver++ 2S (2211.01095, alg. 1), and 3S: in the data prediction, stable under guidance."""

    name: ClassVar[str] = "dpm-solver++-s"
    stages: int = 2


@dataclass(frozen=True)
class DPMSolverFast(SingleStep):
    """DPM-Solver-fast (2206.00927, app. D.3): steps of 3 stages, the last ones of fewer, to meet a number of evaluations.

    Of n = K + 1 steps, the last to clean data, K cost 3 K - 3 + `remainder`: 3, ..., 3, 2, 1 or 3, ..., 3, 1 or 3, ..., 3, 2
    for a remainder of 0, 1, 2. `for_evaluations` gives both. The paper's grid is even in log-SNR.
    """

    name: ClassVar[str] = "dpm-solver-fast"
    stages: int = 3
    variable: str = "eps"
    remainder: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages != 3 or self.remainder not in (0, 1, 2):
            raise UsageProblem("the fast solver has 3 stages, and a remainder of 0, 1 or 2 evaluations")

    @classmethod
    def for_evaluations(cls, evaluations: int, **options) -> tuple[DPMSolverFast, int]:
        """The sampler, and the number of steps of its grid, that cost `evaluations`, the closing guess included."""
        if evaluations < 3:
            raise UsageProblem(f"the fast solver needs at least 3 evaluations, not {evaluations}")
        return cls(remainder=(evaluations - 1) % 3, **options), (evaluations - 1) // 3 + 2

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return 3 if self.remainder == 0 else 2

    @property
    def order(self) -> int | None:  # type: ignore[override]
        """One step of order 1 leaves an error of order 2 in the whole, one of order 2 an error of order 3."""
        return None if self.eta else (3 if self.remainder == 2 else 2)

    def stages_of(self, left: int) -> int:
        if left > 3:
            return 3
        return {(2, 0): 1, (2, 1): 1, (2, 2): 2, (3, 0): 2}.get((left, self.remainder), 3)

    def evaluations(self, steps: int) -> int:
        return 1 + sum(self.stages_of(left) for left in range(2, steps + 1))


@dataclass(frozen=True)
class SEEDS(SingleStep):
    """SEEDS-1, 2, 3 (2305.14267): data prediction (`variable` x0), noise prediction (eps), or EDM's F (v in log-sine; its
    deterministic twin, eta = 0, in log-angle). `formula` dpmsolver is the paper's a, taylor its b."""

    name: ClassVar[str] = "seeds"
    stages: int = 3
    eta: float = 1.0
