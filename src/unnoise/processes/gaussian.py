r"""The Gaussian process: x_t = alpha(t) x_0 + sigma(t) eps, elementwise in an orthonormal basis.

With lambda = 2 log(alpha/sigma), r = exp(lambda_t - lambda_s) and s < t, everything a chain needs follows:

    q(x_t | x_s)      = N(alpha_t/alpha_s x_s, sigma_t^2 (1 - r))
    q(x_s | x_t, x_0) = N(alpha_s x_0 + sigma_s sqrt(1 - eta^2 (1 - r)) eps, eta^2 sigma_s^2 (1 - r)),
                        eps = (x_t - alpha_t x_0) / sigma_t

eta = 1 is DDPM's posterior with its beta~ = sigma_s^2 (1 - r); eta = 0 is DDIM. Written with 1 - r = -expm1(lambda_t - lambda_s),
nothing cancels, whatever the schedule and however close the two times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Normal, sum_event
from ..rng import Rng
from ..scalars import Scalar, column, combine, expm1, log, plus, sqrt, times
from ..schedules import Schedule
from .base import Diffusion
from .basis import Basis, Identity

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # knows defaults

    S = TypeVar("S", bound=Schedule, default=Schedule, covariant=True)
else:
    from typing import TypeVar

    S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Point:
    """A time and its coefficients: floats, or tensors that broadcast against the state."""

    t: Scalar
    alpha: Scalar
    sigma: Scalar
    dalpha: Scalar = math.nan
    dsigma: Scalar = math.nan

    @property
    def half_log_snr(self) -> Scalar:
        """log(alpha / sigma): the lambda of the solver papers; +inf at clean data."""
        return log(self.alpha) - log(self.sigma)

    @property
    def log_snr(self) -> Scalar:
        return 2 * self.half_log_snr

    @property
    def ratio(self) -> Scalar:
        """sigma / alpha, the noise-to-signal ratio: EDM's sigma; inf where no signal is left."""
        return self.sigma / self.alpha if isinstance(self.alpha, Tensor) or self.alpha else math.inf

    def over(self, x: Tensor) -> Tensor:
        """The time of a point that all share, once for each example of x: (batch,), float64."""
        return torch.full((len(x),), float(self.t), dtype=torch.float64, device=x.device)

    @property
    def is_clean(self) -> bool:
        """Whether there is no noise left (for a batch of points, in none of them)."""
        return bool((self.sigma == 0).all()) if isinstance(self.sigma, Tensor) else self.sigma == 0


CLEAN = Point(t=0.0, alpha=1.0, sigma=0.0)
"""Clean data, where every grid may end; a schedule need not reach it (VE, truncated cosine)."""


def decay(t: Point, s: Point) -> Scalar:
    """1 - r, r = exp(lambda_t - lambda_s): the share of the noise at t that came after s."""
    return -expm1(2 * (t.half_log_snr - s.half_log_snr))


def _against(c: Tensor, x: Tensor) -> Tensor:
    return column(c, x) if c.ndim == 1 else c


