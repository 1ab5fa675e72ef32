"""Claims and checks, and how a paper's file declares them.

    @claim(DDPM, "predicting the noise beats predicting the mean", source="table 2")
    def noise_beats_mean(lab): ...return Finding.over_seeds(margins, numbers)

A margin is positive where the claim holds. A claim is *reproduced* when its whole interval of margins is positive: every
seed, or the bootstrap interval of one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import Problem
from ..scalars import Scalar

if TYPE_CHECKING:
    from ..recipe import Recipe
    from .lab import Lab


class Absent(Problem):
    """Raised by an experiment whose data the user must bring, and has not: the claim is skipped, with this sentence."""


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim: `margins` (positive: it holds), their interval, how they vary, and the numbers.

    `pictures` are names that `lab.picture` gave: figures that go to results/PAPER/NAME.png.
    """

    margins: tuple[float, ...]
    interval: tuple[float, float]
    spread: str
    numbers: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()

    @classmethod
    def over_seeds(cls, margins: Sequence[float], numbers: dict[str, Any], pictures: Sequence[str] = ()) -> Finding:
        """One margin for each training seed; the interval is their range."""
        margins = tuple(float(m) for m in margins)
        if len(margins) < 2:
            raise ValueError("a range needs two seeds or more; use Finding.bootstrapped for one")
        spread = f"{len(margins)} seeds; the interval is their range"
        return cls(margins, (min(margins), max(margins)), spread, numbers, tuple(pictures))

    @classmethod
    def bootstrapped(
        cls, margin: float, low: float, high: float, numbers: dict[str, Any], pictures: Sequence[str] = ()
    ) -> Finding:
        """One seed, with a 90 % bootstrap interval of the margin."""
        return cls(
            (float(margin),), (float(low), float(high)), "one seed; 90 % bootstrap interval", numbers, tuple(pictures)
        )

    @classmethod
    def computed(cls, margins: Sequence[float], numbers: dict[str, Any], pictures: Sequence[str] = ()) -> Finding:
        """Margins that no chance enters (closed forms, quadrature), one for each case; the interval is their range."""
        margins = tuple(float(m) for m in margins)
        spread = f"computed, without chance, in {len(margins)} cases; the interval is their range"
        return cls(margins, (min(margins), max(margins)), spread, numbers, tuple(pictures))

    @property
    def verdict(self) -> str:
        return "reproduced" if self.interval[0] > 0 else "not reproduced"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and the experiment that measures it; `measure` None: not testable here, and why."""

    name: str
    statement: str
    source: str
    measure: Callable[[Lab], Finding] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """Something exactly true: `measure()` gives (measured, expected), equal to `tolerance` (absolute)."""

    name: str
    statement: str
    source: str
    tolerance: float
    measure: Callable[[], tuple[Scalar, Scalar]]

    def run(self) -> dict[str, Any]:
        measured, expected = (float(v) for v in self.measure())
        row = {k: v for k, v in asdict(self).items() if k != "measure"}
        return {**row, "measured": measured, "expected": expected, "holds": abs(measured - expected) <= self.tolerance}


def claim(recipe: type[Recipe], statement: str, source: str):
    """Declares the function below it as the experiment for a claim of the paper."""

    def declare(measure: Callable[[Lab], Finding]):
        recipe.info.claims.append(Claim(measure.__name__, statement, source, measure))
        return measure

    return declare


def untestable(recipe: type[Recipe], statement: str, source: str, reason: str) -> None:
    """Declares a claim that this scale cannot test, and why."""
    recipe.info.claims.append(Claim("", statement, source, None, reason))


def check(recipe: type[Recipe], statement: str, source: str, tolerance: float):
    """Declares the function below it as an exact check."""

    def declare(measure: Callable[[], tuple[Scalar, Scalar]]):
        recipe.info.checks.append(Check(measure.__name__, statement, source, tolerance, measure))
        return measure

    return declare
