r"""Mixtures of von Mises and Fisher's laws, fitted by expectation and maximisation: what models of points are measured against.

    p(x) = sum_k w_k prod_f C(kappa_kf) exp(kappa_kf <x_f, m_kf>)

over the factors f of a sphere (one, of three coordinates) or of a torus (each circle one, of two). With the mean resultant
r of a component's share, kappa ~ r (D - r^2) / (1 - r^2) for factors of D coordinates (Banerjee et al. 2005, JMLR 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..rng import stream

MOST = 1e5
"""The largest kappa: a component on one place alone would have no bound."""


def log_normaliser(kappa: Tensor, coordinates: int) -> Tensor:
    """log of C(kappa) exp(kappa): the height of the law at its centre."""
    if coordinates == 2:
        return -math.log(2 * math.pi) - torch.special.i0e(kappa).log()
    return kappa.log() - math.log(2 * math.pi) - torch.log(-torch.expm1(-2 * kappa))


def factors(x: Tensor, manifold: str) -> Tensor:
    """Points (n, ambient) as (n, factors, coordinates of each), float64."""
    if manifold == "sphere":
        return x.double()[:, None]
    if manifold.startswith("torus-"):
        return x.double().unflatten(1, (-1, 2))
    raise UsageProblem(f"mixtures of directions are for the sphere and the torus, not for {manifold}")


@dataclass(frozen=True)
class Directions:
    """weights (K,), centres (K, factors, coordinates), kappas (K, factors)."""

    manifold: str
    weights: Tensor
    centres: Tensor
    kappas: Tensor

    def joint(self, x: Tensor) -> Tensor:
        """log of w_k p_k(x), (n, K), of points (n, factors, coordinates)."""
        along = torch.einsum("nfd,kfd->nkf", x, self.centres) - 1
        height = log_normaliser(self.kappas, x.shape[2])
        return (along * self.kappas + height).sum(2) + self.weights.log()

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats by the Riemannian measure, (n,), of points (n, ambient)."""
        return torch.cat([torch.logsumexp(self.joint(factors(part, self.manifold)), 1) for part in x.split(1024)])

    @classmethod
    def around(cls, x: Tensor, manifold: str, kappa: float) -> Directions:
        """The kernel density estimate: one component on each of the points, all as narrow."""
        centres = factors(x, manifold)
        even = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
        return cls(manifold, even, centres, torch.full(centres.shape[:2], kappa, dtype=torch.float64))

    @classmethod
    def fit(cls, x: Tensor, manifold: str, count: int, iterations: int = 60, seed: int = 0) -> Directions:
        """`count` components, from as many of the points at random."""
        data = factors(x, manifold)
        chosen = torch.randperm(len(x), generator=stream(seed, count))[:count]
        found = cls.around(x[chosen], manifold, 10.0)
        for _ in range(iterations):
            shares = torch.softmax(found.joint(data), 1)
            mass = shares.sum(0)
            pulled = torch.einsum("nk,nfd->kfd", shares, data) / mass.clamp(min=1e-12)[:, None, None]
            r = pulled.norm(dim=2).clamp(max=1 - 1e-9)
            kappas = (r * (data.shape[2] - r**2) / (1 - r**2)).clamp(1e-3, MOST)
            found = cls(manifold, (mass / len(x)).clamp(min=1e-12), pulled / r.clamp(min=1e-12)[..., None], kappas)
        return found
