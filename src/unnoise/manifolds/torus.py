r"""The torus T^n, a product of n circles: the angle a is kept as (cos a, sin a).

Its heat kernel is the product over circles of the wrapped normal, the sum of the normal law's images delta + 2 pi k, or what is
the same by Poisson's formula, (1 + 2 sum_n exp(-n^2 tau/2) cos(n delta)) / (2 pi). It is sampled exactly: a <- a + sqrt(tau) z.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..rng import Rng
from .base import TERMS, THRESHOLD, Heat, Manifold, as_times

TURN = 2 * math.pi
IMAGES = 4
LONG = 2 * math.pi
"""Up to this time `IMAGES` images a side are exact to 1e-15; beyond it five terms of the series are."""


class Torus(Manifold):
    """T^n in 2n coordinates."""

    def __init__(self, dim: int = 2):
        if dim < 1:
            raise UsageProblem(f"a torus has 1 circle or more, not {dim}")
        self.name, self.dim, self.ambient, self.log_volume = f"torus-{dim}", dim, 2 * dim, dim * math.log(TURN)

    def angles(self, x: Tensor) -> Tensor:
        """(..., n), in [-pi, pi]."""
        pairs = x.unflatten(-1, (-1, 2))
        return torch.atan2(pairs[..., 1], pairs[..., 0])

    def point(self, angles: Tensor) -> Tensor:
        return torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)

    def _forward(self, x: Tensor) -> Tensor:
        """The unit vectors along growing angles, (..., n, 2)."""
        pairs = x.unflatten(-1, (-1, 2))
        return torch.stack([-pairs[..., 1], pairs[..., 0]], -1)

    def speeds(self, x: Tensor, v: Tensor) -> Tensor:
        """The rates of the angles of a tangent vector, (..., n)."""
        return (self._forward(x) * v.unflatten(-1, (-1, 2))).sum(-1)

    def vector(self, x: Tensor, speeds: Tensor) -> Tensor:
        """The tangent vector of these rates."""
        return (self._forward(x) * speeds[..., None]).flatten(-2)

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """The angles from x to y, in [-pi, pi]."""
        a, b = x.unflatten(-1, (-1, 2)), y.unflatten(-1, (-1, 2))
        return torch.atan2(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0], (a * b).sum(-1))

    def project(self, x: Tensor) -> Tensor:
        pairs = x.unflatten(-1, (-1, 2))
        return (pairs / pairs.norm(dim=-1, keepdim=True)).flatten(-2)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.vector(x, self.speeds(x, v))

    def frame(self, x: Tensor) -> Tensor:
        return (torch.eye(self.dim).to(x)[:, None, :, None] * self._forward(x)).flatten(2)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        turn = self.speeds(x, v)[..., None]
        return self.project((turn.cos() * x.unflatten(-1, (-1, 2)) + turn.sin() * self._forward(x)).flatten(-2))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.vector(x, self.between(x, y))

    def uniform(self, rng: Rng) -> Tensor:
        return self.point(TURN * rng.uniform(self.dim))

    def series(self, x: Tensor, x0: Tensor, tau: Tensor | float, terms: int = TERMS) -> Heat:
        delta, times = self.between(x0.double(), x.double())[..., None], as_times(tau, x)[:, None, None]
        n = torch.arange(1, terms, dtype=torch.float64, device=x.device)
        weight = 2 * torch.exp(-n * n * times / 2)
        density = 1 + (weight * (n * delta).cos()).sum(-1)
        slope = -(n * weight * (n * delta).sin()).sum(-1)
        return Heat(density.log().sum(-1) - self.log_volume, self.vector(x.double(), slope / density))

    def images(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Heat:
        """The heat kernel as a wrapped normal."""
        delta, times = self.between(x0.double(), x.double())[..., None], as_times(tau, x)[:, None, None]
        away = delta + TURN * torch.arange(-IMAGES, IMAGES + 1, dtype=torch.float64, device=x.device)
        exponent = -away.square() / (2 * times)
        log_prob = torch.logsumexp(exponent, -1) - 0.5 * (TURN * times[..., 0]).log()
        slope = (torch.softmax(exponent, -1) * -away / times).sum(-1)
        return Heat(log_prob.sum(-1), self.vector(x.double(), slope))

    def heat(
        self, x: Tensor, x0: Tensor, tau: Tensor | float, threshold: float = THRESHOLD, terms: int = TERMS
    ) -> Heat:
        """The wrapped normal: exact at all times, whatever the threshold."""
        times = as_times(tau, x)
        near, far, late = self.images(x, x0, times), self.series(x, x0, times.clamp(min=LONG)), times > LONG
        return Heat(torch.where(late, far.log_prob, near.log_prob), torch.where(late[:, None], far.score, near.score))

    def walk(self, x: Tensor, tau: Tensor | float, rng: Rng, steps: int) -> Tensor:
        """Brownian motion, exactly, in one step."""
        turn = as_times(tau, x).sqrt()[:, None] * rng.normal(self.dim, dtype=torch.float64).to(x.device)
        return self.exp(x, self.vector(x, turn.to(x.dtype)))
