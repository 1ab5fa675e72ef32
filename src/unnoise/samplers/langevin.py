r"""Langevin dynamics at one time, which leaves that time's marginal as it is: x <- x + e score + sqrt(2 e) z.

By itself, down a ladder of noise levels, it is annealed Langevin dynamics (1907.05600, 2006.09011); between the steps of
any other sampler it is the corrector of 2011.13456. NCSN's paper writes a/2 and sqrt(a): its a is 2 e here. A step of
finite size overshoots: where the marginal is N(0, v) it settles at v / (1 - e / (2 v)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..errors import UsageProblem
from ..laws import Normal, sum_event
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import Scalar, column, combine, sqrt, times
from .ladder import best_step
from .loop import Denoise, Step
from .sde import ReverseDiffusion


@dataclass(frozen=True)
class Corrector(Step):
    """`corrections` moves within the marginal at t, one call of the denoiser each.

    As a sampler it leaves the state as it is between levels, and ends with the guess of x_0 (Tweedie's formula, NCSNv2's
    last step), or with the noisy state itself where `denoise` is false, as NCSN does. It has no order: its bias depends
    on the size of its moves, not on the grid.
    """

    corrections: int = 1
    denoise: bool = True

    def __post_init__(self) -> None:
        if self.corrections < 1:
            raise UsageProblem(f"corrections is {self.corrections}, but a corrector makes at least 1")

    def evaluations(self, steps: int) -> int:
        return self.corrections * steps + self.denoise

    def correct(self, denoise: Denoise, x: Tensor, t: Point, state: Any, rng: Rng) -> Tensor:
        """A state whose law is nearer the marginal at t."""
        for _ in range(self.corrections):
            score = times(t.alpha / t.sigma**2, denoise.process.state(denoise(x, t).mean)) - times(1 / t.sigma**2, x)
            z = rng.normal_like(x)
            e = self.size(score, z, t, state)
            x = x + times(e, score) + times(sqrt(2 * e), z)
        return x

    def size(self, score: Tensor, z: Tensor, t: Point, state: Any) -> Scalar:
        """e, a number or one for each example."""
        raise NotImplementedError

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state, rng: Rng) -> tuple[Tensor, Any]:
        x = self.correct(denoise, x, t, state, rng)
        if s.is_clean and self.denoise:
            x = denoise.process.state(denoise(x, t).mean)
        return x, state


@dataclass(frozen=True)
class Langevin(Corrector):
    r"""score-sde's: e = 2 (snr |z| / |score|)^2, so that the noise is 1/snr times as long as the drift.

    norm   "example": of each example by itself; "batch": the mean over the batch, as published, which makes an image depend
           on the others beside it. They agree where images have many numbers; in a few dimensions |score| nears 0
           somewhere, and annealed-langevin is the better corrector. The published factor 1 - beta_i for VP is left out.
    """

    name: ClassVar[str] = "langevin"
    snr: float = 0.16
    norm: Literal["example", "batch"] = "example"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("example", "batch"):
            raise UsageProblem(f"norm is {self.norm!r}, but takes example or batch")
        if self.snr <= 0:
            raise UsageProblem(f"snr is {self.snr}, but must be above 0")

    def size(self, score: Tensor, z: Tensor, t: Point, state: Any) -> Tensor:
        noise, drift = (sum_event(v.double().square()).sqrt() for v in (z, score))
        if self.norm == "batch":
            noise, drift = noise.mean().expand_as(noise), drift.mean().expand_as(drift)
        e = 2 * (self.snr * noise / drift) ** 2
        return column(e.where(drift > 0, 0.0), z)


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    r"""NCSN's: e = h sigma^2, the same fraction of the noise at every level.

    h None: NCSNv2's choice for a ladder like this grid and this many corrections, `ladder.best_step`. The published
    eps_step is h sigma_L^2; score-sde's snr is sqrt(h / 2).
    """

    name: ClassVar[str] = "annealed-langevin"
    corrections: int = 5
    h: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.h is not None and not 0 < self.h < 2:
            raise UsageProblem(f"h is {self.h}, but Langevin dynamics needs a step between 0 and 2 to stay finite")

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> float:
        if self.h is not None:
            return self.h
        levels = [t.ratio for t in points if not t.is_clean]
        if len(levels) < 2 or any(isinstance(r, Tensor) for r in levels) or levels[0] == float("inf"):
            raise UsageProblem("the step of annealed-langevin follows from two or more finite noise levels; give h")
        return best_step(float(levels[0] / levels[-1]) ** (1 / (len(levels) - 1)), self.corrections)

    def size(self, score: Tensor, z: Tensor, t: Point, state: Any) -> Scalar:
        return state * t.sigma**2


@dataclass(frozen=True)
class ConsistentLangevin(Step):
    r"""Annealed Langevin dynamics whose noise is right at every level (2009.05475): with r = sigma / alpha and the noise guess eps,

        x_s / alpha_s = x_0 + (1 - h) r_t eps + sqrt(r_s^2 - ((1 - h) r_t)^2) z,

    of the noise the fraction 1 - h is kept, and as much drawn anew as the next level wants: were x_0 known, x_s would be a
    sample of q(x_s | x_0). Where (1 - h) r_t = r_s it is DDIM, where h = 1 the guess is destroyed anew. h None: half of the
    next level's noise is old, where the levels fall fastest. The last step gives the guess. Raises UsageProblem where h keeps
    more noise than a level has.
    """

    name: ClassVar[str] = "consistent-langevin"
    h: float | None = None

    def __post_init__(self) -> None:
        if self.h is not None and not 0 < self.h <= 1:
            raise UsageProblem(f"h is {self.h}, but the fraction of the noise that is removed lies above 0, up to 1")

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> float:
        self.fits(len(points) - 1)
        if isinstance(points[0].ratio, Tensor):
            raise UsageProblem("consistent-langevin needs one noise level for all coordinates; this process has many")
        falls = [float(s.ratio / t.ratio) for t, s in pairwise(points) if not s.is_clean and t.ratio < math.inf]
        steepest = min(falls, default=1.0)
        least = 1 - steepest
        if self.h is None:
            return 1 - steepest / 2
        if self.h < least - 1e-12:
            raise UsageProblem(
                f"h {self.h} keeps more noise than the next level has; take h {math.ceil(100 * least) / 100} or more, or more steps"
            )
        return self.h

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: float, rng: Rng) -> tuple[Tensor, float]:
        x0 = denoise(x, t).mean
        if s.is_clean:
            return denoise.process.state(x0), state
        old = s.alpha * (1 - state) * t.ratio if t.ratio < math.inf else 0.0
        fresh = sqrt(s.sigma**2 - old**2) if old < s.sigma else 0.0
        mean = combine((s.alpha, denoise.process.state(x0)), (old, denoise.process.noise(x, x0, t)))
        return Normal(mean, fresh).sample(rng), state


@dataclass(frozen=True)
class PredictorCorrector(Step):
    r"""A `predictor` from t to s, and a `corrector` that moves within the marginal of one time (2011.13456, alg. 1).

    `first` "corrector" corrects at t, then predicts, as the published code does; "predictor" predicts, then corrects at s,
    as the paper writes it, but for the last step. Either may be left out (None), not both: without a predictor the state
    stays as it is between times, and ends with the guess of x_0. It has no order: see `Corrector`.
    """

    name: ClassVar[str] = "predictor-corrector"
    predictor: Step | None = field(default_factory=ReverseDiffusion)
    corrector: Step | None = field(default_factory=Langevin)
    first: Literal["corrector", "predictor"] = "corrector"

    def __post_init__(self) -> None:
        if self.first not in ("corrector", "predictor"):
            raise UsageProblem(f"first is {self.first!r}, but takes corrector or predictor")
        if self.corrector is not None and not isinstance(self.corrector, Corrector):
            raise UsageProblem(f"{self.corrector.name!r} is no corrector; take langevin, annealed-langevin or none")
        if isinstance(self.predictor, (Corrector, PredictorCorrector)):
            raise UsageProblem(f"{self.predictor.name!r} is no predictor; it is a sampler by itself")
        if self.predictor is None and self.corrector is None:
            raise UsageProblem("with neither predictor nor corrector nothing moves; name one of them")

    @property
    def parts(self) -> list[Step]:
        """What there is of the two."""
        return [part for part in (self.predictor, self.corrector) if part is not None]

    def evaluations(self, steps: int) -> int:
        predicted = self.predictor.evaluations(steps) if self.predictor else 1
        corrected = steps if self.first == "corrector" else steps - 1
        return predicted + corrected * (self.corrector.corrections if self.corrector else 0)  # type: ignore[attr-defined]

    def check(self, process) -> None:
        super().check(process)
        for part in self.parts:
            part.check(process)

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> tuple[Any, Any]:
        predicting, correcting = (part and part.init(denoise, x, points) for part in (self.predictor, self.corrector))
        return predicting, correcting

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state, rng: Rng) -> tuple[Tensor, Any]:
        predicting, correcting = state

        def corrected(x: Tensor, at: Point) -> Tensor:
            return self.corrector.correct(denoise, x, at, correcting, rng) if self.corrector else x  # type: ignore[attr-defined]

        if self.first == "corrector":
            x = corrected(x, t)
        if self.predictor:
            x, predicting = self.predictor.step(denoise, x, t, s, predicting, rng)
        elif s.is_clean:
            x = denoise.process.state(denoise(x, t).mean)
        if self.first == "predictor" and not s.is_clean:
            x = corrected(x, s)
        return x, (predicting, correcting)
