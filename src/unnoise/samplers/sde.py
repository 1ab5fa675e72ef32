r"""Steps along the reverse SDE, and along every process between it and the probability-flow ODE (2011.13456).

For dx = f dt + g dw the reverse processes of the same marginals are a family in the amount of `noise`, lambda:

    dx = [f - (1 + lambda^2)/2 g^2 score] dt + lambda g dw,        score = (alpha x_0 - x) / sigma^2

lambda = 1 is the reverse SDE, 0 the probability flow. score-sde's third predictor, *ancestral*, is the house's own
`Ancestral`: with variance "large" for VP chains, "small" for VE. A step to clean data is the guess, as everywhere.
With `brownian` the noise of a step is an increment of one path, whatever the steps (brownian.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UsageProblem
from ..processes import Diffusion, Process
from ..processes.gaussian import Point, decay
from ..rng import Rng
from ..scalars import plus, sqrt, times
from .loop import Denoise, Step
from .noise import Noise, check_path, needs_one_level, one_path


@dataclass(frozen=True)
class _Reverse(Step):
    noise: float = 1.0
    brownian: bool = False

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise UsageProblem(
                f"noise is {self.noise}, but must be 0 (the probability flow), 1 (the reverse SDE) or more"
            )
        check_path(self.brownian, self.noise, "noise")

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return 1 if self.noise == 0 else None

    @property
    def weak_order(self) -> int:  # type: ignore[override]
        return 1

    @property
    def strong_order(self) -> int | None:  # type: ignore[override]
        """1, as the noise is additive."""
        return 1 if self.noise else None

    def check(self, process: Process) -> None:
        if self.brownian:
            needs_one_level(process)
        super().check(process)

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> Noise | None:
        alpha = points[0].alpha
        if not (alpha.all() if isinstance(alpha, Tensor) else alpha):
            raise UsageProblem(
                f"{self.name} divides by alpha, and at the first point of this grid no signal is left; "
                "begin below t = 1 (karras and log-snr do), or take ancestral"
            )
        return one_path(self.noise, points) if self.brownian else None

    def noisy(self, mean: Tensor, std, t: Point, s: Point, path: Noise | None, rng: Rng) -> Tensor:
        if self.noise == 0:
            return mean
        z = rng.normal_like(mean) if path is None else path.standard(mean, t, s, rng)
        return mean + times(self.noise * std, z)


@dataclass(frozen=True)
class EulerMaruyama(_Reverse):
    r"""x_s = x + (s - t) [velocity - lambda^2/2 g^2 score] + lambda g sqrt(t - s) z, in the process's own time."""

    name: ClassVar[str] = "euler-maruyama"
    needs: ClassVar[type[Process]] = Diffusion

    def step(
        self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: Noise | None, rng: Rng
    ) -> tuple[Tensor, Noise | None]:
        process, x0 = denoise.process, denoise(x, t).mean
        if s.is_clean:
            return process.state(x0), state
        h = s.t - t.t
        mean = plus(x, h, process.reverse(x, x0, t, self.noise))
        std = sqrt(-h) * process.diffusion(t, x) if self.noise else 0.0
        return self.noisy(mean, std, t, s, state, rng), state


@dataclass(frozen=True)
class ReverseDiffusion(_Reverse):
    r"""The reverse of the forward chain's own step x_t = a x_s + b z (2011.13456, app. E), b^2 = sigma_t^2 (1 - r):

        x_s = (2 - a) x_t + (1 + lambda^2)/2 b^2 score + lambda b z

    Exact in the forward direction at any step size. Of a chain of betas: a = sqrt(1 - beta), b^2 = beta; of VE: a = 1,
    b^2 = sigma_t^2 - sigma_s^2.
    """

    name: ClassVar[str] = "reverse-diffusion"

    def step(
        self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: Noise | None, rng: Rng
    ) -> tuple[Tensor, Noise | None]:
        x0 = denoise.process.state(denoise(x, t).mean)
        if s.is_clean:
            return x0, state
        fresh = decay(t, s)
        pull = (1 + self.noise**2) / 2 * fresh
        mean = times(2 - t.alpha / s.alpha - pull, x) + times(pull * t.alpha, x0)
        return self.noisy(mean, t.sigma * sqrt(fresh), t, s, state, rng), state
