r"""Multistep solvers: one guess a step, and a polynomial through the last k of them. One class; the published ones are members.

    Adams("x0", "log-snr")     DPM-Solver++ 2M, 3M (2211.01095); with eta = 1 their SDE versions; azula's xEAB
    Adams("eps", "log-snr")    DEIS (2204.13902) in log rho; zEAB        Adams("eps", "ratio")  rho-AB, LMS, zAB
    Adams("eps", "time")       DEIS in the process's time: tAB
    Adams("eps", "steps")      iPNDM: the weights of even steps (2204.13902)
    Adams("velocity", "rectified")  Adams-Bashforth along straight paths; vAB
    Adams("v", "log-snr")      exponential Rosenbrock, REAB
    corrector                  UniPC (2302.04867): the new guess corrects the step that led to it, at no cost

The order rises from 1 in the first steps: the first errors are those of low order, at high noise, where they are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

from torch import Tensor

from ..errors import UsageProblem, unknown
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import Scalar, expm1
from .exponential import Flow, combine
from .loop import Denoise, Step
from .noise import Noise, out_of_noise

FORMULAS = ("exact", "bh1", "bh2", "published")


@dataclass
class History:
    """What a multistep walk remembers: steps to come, values (newest first), the step before and how many values it took."""

    left: int
    noise: Noise
    values: list[tuple[Point, Tensor]] = field(default_factory=list)
    before: tuple[Tensor, Point, int] | None = None


@dataclass(frozen=True)
class Adams(Step):
    r"""x_s = g_s/g_t x_t + sum_j B_j m_j over the last `terms` values of m (exponential.py): order `terms`, or one more with
    `corrector`.

    variable, coordinate   what is extrapolated, and in what
    eta, brownian          0 the flow, 1 the reverse SDE; whether its noise is of one path whatever the steps
    scale                  standard deviation of the data, for the variables velocity and v
    formula                exact, or the published shortcuts: half the first weight for the slope of two-term formulas
                           (bh2: DPM-Solver++'s midpoint), or h/2 (bh1); `published` is bh2, with half the curvature in
                           three-term formulas, as DPM-Solver++ 3M is found in public code: order 2
    descend                the order falls again over the last steps
    last                   the step to clean data is the guess, or the extrapolation, where the gauge reaches it
    """

    name: ClassVar[str] = "adams"
    terms: int = 3
    variable: str = "x0"
    coordinate: str = "log-snr"
    corrector: bool = False
    eta: float = 0.0
    scale: float = 1.0
    formula: str = "exact"
    descend: bool = False
    last: Literal["guess", "extrapolate"] = "guess"
    brownian: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.terms <= 4:
            raise UsageProblem(f"terms is {self.terms}, but a multistep sampler combines 1 to 4 guesses")
        if self.corrector and (self.eta or self.coordinate == "steps"):
            raise UsageProblem(
                "a corrector needs a deterministic step and a coordinate; leave out eta, steps, or the corrector"
            )
        if self.formula not in FORMULAS:
            raise unknown("formula", self.formula, FORMULAS)
        if self.formula != "exact" and (self.variable not in ("x0", "eps") or self.coordinate != "log-snr"):
            raise UsageProblem(f"the formula {self.formula!r} belongs to x0 or eps in log-snr; choose formula=exact")
        if self.last not in ("guess", "extrapolate"):
            raise unknown("last step", self.last, ("guess", "extrapolate"))
        Noise(self.flow, self.brownian)  # their own mistakes are told when a sampler is built

    @cached_property
    def flow(self) -> Flow:
        return Flow(self.variable, self.coordinate, self.eta, self.scale)

    @property
    def _accuracy(self) -> int:
        if (
            self.coordinate == "steps"
        ):  # even weights integrate m dt, not m dc: an error of order 2 in each unit of time
            return min(self.terms, 2)
        accuracy = min(self.terms, 2) if self.formula == "published" else self.terms + self.corrector
        return min(accuracy, 2) if self.descend else accuracy  # one step of order 1 leaves an error of order 2

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return None if self.eta else self._accuracy

    @property
    def weak_order(self) -> int | None:  # type: ignore[override]
        return min(self._accuracy, 2) if self.eta else None

    @property
    def strong_order(self) -> int | None:  # type: ignore[override]
        """Order along one Brownian path: 1, as the noise is additive."""
        return 1 if self.eta else None

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return self.terms

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.terms > 1 or self.corrector

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> History:
        self.fits(len(points) - 1)
        flow = self.flow.on(denoise.process, points)
        return History(len(points) - 1, Noise(flow, self.brownian, points=points))

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: History, rng: Rng) -> tuple[Tensor, History]:
        flow, u0 = state.noise.flow, denoise.process.state(denoise(x, t).mean)
        if s.is_clean and not (self.last == "extrapolate" and flow.reaches(s)):
            return u0, state
        if not flow.reaches(t):
            return out_of_noise(x, u0, t, s, state.noise, rng), History(state.left - 1, state.noise)
        values = [(t, flow.value(x, u0, t)), *state.values]
        if self.corrector and state.before is not None:
            x, t_before, taken = state.before
            x = self._move(flow, x, values[: taken + 1], t_before, t)
        taken = min(self.terms, len(values), state.left if self.descend else self.terms)
        moved = self._move(flow, x, values[:taken], t, s)
        kept = values[: self.terms - 1 + self.corrector]
        after = History(state.left - 1, state.noise, kept, (x, t, taken) if self.corrector else None)
        return state.noise.add(moved, t, s, rng), after

    def _move(self, flow: Flow, x: Tensor, values: list[tuple[Point, Tensor]], t: Point, s: Point) -> Tensor:
        weights = self.weights(flow, [point for point, _ in values], t, s)
        return combine((flow.carry(t, s), x), *((w, m) for w, (_, m) in zip(weights, values, strict=True)))

    def weights(self, flow: Flow, nodes: list[Point], t: Point, s: Point) -> list[Scalar]:
        """B_j of the values at `nodes`, newest first: the flow's, unless a published shortcut replaces them."""
        exact, count = flow.weights(nodes, t, s), len(nodes)
        if self.formula == "exact" or count == 1 or count > (3 if self.formula == "published" else 2):
            return exact
        xi, h = [flow.at(n) for n in nodes], flow.at(s) - flow.at(t)
        if count == 2:
            total = flow.weights([t], t, s)[0]
            half = total / 2
            if self.formula == "bh1":
                half = half * (h / -expm1(-h) if self.variable == "x0" else h / expm1(h))
            slope = half * h / (xi[0] - xi[1])
            return [total + slope, -slope] if nodes[0] is t else [slope, total - slope]  # the latter in a corrector
        double = sum(
            w * (x - xi[0]) ** 2 for w, x in zip(exact, xi, strict=True)
        )  # of Taylor's weight of the curvature
        a, b, c = xi
        second = 1 / ((a - b) * (a - c)), 1 / ((b - a) * (b - c)), 1 / ((c - a) * (c - b))
        return [w - double / 2 * difference for w, difference in zip(exact, second, strict=True)]


@dataclass(frozen=True)
class DPMSolverMultistep(Adams):
    """DPM-Solver++ 2M (2211.01095, alg. 2), and 3M; eta = 1: their SDE versions. `formula`: published for the paper's midpoint."""

    name: ClassVar[str] = "dpm-solver++"
    terms: int = 2


@dataclass(frozen=True)
class SDEDPMSolverMultistep(Adams):
    """SDE-DPM-Solver++ 2M and 3M (2211.01095, app. B): the exponential multistep on the reverse SDE."""

    name: ClassVar[str] = "sde-dpm-solver++"
    terms: int = 2
    eta: float = 1.0


@dataclass(frozen=True)
class DEIS(Adams):
    """Exponential Adams-Bashforth in the noise (2204.13902), polynomial in log(sigma/alpha), or in another `coordinate`:
    `time` is the paper's tAB, `ratio` its rho-AB."""

    name: ClassVar[str] = "deis"
    variable: str = "eps"


@dataclass(frozen=True)
class IPNDM(Adams):
    """DDIM's step with the noise averaged by the weights of even steps, rising from order 1 to 4 terms (2204.13902, app. H.2)."""

    name: ClassVar[str] = "ipndm"
    terms: int = 4
    variable: str = "eps"
    coordinate: str = "steps"


@dataclass(frozen=True)
class UniPC(Adams):
    """Predictor and corrector of one family (2302.04867). p = `terms`; `formula` bh2 or bh1, as published, or exact."""

    name: ClassVar[str] = "unipc"
    terms: int = 2
    corrector: bool = True
    formula: str = "bh2"
    descend: bool = True
