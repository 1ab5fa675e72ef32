"""The noise of the reverse SDE's steps, fresh or from one path, and the step out of pure noise."""

from __future__ import annotations

from torch import Tensor

from ..errors import UsageProblem
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import expm1, times
from .brownian import Brownian
from .exponential import Flow, combine


class Noise:
    """Draws of N(0, spread(t, s)^2), independent over disjoint steps; with `one_path` they are increments of one Brownian path."""

    def __init__(self, flow: Flow, one_path: bool = False):
        self.flow, self.one_path = flow, one_path
        self._path: Brownian | None = None

    def draw(self, like: Tensor, t: Point, s: Point, rng: Rng, flow: Flow | None = None) -> Tensor:
        std = (flow or self.flow).spread(t, s)
        if not self.one_path:
            return times(std, rng.normal_like(like))
        if isinstance(std, Tensor):
            raise UsageProblem("a Brownian path needs one noise level, and this process has one for each frequency")
        if self._path is None:
            self._path = Brownian(rng, like.shape[1:], -1.0 if self.flow.gauge == "eps" else self.flow.eta)
        return self._path.normal(t.half_log_snr, s.half_log_snr, like) * std

    def add(self, x: Tensor, t: Point, s: Point, rng: Rng, flow: Flow | None = None) -> Tensor:
        """x with the noise of the step from t to s; x itself on the flow, and at clean data."""
        return x if not self.flow.eta or s.is_clean else x + self.draw(x, t, s, rng, flow)


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
