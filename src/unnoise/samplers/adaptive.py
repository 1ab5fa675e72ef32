r"""Steps that choose their own size by an estimate of their error: the probability flow to a tolerance.

Every example has its own time, its own step size and its own error, so that sample i depends on seed i alone: no norm is
taken over the batch (in score-sde's and DPM-Solver's code it is, and a sample changes with its neighbours). Examples that have
arrived leave the batch. The points of the grid are where all must stop; a grid of one or two steps before clean data will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import Diverged, UsageProblem
from ..processes import Diffusion, Process
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import column
from ..tableaux import DORMAND_PRINCE
from .exponential import Flow, combine
from .loop import Denoise, Step


@dataclass(frozen=True)
class Adaptive(Step):
    """The loop that all steps with error control share; a method says how it tries one step for some examples.

    An attempt is kept where E, the root mean square over an example of (difference of two orders) / scale, is at most 1; the
    next size is `safety` E^(-1/k) times the last one, within [1/5, 5] times it. scale = atol + rtol max(|x|, |x'|) unless a
    method says otherwise. `first`: the size first tried. `most`: evaluations after which it gives up.
    """

    atol: float = 1e-5
    rtol: float = 1e-5
    first: float = 0.01
    safety: float = 0.9
    most: int = 10_000

    def __post_init__(self) -> None:
        for name in ("atol", "rtol", "first", "safety"):
            if not getattr(self, name) > 0:
                raise UsageProblem(f"{name} is {getattr(self, name)}, but must be positive")
        if self.most < 1:
            raise UsageProblem(f"most is {self.most}, but no step can do with less than 1 evaluation")

    def evaluations(self, steps: int) -> None:  # type: ignore[override]
        """Not known before: the tolerance decides."""
        return None

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> Tensor:
        if getattr(denoise.process, "by_frequency", False):
            raise UsageProblem(
                f"the sampler {self.name!r} needs one noise level, and this process has one for each frequency"
            )
        if not points[0].is_clean and not math.isfinite(self.clock(points[0])):
            raise UsageProblem(
                f"the sampler {self.name!r} cannot leave pure noise, alpha = 0; start the grid below t = 1, as karras does"
            )
        return torch.full((len(x),), self.first, dtype=torch.float64, device=x.device)

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        if s.is_clean:
            return denoise.process.state(denoise(x, t).mean), state
        begin, end = self.clock(t), self.clock(s)
        now, size, x = torch.full_like(state, begin), state.clone(), x.clone()
        going = torch.arange(len(x), device=x.device)
        calls = denoise.calls
        while len(going):
            if denoise.calls - calls > self.most:
                raise Diverged(
                    f"{self.most} evaluations did not meet the tolerances atol={self.atol:g}, rtol={self.rtol:g}; raise them"
                )
            left = end - now[going]
            h = torch.minimum(size[going], left.abs()) * left.sign()
            tried, difference, scale, order = self.attempt(denoise, x[going], now[going], h, going)
            error = (difference / scale).double().reshape(len(going), -1).square().mean(1).sqrt()
            kept = error <= 1
            final = h.abs() >= left.abs() * (1 - 1e-12)
            x[going[kept]] = tried[kept]
            now[going[kept]] += h[kept]
            factor = (self.safety * error.clamp(min=1e-12) ** (-1 / order)).clamp(0.2, 5.0)
            cut = final & kept & (h.abs() < size[going])  # the last piece was short: the size it was cut from stays
            size[going] = torch.where(cut, size[going], h.abs() * factor)
            going = going[~(kept & final)]
        return x, size

    def clock(self, point: Point) -> float:
        """The variable in which steps are taken."""
        raise NotImplementedError

    def attempt(
        self, denoise: Denoise, x: Tensor, now: Tensor, h: Tensor, which: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """The state after a step of size h, the difference of two orders, its scale, and k of the step-size rule."""
        raise NotImplementedError

    def guess(self, denoise: Denoise, x: Tensor, t: Tensor, which: Tensor) -> Tensor:
        """E[x_0 | x_t] in the coordinates of the state, for some examples of the batch, each at its own time."""
        cond = denoise.cond and {name: value[which] for name, value in denoise.cond.items()}
        denoise.calls += 1
        return denoise.process.state(denoise.denoiser(x, t, cond).mean)

    def scale(self, x: Tensor, other: Tensor) -> Tensor:
        """What an error of 1 is, for each number."""
        return self.atol + self.rtol * torch.maximum(x.abs(), other.abs())


@dataclass(frozen=True)
class RK45(Adaptive):
    """Dormand-Prince 5(4) on dx/dt of the probability flow, in the process's own time (2011.13456, sec. 4.3): order 5 accepted."""

    name: ClassVar[str] = "rk45"
    needs: ClassVar[type[Process]] = Diffusion

    def clock(self, point: Point) -> float:
        return float(point.t)

    def attempt(self, denoise, x, now, h, which):
        def slope(x: Tensor, t: Tensor) -> Tensor:
            return denoise.process.velocity(x, denoise.process.data(self.guess(denoise, x, t, which)), t)

        step = column(h, x).to(x.dtype)
        tried, slopes = x, [slope(x, now)]
        for c, row in zip(DORMAND_PRINCE.c[1:], DORMAND_PRINCE.a[1:], strict=True):
            tried = x + step * combine(*((a, k) for a, k in zip(row, slopes, strict=True) if a))
            slopes.append(slope(tried, now + c * h))
        difference = step * combine(*((e, k) for e, k in zip(DORMAND_PRINCE.error, slopes, strict=True) if e))
        return tried, difference, self.scale(x, tried), 5


@dataclass(frozen=True)
class DPMSolverAdaptive(Adaptive):
    """DPM-Solver-12 and -23 (2206.00927, app. C): exponential steps in log-SNR, the lower order from the same evaluations.

    Defaults as published (for data in [-1, 1]); the higher order is kept. As there, the difference is measured by
    max(atol, rtol max(|x|, |x'|)), x' of the lower order; but each example by itself, and |x| of the state itself, where the
    published x is that of the lower order too.
    """

    name: ClassVar[str] = "dpm-solver-adaptive"
    variable: str = "eps"
    stages: Literal[2, 3] = 3
    atol: float = 0.0078
    rtol: float = 0.05
    first: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages not in (2, 3):
            raise UsageProblem(f"stages is {self.stages}, but the adaptive solver has 2 or 3")
        Flow(self.variable)

    def clock(self, point: Point) -> float:
        return float(point.half_log_snr)

    def scale(self, x: Tensor, other: Tensor) -> Tensor:
        return (self.rtol * torch.maximum(x.abs(), other.abs())).clamp(min=self.atol)

    def attempt(self, denoise, x, now, h, which):
        process: Process = denoise.process
        flow = Flow(self.variable)

        def at(half_log_snr: Tensor) -> Point:
            return process.at(process.schedule.time(2 * half_log_snr), x)

        def value(x: Tensor, u: Point) -> Tensor:
            return flow.value(x, self.guess(denoise, x, torch.as_tensor(u.t).flatten(), which), u)

        def move(u: Point, nodes: list[Point]) -> Tensor:
            weights = flow.weights(nodes, t, u)
            return combine((flow.carry(t, u), x), *((w, values[id(n)]) for w, n in zip(weights, nodes, strict=True)))

        t, s = at(now), at(now + h)
        values = {id(t): value(x, t)}
        first = at(now + h / self.stages)
        values[id(first)] = value(move(first, [t]), first)
        if self.stages == 2:
            low, high = move(s, [t]), move(s, [t, first])
        else:
            second = at(now + h * 2 / 3)
            values[id(second)] = value(move(second, [t, first]), second)
            low, high = move(s, [t, first]), move(s, [t, second])
        return high, high - low, self.scale(x, low), self.stages
