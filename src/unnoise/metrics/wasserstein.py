"""Sliced Wasserstein-2: optimal transport in one dimension is sorting, so look along many lines.

    SW2(p, q)^2 = E_u  W2(u.p, u.q)^2,  u uniform on the unit sphere,      W2(a, b)^2 = int_0^1 (F_a^-1 - F_b^-1)^2

The quantile function of n numbers is a staircase with n steps; that of m numbers has m. On the union of their steps
both are constant, so the integral is a finite sum, exact for any two counts.

References: Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing"; Bonneel et al. 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unnoise.metrics.matrices import Matrix, pair
from unnoise.rng import stream


def quantile_steps(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The common steps of two staircases: their widths, and which of the n and of the m sorted values each step meets.

    The edges i/n and j/m are held as integers i m and j n over n m, so that equal edges are equal.
    """
    edges = torch.cat([torch.arange(n + 1) * m, torch.arange(1, m) * n]).unique()
    start = edges[:-1]
    return edges.diff().to(torch.float64) / (n * m), start // m, start // n


def transport_1d(x: Tensor, y: Tensor) -> Tensor:
    """W2^2 between the columns of `x` (n, lines) and `y` (m, lines), both sorted down the columns; (lines,)."""
    if len(x) == len(y):
        return (x - y).square().mean(0)
    width, i, j = quantile_steps(len(x), len(y))
    return width @ (x[i] - y[j]).square()


def directions(dimension: int, projections: int, generator: torch.Generator) -> Tensor:
    """Unit vectors, uniform on the sphere, as columns (dimension, projections)."""
    u = torch.randn(dimension, projections, generator=generator, dtype=torch.float64)
    return u / u.norm(dim=0)


def sliced_wasserstein(
    x: Matrix, y: Matrix, projections: int = 256, *, seed: int = 0, generator: torch.Generator | None = None
) -> float:
    """SW2, the root of the mean over `projections` random lines of W2^2, in the units of the features.

    The lines come from `generator`, or from `seed`. In one dimension a single line is exact: W2 itself.
    Raises UsageProblem when the two have different dimensions or one is empty.
    """
    x, y = pair(x, y)
    lines = directions(x.shape[1], 1 if x.shape[1] == 1 else projections, generator or stream(seed))
    return transport_1d((x @ lines).sort(0).values, (y @ lines).sort(0).values).mean().sqrt().item()
