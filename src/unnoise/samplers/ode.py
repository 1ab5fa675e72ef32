"""Steps along the probability-flow ODE in the process's own time, and EDM's churn, which makes any step stochastic.

A step to clean data is the guess itself, whatever the solver: the exact limit of every one of them (EDM's last step).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..errors import UsageProblem
from ..processes import Diffusion, Process
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import combine, plus
from .loop import Denoise, Step


@dataclass(frozen=True)
class Euler(Step):
    """x_s = x_t + (s - t) dx/dt. In EDM's process, dx/dsigma = (x - D(x; sigma)) / sigma."""

    name: ClassVar[str] = "euler"
    needs: ClassVar[type[Process]] = Diffusion
    order: ClassVar[int] = 1

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state, rng: Rng) -> tuple[Tensor, None]:
        x0 = denoise(x, t).mean
        if s.is_clean:
            return denoise.process.state(x0), None
        return plus(x, s.t - t.t, denoise.process.velocity(x, x0, t)), None


@dataclass(frozen=True)
class Heun(Step):
    r"""The second-order Runge-Kutta step with its trial point at a fraction `a` of the way (2206.00364, alg. 1 and 3).

    a = 1 Heun, 1/2 midpoint, 2/3 Ralston: x_s = x_t + h ((1 - 1/(2a)) d + 1/(2a) d'), d' at the trial point.
    """

    name: ClassVar[str] = "heun"
    needs: ClassVar[type[Process]] = Diffusion
    order: ClassVar[int] = 2
    a: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.a <= 1:
            raise UsageProblem(f"a is {self.a}, but the trial point must lie within the step, 0 < a <= 1")

    def evaluations(self, steps: int) -> int:
        return 2 * steps - 1

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state, rng: Rng) -> tuple[Tensor, None]:
        process = denoise.process
        x0 = denoise(x, t).mean
        if s.is_clean:
            return process.state(x0), None
        h = s.t - t.t
        d = process.velocity(x, x0, t)
        trial = s if self.a == 1 else process.point(t.t + self.a * h)
        x_trial = plus(x, self.a * h, d)
        d_trial = process.velocity(x_trial, denoise(x_trial, trial).mean, trial)
        weight = 1 / (2 * self.a)
        return combine((1.0, x), (h * (1 - weight), d), (h * weight, d_trial)), None


@dataclass(frozen=True)
class Churn(Step):
    r"""EDM's stochastic sampler (2206.00364, alg. 2): before each step of `inner`, noise is added to raise sigma/alpha.

    gamma = min(s_churn / steps, sqrt 2 - 1) where s_min <= sigma/alpha <= s_max; the new noise is scaled by s_noise.
    """

    name: ClassVar[str] = "churn"
    inner: Step = field(default_factory=Heun)
    s_churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003

    def __post_init__(self) -> None:
        if self.inner.order is None or self.inner.remembers:
            raise UsageProblem(
                f"churn draws fresh noise before each step, so {self.inner.name!r} cannot be within it; choose a deterministic "
                "step that remembers none before: heun, euler, ddim or dpm-solver"
            )
        if not (self.s_churn >= 0 and self.s_noise >= 0):
            raise UsageProblem(f"s_churn is {self.s_churn} and s_noise {self.s_noise}, but both must be 0 or more")
        if not 0 <= self.s_min <= self.s_max:
            raise UsageProblem(f"s_min is {self.s_min} and s_max {self.s_max}, but churn needs 0 <= s_min <= s_max")

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return self.inner.least_steps

    @property
    def weak_order(self) -> int | None:  # type: ignore[override]
        return self.inner.order

    def evaluations(self, steps: int) -> int:
        return self.inner.evaluations(steps)

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]):
        """The raised point of each step, all computed at once, and the state of `inner`."""
        gamma = min(self.s_churn / (len(points) - 1), 2**0.5 - 1)
        if any(isinstance(t.ratio, Tensor) for t in points):
            raise UsageProblem(
                "churn raises one noise level, and this process has one for each frequency; use ancestral"
            )
        churned = [t for t in points[:-1] if gamma > 0 and self.s_min <= t.ratio <= self.s_max]
        raised = denoise.process.noisier(churned, math.log1p(gamma))
        return dict(zip([t.t for t in churned], raised, strict=True)), self.inner.init(denoise, x, points)

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state, rng: Rng):
        raised, inner = state
        if t.t in raised:
            later = raised[t.t]
            law = denoise.process.transition(x, t, later)
            x, t = rng.disturb(law.mean, law.std * self.s_noise), later
        x, inner = self.inner.step(denoise, x, t, s, inner, rng)
        return x, (raised, inner)
