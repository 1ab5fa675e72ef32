r"""Manifolds whose heat kernel is a function of one cosine: its eigenfunctions' sums obey a recurrence of three terms.

Summed over the eigenfunctions of one eigenvalue, phi_j(x_0) phi_j(x) = m_n Z_n(c) / volume, with Z_0 = 1 and

    Z_{n+1} = (a_n c) Z_n - b_n Z_{n-1}

The cosine is c = <x, x_0> + shift, so the gradient in x of any f(c) is f'(c) P_x x_0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rng import Rng
from .base import TERMS, Heat, Manifold, as_times


class Zonal(Manifold):
    """shift; and of degree n: eigenvalue(n), multiplicity(n) = m_n, first(c) = Z_1 and its slope, and recurrence(n) = a_n, b_n."""

    shift: float = 0.0

    def eigenvalue(self, n: Tensor) -> Tensor:
        raise NotImplementedError

    def multiplicity(self, n: Tensor) -> Tensor:
        raise NotImplementedError

    def first(self, c: Tensor) -> tuple[Tensor, float]:
        raise NotImplementedError

    def recurrence(self, n: int) -> tuple[float, float]:
        raise NotImplementedError

    def sphere_at(self, r: Tensor) -> Tensor:
        """The area of the points at a distance r, in 0..pi, over that of a unit sphere: r^(d - 1) near 0."""
        raise NotImplementedError

    def cosine(self, x: Tensor, x0: Tensor) -> Tensor:
        """c, float64."""
        return (x.double() * x0.double()).sum(-1) + self.shift

    def sum(self, c: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """f(c) = sum_n spectrum_n m_n Z_n(c) and f'(c), for spectrum (..., terms) that broadcasts against c."""
        n = torch.arange(spectrum.shape[-1], dtype=torch.float64, device=c.device)
        weights = (spectrum * self.multiplicity(n)).unbind(-1)
        before, dbefore = torch.ones_like(c), torch.zeros_like(c)
        now, slope = self.first(c)
        dnow = torch.full_like(c, slope)
        value, derivative = weights[0] * before, torch.zeros_like(c)
        for i, weight in enumerate(weights[1:], 1):
            value, derivative = value + weight * now, derivative + weight * dnow
            a, b = self.recurrence(i)
            now, before, dnow, dbefore = a * c * now - b * before, now, a * (now + c * dnow) - b * dbefore, dnow
        return value, derivative

    def spectrum(self, tau: Tensor, terms: int) -> Tensor:
        """exp(-lambda_n tau / 2), (batch, terms): what Brownian motion leaves of each degree."""
        n = torch.arange(terms, dtype=torch.float64, device=tau.device)
        return torch.exp(-self.eigenvalue(n) * tau[:, None] / 2)

    def series(self, x: Tensor, x0: Tensor, tau: Tensor | float, terms: int = TERMS) -> Heat:
        value, slope = self.sum(self.cosine(x, x0), self.spectrum(as_times(tau, x), terms))
        score = (slope / value)[:, None] * self.tangent(x.double(), x0.double())
        return Heat(value.log() - self.log_volume, score)

    def at_distance(self, centre: Tensor, r: Tensor, rng: Rng) -> Tensor:
        """Points at distances r, (batch,), from the centres, in directions drawn evenly."""
        way = self.tangent(centre, rng.normal_like(centre))
        return self.exp(centre, r[:, None] * way / way.norm(dim=-1, keepdim=True))

    def quantile(self, spectrum: Tensor, u: Tensor, points: int = 4096) -> Tensor:
        """The distance from x_0 below which the law with density f(c) / volume has the mass u, for each u (batch,) float64."""
        r = torch.linspace(0, math.pi, points + 1, dtype=torch.float64)
        mass = self.sum(r.cos(), spectrum)[0].clamp(min=0) * self.sphere_at(r)
        below = torch.cat([torch.zeros(1, dtype=torch.float64), (mass[1:] + mass[:-1]).cumsum(0)])
        below = below / below[-1]
        i = torch.searchsorted(below, u, right=True).clamp(1, points) - 1
        return r[i] + (r[1] - r[0]) * ((u - below[i]) / (below[i + 1] - below[i]).clamp(min=1e-300)).clamp(0, 1)