class Gaussian(Diffusion, Generic[S]):
    """x_t = alpha(t) x_0 + sigma(t) eps. The state is the data in `basis` (the identity by default)."""

    schedule: S

    def __init__(self, schedule: S, basis: Basis | None = None):
        super().__init__()
        self.schedule, self.basis = schedule, basis or Identity()

    @property
    def by_frequency(self) -> bool:
        """Whether each coordinate has a noise level of its own, as blurring's frequencies have."""
        return isinstance(self.point(0.5).ratio, Tensor)

    def points(self, times: Sequence[Scalar] | Tensor) -> list[Point]:
        t = torch.as_tensor(times, dtype=torch.float64)
        with torch.no_grad():
            columns = (t, self.schedule.alpha(t), self.schedule.sigma(t), *self.schedule.derivatives(t))
        rows = zip(*(c.tolist() if c.ndim == 1 else c.unbind(0) for c in columns), strict=True)
        return [Point(*row) for row in rows]

    def at(self, t: Tensor | Point, x: Tensor) -> Point:
        """The coefficients at times t, (batch,), shaped to broadcast against the state x. A point is passed through."""
        if isinstance(t, Point):
            return t
        t = t.double()
        return Point(*(_against(c, x) for c in (t, self.schedule.alpha(t), self.schedule.sigma(t))))

    def with_derivatives(self, t: Tensor | Point, x: Tensor) -> Point:
        """As `at`, with d alpha/dt and d sigma/dt."""
        if isinstance(t, Point):
            return t
        t = t.double()
        columns = (t, self.schedule.alpha(t), self.schedule.sigma(t), *self.schedule.derivatives(t))
        return Point(*(_against(c, x) for c in columns))

    def state(self, x0: Tensor) -> Tensor:
        return self.basis(x0)

    def data(self, xt: Tensor) -> Tensor:
        return self.basis.inverse(xt)

    def prior(self, shape: Sequence[int], t: Point | None = None) -> Normal:
        """N(0, 1) for variance-preserving schedules, otherwise N(0, sigma^2) of the first point of the grid."""
        std = self.schedule.prior_std
        if std is None:
            std = (t or self.point(1.0)).sigma
        return Normal(torch.zeros(tuple(shape)), std)

    def marginal(self, x0: Tensor, t: Tensor | Point) -> Normal:
        u = self.state(x0)
        point = self.at(t, u)
        return Normal(times(point.alpha, u), point.sigma)

    def transition(self, xs: Tensor, s: Tensor | Point, t: Tensor | Point) -> Normal:
        """q(x_t | x_s) for s < t."""
        s, t = self.at(s, xs), self.at(t, xs)
        return Normal(times(t.alpha / s.alpha, xs), t.sigma * sqrt(decay(t, s)))

    def posterior(
        self, xt: Tensor, x0: Tensor, t: Tensor | Point, s: Tensor | Point, eta: float = 1.0, eps: Tensor | None = None
    ) -> Normal:
        """q(x_s | x_t, x_0), see the head of the file. `eps` replaces the noise that x_t and x_0 imply."""
        if not 0 <= eta <= 1:
            raise UsageProblem(f"eta is {eta}, but must lie between 0 (deterministic) and 1 (the Markov chain)")
        t, s = self.at(t, xt), self.at(s, xt)
        u = self.state(x0)
        fresh = eta**2 * decay(t, s)
        along = s.sigma * sqrt(1 - fresh)
        std = s.sigma * sqrt(fresh)
        if eps is not None:
            return Normal(plus(times(s.alpha, u), along, eps), std)
        keep = along / t.sigma
        return Normal(combine((s.alpha - keep * t.alpha, u), (keep, xt)), std)

    def noise(self, xt: Tensor, x0: Tensor, t: Tensor | Point) -> Tensor:
        """eps = (x_t - alpha x_0) / sigma."""
        t = self.at(t, xt)
        return combine((1 / t.sigma, xt), (-t.alpha / t.sigma, self.state(x0)))

    def reverse(self, xt: Tensor, x0: Tensor, t: Tensor | Point, noise: float) -> Tensor:
        """Drift of the reverse process with `noise` lambda; of the flow, lambda = 0, it is alpha' x_0 + sigma' eps."""
        t = self.with_derivatives(t, xt)
        along = t.dsigma / t.sigma
        pull = along + noise**2 * (along - t.dalpha / t.alpha) if noise else along  # by g^2 / (2 sigma^2)
        return combine((pull, xt), (t.dalpha - pull * t.alpha, self.state(x0)))

    def noisier(self, points: Sequence[Point], log_factor: float) -> list[Point]:
        """The points whose noise-to-signal ratio is exp(log_factor) times that of `points`."""
        log_snr = torch.tensor([t.log_snr - 2 * log_factor for t in points], dtype=torch.float64)
        return self.points(self.schedule.time(log_snr)) if len(points) else []

    def drift(self, xt: Tensor, t: Tensor | Point) -> Tensor:
        """f of dx = f dt + g dw: (alpha'/alpha) x."""
        t = self.with_derivatives(t, xt)
        return times(t.dalpha / t.alpha, xt)

    def diffusion(self, t: Tensor | Point, xt: Tensor) -> Scalar:
        """g of dx = f dt + g dw: g^2 = 2 sigma (sigma' - sigma alpha'/alpha)."""
        t = self.with_derivatives(t, xt)
        return sqrt(2 * t.sigma * (t.dsigma - t.sigma * t.dalpha / t.alpha))

    def expansion(self, t: Tensor | Point, xt: Tensor) -> Tensor:
        point = self.with_derivatives(t, xt)
        return sum_event(torch.as_tensor(point.dsigma / point.sigma, dtype=torch.float64).expand_as(xt))

    def opening(self, x: Tensor, t: Point, rng: Rng) -> tuple[Tensor, Tensor]:
        """alpha x, of data blurred by sigma/alpha."""
        state = times(t.alpha, self.state(x.double()))
        stretch = torch.as_tensor(t.alpha, dtype=torch.float64, device=x.device).log()
        return state, -sum_event(stretch.expand_as(state))
