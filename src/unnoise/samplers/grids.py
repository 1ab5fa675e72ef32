"""Grids: the times a sampler visits, from noise to data. Grids own all rounding; schedules have none.

A grid is called with the process and gives points. Every grid here ends at clean data, so n steps make n + 1 points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..errors import UsageProblem
from ..processes import Gaussian, Process
from ..processes.gaussian import CLEAN, Point

GRIDS: dict[str, type[Grid]] = {}
"""Every grid, by name."""


@dataclass(frozen=True)
class Grid:
    """`steps` steps from noise to clean data."""

    name: ClassVar[str] = ""
    steps: int = 50

    def __init_subclass__(cls) -> None:
        GRIDS[cls.name] = cls

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageProblem(f"steps is {self.steps}, but a sampler needs at least 1")

        start = getattr(self, "start", 1.0)
        if not 0 < start <= 1:
            raise UsageProblem(f"start is {start}, but must lie above 0 (data) and not above 1 (noise)")

    def times(self, process: Process) -> list[float]:
        """Decreasing times in (0, 1], one for each step."""
        raise NotImplementedError

    def __call__(self, process: Process) -> list[Point]:
        times = self.times(process)
        if any(a <= b for a, b in zip(times, times[1:], strict=False)):
            raise UsageProblem(f"the grid {self.name!r} repeats times at {self.steps} steps; take fewer steps")
        if not isinstance(process, Gaussian):
            return process.points([*times, 0.0])
        points = process.points(times)
        if points[-1].is_clean:
            raise UsageProblem(
                f"the grid {self.name!r} reaches clean data before its last step, for this model keeps no noise at t = 0; "
                "leave through_zero out"
            )
        return [*points, CLEAN]


def _ladder(process: Process) -> int:
    steps = getattr(getattr(process, "schedule", process), "steps", None)
    if steps is None:
        raise UsageProblem("this model has no integer steps to choose from; use the grid uniform, karras or log-snr")
    return steps


def _check_end(end: float | None, start: float) -> None:
    if end is not None and not 0 < end < start:
        raise UsageProblem(f"end is {end}, but must lie between 0 and start = {start}")


@dataclass(frozen=True)
class Uniform(Grid):
    """Evenly spaced t from `start` down to start / n; or down to `end`; or to 0, where schedules that keep some noise are
    sampled (`through_zero`), so that only the last step goes to clean data."""

    name: ClassVar[str] = "uniform"
    start: float = 1.0
    through_zero: bool = False
    end: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_end(self.end, self.start)

    def times(self, process: Process) -> list[float]:
        end = 0.0 if self.through_zero or self.end is None else self.end
        n = self.steps if not self.through_zero and self.end is None else max(self.steps - 1, 1)
        return [end + (self.start - end) * (n - i) / n for i in range(self.steps)]


@dataclass(frozen=True)
class Quadratic(Grid):
    """t = start ((n - i) / n)^2: steps shrink towards data; or end + (start - end) ((n - 1 - i) / (n - 1))^2, down to `end`."""

    name: ClassVar[str] = "quadratic"
    start: float = 1.0
    end: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_end(self.end, self.start)

    def times(self, process: Process) -> list[float]:
        end, n = (0.0, self.steps) if self.end is None else (self.end, max(self.steps - 1, 1))
        return [end + (self.start - end) * ((n - i) / n) ** 2 for i in range(self.steps)]


@dataclass(frozen=True)
class Integers(Grid):
    r"""A subset of the integer steps 1..T a discrete-time model was trained on.

    both      both ends, evenly spaced, by improved-ddpm's rounding of an accumulated stride
    leading   1, 1 + c, 1 + 2c, ... with c = T // n: DDIM's "uniform", which never reaches T. If n does not divide T the
              published code takes more than n steps; here exactly n are taken, from the low end.
    shifted   2, 2 + c, 2 + 2c, ...: latent diffusion's, whose published code then stops at step 1 instead of clean data
    trailing  T, T - T/n, ...: ends at T
    quadratic DDIM's "quad": 1 + int(linspace(0, sqrt(0.8 T), n)^2), which starts at 0.8 T

    `start` below 1 leaves out the chosen steps above that time.
    """

    name: ClassVar[str] = "integers"
    spacing: Literal["both", "leading", "shifted", "trailing", "quadratic"] = "both"
    start: float = 1.0

    def indices(self, total: int) -> list[int]:
        """Increasing integers in 1..total."""
        n = self.steps
        if n > total:
            raise UsageProblem(f"{n} steps were asked of a model that was trained with {total}; take at most {total}")
        if self.spacing == "both":
            stride, at, chosen = (total - 1) / max(n - 1, 1), 0.0, []
            for _ in range(n):
                chosen.append(1 + round(at))
                at += stride
            return chosen if n > 1 else [total]
        if self.spacing == "leading":
            return [1 + i * (total // n) for i in range(n)]
        if self.spacing == "shifted":
            if 2 + (n - 1) * (total // n) > total:
                raise UsageProblem(f"shifted by one, {n} steps go beyond the {total} of the model; take fewer steps")
            return [2 + i * (total // n) for i in range(n)]
        if self.spacing == "trailing":
            return [round(total * (i + 1) / n) for i in range(n)]
        squares = torch.linspace(0, math.sqrt(0.8 * total), n, dtype=torch.float64) ** 2
        return sorted({1 + int(value) for value in squares.tolist()})

    def times(self, process: Process) -> list[float]:
        total = _ladder(process)
        return [i / total for i in reversed(self.indices(total)) if i <= self.start * total]


def _ends(process: Process, sigma_min: float, sigma_max: float | None) -> tuple[float, float]:
    """The largest and smallest sigma/alpha of a grid in noise levels: as asked for, but within the process."""
    if not isinstance(process, Gaussian):
        raise UsageProblem(
            f"this grid needs noise levels, and a {type(process).__name__} process has none; use uniform"
        )
    clean, noise = process.points([0.0, 1.0])
    if isinstance(noise.ratio, torch.Tensor):
        raise UsageProblem("this grid needs one noise level, and this process has one for each frequency; use uniform")
    if sigma_max is not None and not 0 < sigma_max <= noise.ratio * (1 + 1e-6):
        raise UsageProblem(
            f"sigma_max is {sigma_max}, but must lie above 0 and within the {noise.ratio:.4g} of this model"
        )
    top, low = sigma_max or min(noise.ratio, 80.0), max(sigma_min, float(clean.ratio))
    if not 0 < low < top:
        raise UsageProblem(f"sigma_min is {sigma_min}, but must lie between 0 and sigma_max = {top:.4g}")
    return top, low


def _times_of_ratios(process: Gaussian, ratios: torch.Tensor) -> list[float]:
    return process.schedule.time(-2 * ratios.log()).tolist()


@dataclass(frozen=True)
class Karras(Grid):
    r"""EDM's: (sigma/alpha)^(1/rho) evenly spaced from sigma_max to sigma_min, both included (2206.00364, eq. 5).

    `sigma_max` None: the process's own at t = 1, or 80 where that is larger (cosine schedules end at 10^4 and more).
    A process whose noise ends above `sigma_min` is followed to its own end.
    """

    name: ClassVar[str] = "karras"
    steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float | None = None
    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rho > 0:
            raise UsageProblem(f"rho is {self.rho}, but must be positive")

    def ratios(self, process: Process) -> torch.Tensor:
        top, low = _ends(process, self.sigma_min, self.sigma_max)
        ramp = torch.arange(self.steps, dtype=torch.float64) / max(self.steps - 1, 1)
        a, b = top ** (1 / self.rho), low ** (1 / self.rho)
        return (a + ramp * (b - a)) ** self.rho

    def times(self, process: Process) -> list[float]:
        return _times_of_ratios(process, self.ratios(process))  # type: ignore[arg-type]


@dataclass(frozen=True)
class LogSNR(Grid):
    """Evenly spaced in log-SNR between sigma/alpha = sigma_max and sigma_min."""

    name: ClassVar[str] = "log-snr"
    sigma_min: float = 0.002
    sigma_max: float | None = None

    def times(self, process: Process) -> list[float]:
        top, low = _ends(process, self.sigma_min, self.sigma_max)
        ramp = torch.arange(self.steps, dtype=torch.float64) / max(self.steps - 1, 1)
        return _times_of_ratios(process, (math.log(top) + ramp * math.log(low / top)).exp())  # type: ignore
