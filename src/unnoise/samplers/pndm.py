r"""PNDM: classical weights on the noise, DDIM's step as the thing they are weights of (2202.09778).

phi(x, e, t, s) = alpha_s (x - sigma_t e) / alpha_t + sigma_s e carries x by a noise e, exactly if e is constant. Runge-Kutta and
Adams-Bashforth then average e as if it were integrated over t, which makes methods of order 2, however many weights. The same
averages of dx/dt, with a plain step, are the classical methods of order 4 (FON, the paper's ablation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from ..errors import unknown
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import plus
from .exponential import Flow, adams, combine
from .loop import Denoise, Step
from .noise import Noise, out_of_noise

EPS = Flow("eps")
START = Noise(EPS)


class Start(NamedTuple):
    """How a walk starts: steps with stages (None: all of them), the stages of each; slopes averaged thereafter; FON's order."""

    steps: int | None
    stages: int
    terms: int
    classical: int


KINDS = {
    "F": Start(3, 4, 4, 4),
    "S": Start(1, 2, 2, 2),
    "short": Start(1, 2, 4, 3),
    "RK": Start(None, 4, 1, 4),
    "PIE": Start(None, 2, 1, 2),
}


@dataclass(frozen=True)
class PNDM(Step):
    """`kind` F: three Runge-Kutta steps, then 4 noises averaged (F-PNDM). S: one improved Euler step, then 2 (S-PNDM).
    short: one improved Euler step, then 2, 3, 4 (CompVis's PLMS; diffusers with skip_prk_steps). RK, PIE: Runge-Kutta, or
    improved Euler, all the way.

    Weights are those of even steps in t: on other grids they are of first order.
    """

    name: ClassVar[str] = "pndm"
    kind: Literal["F", "S", "short", "RK", "PIE"] = "F"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of PNDM", self.kind, KINDS)

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return 2

    @property
    def start(self) -> Start:
        return KINDS[self.kind]

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return 1 if self.start.steps is None else self.start.steps + 1

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.start.terms > 1

    def evaluations(self, steps: int) -> int:
        staged = steps - 1 if self.start.steps is None else self.start.steps
        return steps + (self.start.stages - 1) * staged

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> list[Tensor]:
        self.fits(len(points) - 1)
        return []

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: list[Tensor], rng: Rng):
        u0 = denoise.process.state(denoise(x, t).mean)
        if s.is_clean:
            return u0, state
        if not self.reaches(t):
            return out_of_noise(x, u0, t, s, START, rng), state
        slopes = [self.slope(denoise, x, t, u0), *state]
        if self.start.steps is None or len(slopes) <= self.start.steps:
            average = (self._runge_kutta if self.start.stages == 4 else self._improved_euler)(
                denoise, x, slopes[0], t, s
            )
        else:
            slopes = slopes[: self.start.terms]
            average = combine(*zip(adams(len(slopes)), slopes, strict=True))
        return self.move(x, average, t, s), slopes[: self.start.terms - 1]

    def reaches(self, t: Point) -> bool:
        """Whether enough signal is left at t: steps above are DDIM's."""
        return EPS.reaches(t)

    def slope(self, denoise: Denoise, x: Tensor, t: Point, u0: Tensor | None = None) -> Tensor:
        """What is averaged: the noise that the guess implies."""
        return EPS.value(x, denoise.process.state(denoise(x, t).mean) if u0 is None else u0, t)

    def move(self, x: Tensor, slope: Tensor, t: Point, s: Point) -> Tensor:
        """phi: x carried from t to s by a constant noise."""
        return combine((EPS.carry(t, s), x), (EPS.weights([t], t, s)[0], slope))

    def _improved_euler(self, denoise: Denoise, x: Tensor, e: Tensor, t: Point, s: Point) -> Tensor:
        return combine((0.5, e), (0.5, self.slope(denoise, self.move(x, e, t, s), s)))

    def _runge_kutta(self, denoise: Denoise, x: Tensor, e: Tensor, t: Point, s: Point) -> Tensor:
        middle = denoise.process.point((t.t + s.t) / 2)
        second = self.slope(denoise, self.move(x, e, t, middle), middle)
        third = self.slope(denoise, self.move(x, second, t, middle), middle)
        fourth = self.slope(denoise, self.move(x, third, t, s), s)
        return combine((1 / 6, e), (1 / 3, second), (1 / 3, third), (1 / 6, fourth))


@dataclass(frozen=True)
class FON(PNDM):
    """The classical methods on dx/dt of the probability flow in the process's own time: PNDM without its phi.

    Of order 4 (`kind` F), and far worse than PNDM, or DDIM, at few steps: near data dx/dt of a variance-preserving flow is large.
    """

    name: ClassVar[str] = "fon"

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return self.start.classical

    def reaches(self, t: Point) -> bool:
        return True

    def slope(self, denoise: Denoise, x: Tensor, t: Point, u0: Tensor | None = None) -> Tensor:
        return denoise.process.velocity(x, denoise.process.data(u0) if u0 is not None else denoise(x, t).mean, t)

    def move(self, x: Tensor, slope: Tensor, t: Point, s: Point) -> Tensor:
        return plus(x, s.t - t.t, slope)
