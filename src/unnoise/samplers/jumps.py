"""Sampling by jumps: the grid without its last level, gamma-sampling, and any denoiser made to jump by a solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..denoisers.denoiser import TOWARD, Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Estimate
from ..processes import Gaussian, Process
from ..processes.gaussian import CLEAN, Point
from ..rng import Rng
from ..scalars import column
from .grids import Karras, _ends
from .loop import Denoise, Step, sample
from .ode import Heun


@dataclass(frozen=True)
class Jumps(Karras):
    """Karras's levels of one step more, without the last: n jumps, of which the last goes to data (2310.02279)."""

    name: ClassVar[str] = "jumps"
    steps: int = 1

    def ratios(self, process: Process) -> Tensor:
        top, low = (r ** (1 / self.rho) for r in _ends(process, self.sigma_min, self.sigma_max))
        return (top + torch.arange(self.steps, dtype=torch.float64) / self.steps * (low - top)) ** self.rho


@dataclass(frozen=True)
class Gamma(Step):
    r"""Jump too far, and add noise back: gamma-sampling (2310.02279).

    x_u = G(x_t, t, u) with sigma/alpha at u sqrt(1 - gamma^2) times that at s, then a sample of q(x_s | x_u).
    gamma = 0 jumps to s itself, deterministically; gamma = 1 goes to data each time (consistency models' multistep sampling).

    With gamma = 0 and a denoiser that does not jump it is DDIM, of order 1; of jumps, what is left is the error of their network.
    """

    name: ClassVar[str] = "gamma"
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise UsageProblem(f"gamma is {self.gamma}, but must lie between 0 (deterministic) and 1 (noise anew)")

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return None if self.gamma else 1

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> dict[float, Point]:
        """Where each jump lands, by the time of the step's end."""
        self.fits(len(points) - 1)
        if not self.gamma:
            return {}
        if not denoise.denoiser.jumps:
            raise UsageProblem(
                "gamma above 0 jumps further than it steps, and this model does not jump; use gamma 0, or ancestral"
            )
        between = [s for s in points[1:] if not s.is_clean]
        if self.gamma == 1:
            return {float(s.t): CLEAN for s in between}
        if any(isinstance(s.ratio, Tensor) for s in between):
            raise UsageProblem("gamma lowers one noise level, and this process has one for each frequency; use gamma 0")
        landings = denoise.process.noisier(between, math.log(1 - self.gamma**2) / 2)
        return dict(zip((float(s.t) for s in between), landings, strict=True))

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: dict[float, Point], rng: Rng):
        process, u = denoise.process, state.get(float(s.t), s)
        x = process.posterior(x, denoise(x, t, toward=u).mean, t, u, eta=0.0).mean
        return (x if u is s else process.transition(x, u, s).sample(rng)), state


def _levels(process: Gaussian, x: Tensor, t: Tensor, s: Tensor, steps: int, rho: float) -> list[Point]:
    """From times t to times s (batch,), evenly in (sigma/alpha)^(1/rho); the ends are as they were given."""
    top, low = (torch.exp(process.schedule.log_snr(time) / (-2 * rho)) for time in (t, s))
    between = [process.schedule.time(-2 * rho * (top + i / steps * (low - top)).log()) for i in range(1, steps)]
    return [process.with_derivatives(time, x) for time in (t, *between, s)]


class Solved(Denoiser):
    """A denoiser made to jump: `steps` steps of a solver that remembers none before, on Karras's levels from t to s.

    The more steps, the nearer to the exact jump. Between two levels of one of Karras's grids, h steps are its own.
    `jump` gives G(x_t, t, s) and `forward` with `cond["toward"]` the g that leads there; s must keep some noise.
    """

    jumps = True

    def __init__(self, denoiser: Denoiser, steps: int = 32, step: Step | None = None, rho: float = 7.0):
        super().__init__()
        self.denoiser, self.process, self.space = denoiser, denoiser.process, denoiser.space
        self.step: Step = step or Heun()
        self.steps, self.rho = steps, rho
        if self.step.remembers or self.step.order is None:
            raise UsageProblem(
                f"jumps take a deterministic step that remembers none before, such as heun, and not {self.step.name!r}"
            )

    def jump(self, xt: Tensor, t: Tensor, s: Tensor, cond: Cond = None) -> Tensor:
        """The state at times s (batch,), each example on its own levels. No gradient flows."""
        points = _levels(self.process, xt, t.double(), s.double(), self.steps, self.rho)
        rng = Rng.from_seeds(range(len(xt)), xt.device)  # of which a deterministic step makes nothing
        data = sample(
            self.denoiser, self.step, lambda _: points, xt.shape, cond=cond, rng=rng, start=xt, dtype=xt.dtype
        )
        return self.process.state(data)

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None):
        told = dict(cond or {})
        s = told.pop(TOWARD, None)
        here = self.denoiser(xt, t, told or None)
        if s is None:
            return here
        end = self.jump(xt, t, s, told or None)
        a, b = self.process.at(t, xt), self.process.at(s, xt)
        keep = b.sigma / a.sigma
        share = torch.as_tensor(b.alpha - keep * a.alpha)
        guess = self.process.data((end - keep * xt) / torch.where(share == 0, 1.0, share)).to(xt.dtype)
        return Estimate(torch.where(column(s == t, guess), here.mean, guess))
