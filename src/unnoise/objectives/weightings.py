r"""Weightings of the denoising error, and the one that any objective implies in the view of the ELBO (2303.00848).

In log-SNR, lambda, every denoising loss is one integral whose schedule does not matter but for its ends:

    L_w = 1/2 int w(lambda) E|eps - eps_guess|^2 dlambda

so a loss E_{lambda ~ p}[u(lambda) |eps - eps_guess|^2] has w = 2 u p. w = 1 is the ELBO; a w that never rises with lambda
is the ELBO of data with Gaussian noise added. A `Weighting` says what an error in *eps* is worth, whichever kind the
objective compares: min-SNR is one loss, not one for each prediction. A plain function weights the compared kind itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..denoisers.denoiser import Denoiser
from ..denoisers.preconditioning import relation
from ..errors import UsageProblem
from ..processes import Gaussian, Process
from ..processes.gaussian import Point
from ..scalars import Scalar

if TYPE_CHECKING:
    from .objective import Objective


def _snr(c: Point) -> Tensor:
    return torch.as_tensor(c.log_snr, dtype=torch.float64).exp()


class Weighting:
    """`on_eps(point)`: the factor on the squared error of eps, beside the density of the times that are drawn."""

    def on_eps(self, c: Point) -> Scalar:
        raise NotImplementedError

    def __call__(self, c: Point) -> Scalar:
        return self.on_eps(c)

    def on(self, c: Point, q: Scalar, density: Tensor) -> Scalar:
        """The factor on the squared error of a kind F = p x_t + q x_0, for times drawn with `density` over t."""
        return self.on_eps(c) * (relation("eps", c)[1] / q) ** 2


@dataclass(frozen=True)
class Eps(Weighting):
    """1: L_simple, whatever is compared."""

    def on_eps(self, c: Point) -> float:
        return 1.0


@dataclass(frozen=True)
class P2(Weighting):
    """(k + SNR)^-gamma: less on the clean-up steps (2204.00227). gamma = 0 is the simple loss."""

    gamma: float = 1.0
    k: float = 1.0

    def on_eps(self, c: Point) -> Tensor:
        return (self.k + _snr(c)) ** -self.gamma


@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) on x_0: min(1, gamma / SNR) on eps, min(SNR, gamma) / (SNR + 1) on v (2303.09556)."""

    gamma: float = 5.0

    def on_eps(self, c: Point) -> Tensor:
        return (self.gamma / _snr(c)).clamp(max=1.0)


@dataclass(frozen=True)
class TruncatedSNR(Weighting):
    """max(SNR, 1) on x_0: max(1, 1 / SNR) on eps (2202.00512, sec. 4)."""

    def on_eps(self, c: Point) -> Tensor:
        return (1 / _snr(c)).clamp(min=1.0)


class Integral(Weighting):
    """A weighting given as w(lambda) itself: the loss is 1/2 int w |eps - eps_guess|^2 dlambda, mean over dimensions,
    whatever the schedule and the distribution of times."""

    def w(self, log_snr: Tensor) -> Tensor:
        raise NotImplementedError

    def on_eps(self, c: Point) -> Tensor:
        fall = 2 * (torch.as_tensor(c.dsigma) / c.sigma - torch.as_tensor(c.dalpha) / c.alpha)
        return 0.5 * self.w(torch.as_tensor(c.log_snr, dtype=torch.float64)) * fall

    def on(self, c: Point, q: Scalar, density: Tensor) -> Scalar:
        factor = super().on(c, q, density)
        return factor / torch.as_tensor(density).reshape(torch.as_tensor(c.log_snr).shape)


