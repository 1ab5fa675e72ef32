r"""What every manifold offers: compact, embedded isometrically, so that its metric is the inner product of the space around it.

Points are rows x (batch, ambient); tangent vectors are rows of the same space, and their norm is the plain one. For a field V
with any smooth extension to the space around, div V = tr(P_x dV/dx P_x), P_x the projection on the tangent space.

Brownian motion has the generator Laplace-Beltrami / 2. Its law after a time tau, the heat kernel, is a series of the
eigenfunctions phi_j, each weighted with exp(-lambda_j tau / 2), and near tau = 0 follows Varadhan:

    p(x | x_0) ~ (2 pi tau)^{-d/2} exp(-distance^2 / (2 tau)),      grad_x log p ~ log_x(x_0) / tau
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..rng import Rng

THRESHOLD, TERMS = 0.1, 25
"""The time below which Varadhan's limit takes over from the series, and the terms of that."""
DEPTH = 20.0
"""How many nats below its peak a series still keeps its digits in 64 bits."""


class Heat(NamedTuple):
    """The heat kernel between points: log density, nats (batch,), and its gradient in x, (batch, ambient); float64."""

    log_prob: Tensor
    score: Tensor


def as_times(tau: Tensor | float, x: Tensor) -> Tensor:
    """One time for each row of x, float64 (batch,)."""
    return torch.as_tensor(tau, dtype=torch.float64, device=x.device).expand(len(x))


class Manifold:
    """name, dim d, ambient (numbers of a point), log_volume (of the Riemannian measure)."""

    name: str
    dim: int
    ambient: int
    log_volume: float

    def project(self, x: Tensor) -> Tensor:
        """The nearest point."""
        raise NotImplementedError

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """P_x v."""
        raise NotImplementedError

    def frame(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors at each point, (dim, batch, ambient)."""
        raise NotImplementedError

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Where the geodesic from x with velocity v is after a unit of time."""
        raise NotImplementedError

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The velocity at x of the shortest geodesic to y: exp_x's inverse, but for the cut locus."""
        raise NotImplementedError

    def uniform(self, rng: Rng) -> Tensor:
        """A point for each example, by the Riemannian measure: float64 (len(rng), ambient)."""
        raise NotImplementedError

    def series(self, x: Tensor, x0: Tensor, tau: Tensor | float, terms: int = TERMS) -> Heat:
        """The heat kernel by its first `terms` eigenvalues; not a number where their sum is not positive."""
        raise NotImplementedError

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of the shortest geodesic, (batch,)."""
        return self.log(x, y).norm(dim=-1)

    def varadhan(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Heat:
        """The heat kernel's limit for small times."""
        way, times = self.log(x.double(), x0.double()), as_times(tau, x)
        log_prob = -way.square().sum(-1) / (2 * times) - self.dim / 2 * (2 * math.pi * times).log()
        return Heat(log_prob, way / times[:, None])

    def heat(
        self, x: Tensor, x0: Tensor, tau: Tensor | float, threshold: float = THRESHOLD, terms: int = TERMS
    ) -> Heat:
        """The series for tau > threshold, Varadhan's limit below, and where the series has lost its digits."""
        times = as_times(tau, x)
        far, near = self.series(x, x0, times, terms), self.varadhan(x, x0, times)
        peak = -self.dim / 2 * (2 * math.pi * times).log()
        holds = (times > threshold) & (far.log_prob > peak - DEPTH)  # a NaN holds nowhere
        return Heat(torch.where(holds, far.log_prob, near.log_prob), torch.where(holds[:, None], far.score, near.score))

    def walk(self, x: Tensor, tau: Tensor | float, rng: Rng, steps: int) -> Tensor:
        """Brownian motion after a time tau, by a geodesic random walk of so many steps: weak error O(1 / steps)."""
        scale = (as_times(tau, x) / steps).sqrt().to(x.dtype)[:, None]
        for z in rng.normal(steps, self.ambient, dtype=x.dtype).to(x.device).unbind(1):
            x = self.exp(x, scale * self.tangent(x, z))
        return x


def divergence(
    manifold: Manifold, field: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """V(x) and its divergence (batch,): the sum over directions (count, batch, ambient) of (P z)^T dV/dx (P z).

    Exact along a frame (`Manifold.frame`); for random z with E[z z^T] = 1, its mean is the divergence (Hutchinson).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = field(x)
        total = torch.zeros(len(x), dtype=values.dtype, device=x.device)
        for i, z in enumerate(directions):
            along = manifold.tangent(x.detach(), z.expand_as(x))
            keep = create_graph or i + 1 < len(directions)
            (pulled,) = torch.autograd.grad(values, x, along, keep, create_graph, materialize_grads=True)
            total = total + (pulled * along).sum(-1)
    return (values if create_graph else values.detach()), total
