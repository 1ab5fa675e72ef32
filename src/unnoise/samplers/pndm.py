r"""PNDM: classical weights on the noise, DDIM's step as the thing they are weights of (2202.09778).

phi(x, e, t, s) = alpha_s (x - sigma_t e) / alpha_t + sigma_s e carries x by a noise e, exactly if e is constant. Runge-Kutta and
Adams-Bashforth then average e as if it were integrated over t, which makes methods of order 2, however many weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UsageProblem, unknown
from ..processes.gaussian import Point
from ..rng import Rng
from .exponential import Flow, adams, combine
from .loop import Denoise, Step
from .noise import Noise, out_of_noise

EPS = Flow("eps")
START = Noise(EPS)
KINDS = {"S": (1, 2), "F": (3, 4), "short": (1, 4)}
"""Steps that start the history, and the number of noises then averaged."""


@dataclass(frozen=True)
class PNDM(Step):
    """`kind` F: three Runge-Kutta steps, then 4 noises averaged (F-PNDM). S: one improved Euler step, then 2 (S-PNDM).
    short: one improved Euler step, then 2, 3, 4 (CompVis's PLMS; diffusers with skip_prk_steps).

    Weights are those of even steps in t: on other grids they are of first order.
    """

    name: ClassVar[str] = "pndm"
    order: ClassVar[int] = 2
    kind: str = "F"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of PNDM", self.kind, KINDS)

    @property
    def least_steps(self) -> int:
        """Shorter walks are refused: they would end before the history is there."""
        return KINDS[self.kind][0] + 1

    def evaluations(self, steps: int) -> int:
        return steps + (9 if self.kind == "F" else 1)

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> list[Tensor]:
        if len(points) - 1 < self.least_steps:
            raise UsageProblem(
                f"{self.kind}-PNDM starts with {KINDS[self.kind][0]} Runge-Kutta steps, and this walk has {len(points) - 1}; "
                f"take {self.least_steps} steps or more"
            )
        return []

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: list[Tensor], rng: Rng):
        starting, terms = KINDS[self.kind]
        u0 = denoise.process.state(denoise(x, t).mean)
        if s.is_clean:
            return u0, state
        if not EPS.reaches(t):
            return out_of_noise(x, u0, t, s, START, rng), state
        noises = [EPS.value(x, u0, t), *state]
        if len(noises) > starting:
            noises = noises[:terms]
            average = combine(*zip(adams(len(noises)), noises, strict=True))
        else:
            average = (_runge_kutta if self.kind == "F" else _improved_euler)(denoise, x, noises[0], t, s)
        return transfer(x, average, t, s), noises[: terms - 1]


def transfer(x: Tensor, e: Tensor, t: Point, s: Point) -> Tensor:
    """phi: x carried from t to s by a constant noise e."""
    return combine((EPS.carry(t, s), x), (EPS.weights([t], t, s)[0], e))


def _noise(denoise: Denoise, x: Tensor, t: Point) -> Tensor:
    return EPS.value(x, denoise.process.state(denoise(x, t).mean), t)


def _improved_euler(denoise: Denoise, x: Tensor, e: Tensor, t: Point, s: Point) -> Tensor:
    return combine((0.5, e), (0.5, _noise(denoise, transfer(x, e, t, s), s)))


def _runge_kutta(denoise: Denoise, x: Tensor, e: Tensor, t: Point, s: Point) -> Tensor:
    middle = denoise.process.point((t.t + s.t) / 2)
    second = _noise(denoise, transfer(x, e, t, middle), middle)
    third = _noise(denoise, transfer(x, second, t, middle), middle)
    fourth = _noise(denoise, transfer(x, third, t, s), s)
    return combine((1 / 6, e), (1 / 3, second), (1 / 3, third), (1 / 6, fourth))