@dataclass(frozen=True)
class ELBO(Integral):
    """w = 1: the bound's diffusion term, in nats per dimension."""

    def w(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


@dataclass(frozen=True)
class Sigmoid(Integral):
    """w = sigmoid(k - lambda) (2303.00848)."""

    k: float = 2.0

    def w(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(self.k - log_snr)


@dataclass(frozen=True)
class EDMLoss(Integral):
    r"""EDM's own w, N(lambda; 2.4, 2.4^2) (e^-lambda + sigma_data^2), whatever the noise levels that are drawn.

    p_mean and p_std are EDM's, of ln(sigma/alpha) = -lambda / 2.
    """

    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def w(self, log_snr: Tensor) -> Tensor:
        z = (log_snr + 2 * self.p_mean) / (2 * self.p_std)
        normal = torch.exp(-0.5 * z * z) / (2 * self.p_std * math.sqrt(2 * math.pi))
        return normal * (torch.exp(-log_snr) + self.sigma_data**2)

    @cached_property
    def peak(self) -> float:
        """The log-SNR at which w is largest, -3.308 by default: where (lambda - 2.4)/2.4^2 = -e^-l/(e^-l + sd^2)."""
        low, high = -2 * self.p_mean - (2 * self.p_std) ** 2, -2 * self.p_mean
        for _ in range(100):
            middle = (low + high) / 2
            slope = (middle + 2 * self.p_mean) / (2 * self.p_std) ** 2 + 1 / (1 + self.sigma_data**2 * math.exp(middle))
            low, high = (middle, high) if slope < 0 else (low, middle)
        return (low + high) / 2


@dataclass(frozen=True)
class EDMMonotone(EDMLoss):
    """EDM's w, held at its peak on all noisier levels (2303.00848)."""

    def w(self, log_snr: Tensor) -> Tensor:
        return super().w(log_snr.clamp(min=self.peak))


NAMED: dict[str, Weighting] = {
    "eps": Eps(),
    "p2": P2(),
    "min-snr": MinSNR(),
    "truncated-snr": TruncatedSNR(),
    "elbo": ELBO(),
    "sigmoid": Sigmoid(),
    "edm": EDMLoss(),
    "edm-monotone": EDMMonotone(),
}


@dataclass(frozen=True)
class Implied:
    """What an objective weights, at each log-SNR (increasing): w = 2 u p, the integrand of its loss.

    weight    w(lambda).
    density   p(lambda) of the noise levels that the loss averages over, importance weights included.
    drawn     p(lambda) of those that are drawn: `density`, unless the times adapt.
    """

    log_snr: Tensor
    weight: Tensor
    density: Tensor
    drawn: Tensor

    @property
    def on_eps(self) -> Tensor:
        """u(lambda): what a squared error of eps is worth, in the loss of one draw from `density`."""
        return self.weight / (2 * self.density)

    @property
    def is_monotone(self) -> bool:
        """Whether w never rises with log-SNR: the loss is then the ELBO of noisy data (2303.00848, theorem 3)."""
        w = self.weight
        return bool((w[1:] <= w[:-1] * (1 + 1e-9)).all())


def implied_weighting(
    objective: Objective, on: Denoiser | Process, log_snr: Tensor | None = None, count: int = 400
) -> Implied:
    """w(lambda) and p(lambda) of an objective on a process.

    `on`     the denoiser, or the process alone where the objective does not compare the network's own output.
    log_snr  where to look; by default `count` points evenly between the ends of the schedule, within [-20, 20].

    The loss is the mean over dimensions; constants count. Raises UsageProblem for objectives that compare no noise.
    """
    process = on if isinstance(on, Process) else on.process
    if not isinstance(process, Gaussian):
        raise UsageProblem(f"a {type(process).__name__} process has no log-SNR, so nothing is weighted by it")
    if process.by_frequency:
        raise UsageProblem("this process has one log-SNR for each frequency, so nothing is weighted by one of them")
    schedule = process.schedule
    with torch.no_grad():
        ends = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).clamp(-20, 20)
        if log_snr is None:
            log_snr = torch.linspace(float(ends[0]), float(ends[1]), count + 2, dtype=torch.float64)[1:-1]
        log_snr = log_snr.double()
        t = schedule.time(log_snr)
        on_eps, times = objective.on_eps(on, t)
        point = process.with_derivatives(t, torch.zeros(len(t), 1, dtype=torch.float64))
        slope = 2 * torch.as_tensor(point.dsigma / point.sigma - point.dalpha / point.alpha).reshape(-1)  # -dlambda/dt
        density = times.density(process, t) / slope
        drawn = times.drawn(process, t) / slope
    return Implied(log_snr, 2 * on_eps * density, density, drawn)
