"""The geodesic random walk: Euler and Maruyama's step, on a manifold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UsageProblem
from ..processes.curved import Curved, Instant
from ..rng import Rng
from .loop import Denoise, Step


@dataclass(frozen=True)
class GeodesicWalk(Step):
    r"""x_s = exp_x[(1 + lambda^2)/2 h score + lambda sqrt(h) P_x z],   h = tau(t) - tau(s)   (2202.02763)

    `noise` is lambda: 1 the reverse diffusion, 0 the probability flow. The step is measured in Brownian time, where the
    published one has beta(t) (t - s): the forward walk is then exact in law on flat manifolds, whatever the grid.
    """

    name: ClassVar[str] = "geodesic-walk"
    needs: ClassVar[type] = Curved
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise UsageProblem(
                f"noise is {self.noise}, but must be 0 (the probability flow), 1 (the diffusion) or more"
            )

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return 1 if self.noise == 0 else None

    @property
    def weak_order(self) -> int:  # type: ignore[override]
        return 1

    def step(
        self, denoise: Denoise[Curved], x: Tensor, t: Instant, s: Instant, state: None, rng: Rng
    ) -> tuple[Tensor, None]:
        manifold, h = denoise.process.manifold, t.tau - s.tau
        v = (1 + self.noise**2) / 2 * h * denoise(x, t).score  # type: ignore[arg-type, union-attr]
        if self.noise:
            v = v + self.noise * math.sqrt(h) * manifold.tangent(x, rng.normal_like(x))
        return manifold.exp(x, v), None
