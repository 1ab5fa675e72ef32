r"""Brownian motion on a compact manifold, at the pace sqrt(beta(t)):

    dX = sqrt(beta) dB,   beta(t) = beta_0 + (beta_f - beta_0) t,   tau(t) = beta_0 t + (beta_f - beta_0) t^2 / 2

What is left of x_0 at time t is the heat kernel after tau(t), and in the limit the uniform law. Backwards in time

    dY = beta score dt + sqrt(beta) dB,            and with the same marginals  dx/dt = -(beta / 2) score

(2202.02763). There is no linear relation between a score and a guess of x_0 here: a denoiser's law carries its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Implicit, Law
from ..manifolds import Heat, Manifold
from ..rng import Rng
from ..scalars import Scalar
from .base import Moment, Process


@dataclass(frozen=True, slots=True)
class Instant(Moment):
    """A time t, and how long Brownian motion has run by then."""

    tau: float


@dataclass(frozen=True, slots=True)
class Even(Law):
    """The uniform law of a manifold."""

    manifold: Manifold

    def sample(self, rng: Rng) -> Tensor:
        return self.manifold.uniform(rng)

    draw = sample

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), -self.manifold.log_volume, dtype=torch.float64, device=x.device)


@dataclass(frozen=True, slots=True)
class Diffused(Law):
    """The law of Brownian motion that began at `mean` a time tau (batch,) ago; sampled by a walk of `steps`."""

    mean: Tensor
    tau: Tensor
    manifold: Manifold
    steps: int

    def sample(self, rng: Rng) -> Tensor:
        return self.manifold.walk(self.mean, self.tau, rng, self.steps)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.heat(x).log_prob

    def heat(self, x: Tensor) -> Heat:
        """Density and score."""
        return self.manifold.heat(x, self.mean, self.tau)


@dataclass(frozen=True, slots=True)
class Scored(Law):
    """What is known of x_0 by the score at x_t, a tangent vector. The guess is Tweedie's on a geodesic: exp_x(tau score)."""

    score: Tensor
    x: Tensor
    tau: Tensor
    manifold: Manifold

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.manifold.exp(self.x, self.tau.to(self.x.dtype)[:, None] * self.score)


class Curved(Process):
    """Brownian motion on `manifold`, whose time runs from `beta_0` to `beta_f`.

    walk    steps of the geodesic random walk that simulates the marginal, where it cannot be sampled exactly.
    """

    def __init__(self, manifold: Manifold, beta_0: float = 0.001, beta_f: float = 3.0, walk: int = 20):
        super().__init__()
        if not (0 <= beta_0 < math.inf and 0 < beta_f < math.inf) or walk < 1:
            raise UsageProblem(
                f"Brownian motion needs beta_f above 0, beta_0 of 0 or more and 1 step or more, "
                f"not {beta_f:g}, {beta_0:g} and {walk}"
            )
        self.manifold, self.beta_0, self.beta_f, self.walk = manifold, beta_0, beta_f, walk

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_0 + (self.beta_f - self.beta_0) * t

    def tau(self, t: Tensor | Moment, x: Tensor) -> Tensor:
        """The time that Brownian motion has run by t, for each row of x: float64 (batch,)."""
        if isinstance(t, Instant):
            return torch.full((len(x),), t.tau, dtype=torch.float64, device=x.device)
        times = t if isinstance(t, Tensor) else torch.full((len(x),), t.t, device=x.device)
        return self._tau(times.double())

    def _tau(self, t):
        return self.beta_0 * t + (self.beta_f - self.beta_0) * t * t / 2

    def time(self, tau: Tensor) -> Tensor:
        """The t at which Brownian motion has run for tau."""
        rise = self.beta_f - self.beta_0
        return 2 * tau / (self.beta_0 + (self.beta_0**2 + 2 * rise * tau).clamp(min=0).sqrt())

    def std(self, tau: Tensor) -> Tensor:
        """sqrt(1 - exp(-tau)): how large the noise is, as far as one number can tell."""
        return (-torch.expm1(-tau)).sqrt()

    def points(self, times: Sequence[Scalar]) -> list[Instant]:
        return [Instant(float(t), self._tau(float(t))) for t in times]

    def prior(self, shape: Sequence[int], t=None) -> Even:
        if tuple(shape[1:]) != (self.manifold.ambient,):
            raise UsageProblem(
                f"a point of {self.manifold.name} has {self.manifold.ambient} coordinates, and these data are of shape "
                f"{tuple(shape[1:])}; choose other data, or their manifold"
            )
        return Even(self.manifold)

    def marginal(self, x0: Tensor, t) -> Diffused:
        return Diffused(x0, self.tau(t, x0), self.manifold, self.walk)

    def posterior(self, xt: Tensor, x0: Tensor, t, s, eta: float = 1.0) -> Implicit:
        raise UsageProblem(
            "Brownian motion on a manifold has no posterior in closed form, so no chain; sample by geodesic-walk, and take the "
            "likelihood by the method flow"
        )
