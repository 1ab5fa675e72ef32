r"""What a network's output means, and how its input is scaled.

Everything a network may predict is a linear relation between state and data, F = p x_t + q x_0:

    x0        x_0                                 p = 0            q = 1
    eps       (x_t - alpha x_0) / sigma           1 / sigma        -alpha / sigma
    v         alpha eps - sigma x_0               alpha / sigma    -(alpha^2 + sigma^2) / sigma
    score     -eps / sigma                        -1 / sigma^2     alpha / sigma^2
    velocity  alpha' x_0 + sigma' eps             sigma' / sigma   alpha' - alpha sigma' / sigma

so x_0 = (F - p x_t) / q: EDM's c_skip = -p/q and c_out = 1/q for a state of signal alpha = 1. One table serves conversion
between kinds, the network's output, and the weighting a loss on one kind puts on another.

The four preconditionings of EDM's table 1 are written for any Gaussian process: with rho = sigma/alpha (EDM's sigma) and
x_t/alpha (EDM's x).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import unknown
from ..processes.gaussian import Point
from ..scalars import Scalar, sqrt
from ..schedules import FromBetas, Geometric, LinearVP, Schedule

KINDS: dict[str, Callable[[Point], tuple[Scalar, Scalar]]] = {
    "x0": lambda c: (0.0, 1.0),
    "eps": lambda c: (1 / c.sigma, -c.alpha / c.sigma),
    "v": lambda c: (c.alpha / c.sigma, -(c.alpha**2 + c.sigma**2) / c.sigma),
    "score": lambda c: (-1 / c.sigma**2, c.alpha / c.sigma**2),
    "velocity": lambda c: (c.dsigma / c.sigma, c.dalpha - c.alpha * c.dsigma / c.sigma),
}


def relation(kind: str, point: Point) -> tuple[Scalar, Scalar]:
    """(p, q) of F = p x_t + q x_0 for a kind of prediction at a point."""
    if kind not in KINDS:
        raise unknown("kind of prediction", kind, KINDS)
    return KINDS[kind](point)


class Preconditioning(nn.Module):
    """How a network is called at a point of a Gaussian process: `relation`, `c_in` and `c_noise`."""

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        """(p, q): the network's output is F = p x_t + q x_0."""
        raise NotImplementedError

    def c_in(self, point: Point) -> Scalar:
        """The factor on x_t before the network."""
        return 1.0

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        """The number that tells the network the noise level, float64 (batch,)."""
        raise NotImplementedError


class Raw(Preconditioning):
    """The network sees x_t itself, predicts `kind`, and is told `scale` times t or the log-SNR."""

    def __init__(self, kind: str, told: Literal["t", "log_snr"] = "t", scale: float = 1000.0):
        super().__init__()
        if kind not in KINDS:
            raise unknown("kind of prediction", kind, KINDS)
        self.kind, self.told, self.scale = kind, told, scale

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        return relation(self.kind, point)

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return self.scale * (t if self.told == "t" else log_snr)


class DDPM(Preconditioning):
    """DDPM's: the network sees x_t itself, predicts `kind`, and is told the index t steps - 1 in 0..steps - 1.

    `kind` is one of the table, or "mean": the mean of q(x_s | x_t, x_0) at the step before, s = t - 1/steps.
    """

    def __init__(self, schedule: FromBetas | Geometric, kind: str = "eps", scale: float = 1.0):
        super().__init__()
        if kind not in (*KINDS, "mean"):
            raise unknown("kind of prediction", kind, [*KINDS, "mean"])
        self.schedule, self.kind, self.scale = schedule, kind, scale

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        if self.kind != "mean":
            return relation(self.kind, point)
        before = torch.as_tensor(point.t, dtype=torch.float64) - 1 / self.schedule.steps
        alpha, sigma = self.schedule.alpha(before), self.schedule.sigma(before)
        keep = (point.alpha / alpha) * (sigma / point.sigma) ** 2
        return keep, alpha - keep * point.alpha

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return self.scale * (t * self.schedule.steps - 1)


class EDM(Preconditioning):
    r"""EDM's: input and target of unit variance for data of standard deviation sigma_data (2206.00364, table 1)."""

    def __init__(self, sigma_data: float = 0.5):
        super().__init__()
        self.sigma_data = sigma_data

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        # c_skip / alpha and c_out for the state x_t = alpha x, written so that alpha may be 0
        alpha, sigma, d = point.alpha, point.sigma, self.sigma_data
        total = alpha**2 * d**2 + sigma**2
        c_skip, c_out = alpha * d**2 / total, sigma * d / sqrt(total)
        return -c_skip / c_out, 1 / c_out

    def c_in(self, point: Point) -> Scalar:
        return 1 / sqrt(point.alpha**2 * self.sigma_data**2 + point.sigma**2)

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return -log_snr / 8  # ln(rho) / 4


class VDM(Preconditioning):
    """VDM's: x_t + F is the noise, so that a network of zeros guesses x_t; told 0 to 1000 between two log-SNRs that do not
    move with the schedule (2107.00630)."""

    def __init__(self, log_snr_min: float = -5.0, log_snr_max: float = 13.3):
        super().__init__()
        self.log_snr_min, self.log_snr_max = log_snr_min, log_snr_max

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        p, q = relation("eps", point)
        return p - 1, q

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return 1000 * (self.log_snr_max - log_snr) / (self.log_snr_max - self.log_snr_min)


class VP(Preconditioning):
    """score-sde's VP column: F = eps, unit-variance input, told (steps - 1) times the VP time of this noise level."""

    def __init__(self, schedule: Schedule | None = None, steps: int = 1000):
        super().__init__()
        self.schedule, self.steps = schedule or LinearVP(), steps

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        return relation("eps", point)

    def c_in(self, point: Point) -> Scalar:
        return 1 / sqrt(point.alpha**2 + point.sigma**2)

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return (self.steps - 1) * self.schedule.time(log_snr)


class VE(Preconditioning):
    """score-sde's VE column: F = -eps, input as it is, told ln(rho / 2)."""

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        p, q = relation("eps", point)
        return -p, -q

    def c_in(self, point: Point) -> Scalar:
        return 1 / point.alpha

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return -log_snr / 2 - math.log(2)


class Blind(VE):
    r"""NCSNv2's: F = -eps, so that score = F / sigma, of a network that is told nothing (2006.09011, technique 3).

    It must see the noise level in its input, which is left at its scale.
    """

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return torch.zeros_like(log_snr)


class IDDPM(Preconditioning):
    r"""improved-ddpm's column: F = eps, told the index of the nearest level of its cosine ladder.

    u_M = 0, u_{j-1} = sqrt((u_j^2 + 1) / max(abar_{j-1}/abar_j, C_1) - 1), abar_j = sin^2(pi/2 j / (M (C_2 + 1))).
    """

    def __init__(self, steps: int = 1000, c1: float = 0.001, c2: float = 0.008):
        super().__init__()
        self.steps = steps
        abar = lambda j: math.sin(math.pi / 2 * j / (steps * (c2 + 1))) ** 2  # noqa: E731
        u = [0.0] * (steps + 1)
        for j in range(steps, 0, -1):
            u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(abar(j - 1) / abar(j), c1) - 1)
        self.levels = torch.tensor(u, dtype=torch.float64)

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        return relation("eps", point)

    def c_in(self, point: Point) -> Scalar:
        return 1 / sqrt(point.alpha**2 + point.sigma**2)

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        rho = torch.exp(-log_snr / 2)
        nearest = (self.levels.to(rho.device) - rho[:, None]).abs().argmin(1)
        return (self.steps - 1 - nearest).double()
