"""The noise of the reverse SDE's steps, fresh or from one path, and the step out of pure noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ..errors import UsageProblem, unknown
from ..processes import Gaussian, Process
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import expm1, times
from .brownian import Brownian
from .exponential import Flow, combine

Kind = Literal["gaussian", "rademacher"]
KINDS = ("gaussian", "rademacher")


class Noise:
    """Draws of mean 0 and variance spread(t, s)^2, independent over disjoint steps.

    `kind`: normal, or Rademacher's -1 and 1 with equal probability, enough for convergence in law. `one_path`: increments of
    one Brownian path. `points`: of the walk.
    """

    def __init__(self, flow: Flow, one_path: bool = False, kind: Kind = "gaussian", points: Sequence[Point] = ()):
        if kind not in KINDS:
            raise unknown("noise", kind, KINDS)
        check_path(one_path, flow.eta)
        if one_path and kind != "gaussian":
            raise UsageProblem("increments of a Brownian path are normal; choose noise=gaussian, or leave brownian out")
        if one_path and any(isinstance(t.alpha, Tensor) for t in points):
            raise UsageProblem("a Brownian path needs one noise level, and this process has one for each frequency")
        self.flow, self.one_path, self.kind = flow, one_path, kind
        self._path: Brownian | None = None

    def draw(self, like: Tensor, t: Point, s: Point, rng: Rng, flow: Flow | None = None) -> Tensor:
        return times((flow or self.flow).spread(t, s), self.standard(like, t, s, rng))

    def standard(self, like: Tensor, t: Point, s: Point, rng: Rng) -> Tensor:
        """The draw of a step over its standard deviation."""
        if not self.one_path:
            z = rng.normal_like(like)
            return z if self.kind == "gaussian" else 1 - 2 * (z < 0).to(z.dtype)
        if self._path is None:
            self._path = Brownian(rng, like.shape[1:], -1.0 if self.flow.gauge == "eps" else self.flow.eta)
        return self._path.normal(t.half_log_snr, s.half_log_snr, like)  # type: ignore[arg-type]

    def add(self, x: Tensor, t: Point, s: Point, rng: Rng, flow: Flow | None = None) -> Tensor:
        """x with the noise of the step from t to s; x itself on the flow, and at clean data."""
        if not self.flow.eta or s.is_clean:
            return x
        if not self.one_path and self.kind == "gaussian":
            return rng.disturb(x, (flow or self.flow).spread(t, s))
        return x + self.draw(x, t, s, rng, flow)


def check_path(brownian: bool, strength: float, option: str = "eta") -> None:
    """Refuses the path of a step that draws no noise."""
    if brownian and not strength:
        raise UsageProblem(
            f"at {option} 0 a step draws no noise, so there is no Brownian path; leave brownian out, or raise {option}"
        )


def needs_one_level(process: Process) -> None:
    """Refuses a path for a process whose noise it does not describe."""
    if not isinstance(process, Gaussian):
        raise UsageProblem(
            f"a Brownian path needs a Gaussian process; this model's is {type(process).__name__}: leave brownian out"
        )


def one_path(strength: float, points: Sequence[Point]) -> Noise:
    """The path for steps that know their own standard deviations: that of the exponential steps in x0 of the same
    `strength`, lambda of [f - (1 + lambda^2)/2 g^2 score] dt + lambda g dw, whose eta is its square."""
    return Noise(Flow("x0", eta=strength**2), True, points=points)


def out_of_noise(x: Tensor, u0: Tensor, t: Point, s: Point, noise: Noise, rng: Rng) -> Tensor:
    """DDIM's step, or at eta = 1 the ancestral one, which also leave alpha = 0, where no other gauge is regular."""
    flow = Flow("x0", eta=noise.flow.eta)
    h = s.half_log_snr - t.half_log_snr
    keep = s.sigma / t.sigma
    if flow.eta:
        keep = keep * (1 + expm1(-flow.eta * h))
        moved = combine((keep, x), (-s.alpha * expm1(-(1 + flow.eta) * h), u0))
    else:
        moved = combine((keep, x), (s.alpha - keep * t.alpha, u0))
    return noise.add(moved, t, s, rng, flow)
