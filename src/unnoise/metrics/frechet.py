"""Frechet distance: W2^2 between the two Gaussians that have the features' means and covariances.

    d^2 = |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1^1/2 C2 C1^1/2)^1/2

With symmetric roots R1, R2 of the covariances the last trace is the sum of the singular values of R1 R2. That form
takes no root of a product of matrices, is real, and is right when a covariance is singular (fewer examples than
dimensions).

References: Dowson and Landau 1982; Heusel et al. 2017 (there on Inception features: "FID").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import UsageProblem
from .matrices import Matrix, matrix


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of features; `count` is how many examples they come from, 0 for a law itself."""

    mean: Tensor
    cov: Tensor
    count: int = 0

    @classmethod
    def of(cls, x: Matrix) -> Moments:
        """The sample mean and the unbiased sample covariance (divided by n - 1); UsageProblem below two rows."""
        x = matrix(x)
        if len(x) < 2:
            raise UsageProblem("a covariance needs at least 2 examples, but there is 1")
        centred = x - x.mean(0)
        return cls(x.mean(0), centred.T @ centred / (len(x) - 1), len(x))

    @classmethod
    def known(cls, mean: Matrix, cov: Matrix) -> Moments:
        """From a mean and a covariance computed elsewhere."""
        mean, cov = (torch.as_tensor(a).to(torch.float64) for a in (mean, cov))
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise UsageProblem(f"statistics must be (d,) and (d, d), not {tuple(mean.shape)} and {tuple(cov.shape)}")
        return cls(mean, (cov + cov.T) / 2)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric root of the covariance; eigenvalues that are zero up to rounding are taken as zero."""
        values, vectors = torch.linalg.eigh(self.cov)
        rounding = values[-1].abs() * len(values) * torch.finfo(values.dtype).eps
        return vectors * torch.where(values > rounding, values, 0.0).sqrt() @ vectors.T


def frechet_distance(x: Matrix | Moments, y: Matrix | Moments) -> float:
    """d^2 above, in squared units of the features, between features (n, d) or `Moments` of them.

    From samples it is biased upwards, by an amount that falls as 1/n: compare at equal counts only.
    Raises UsageProblem when the dimensions differ or a side has fewer than two examples.
    """
    a, b = (side if isinstance(side, Moments) else Moments.of(side) for side in (x, y))
    if a.mean.shape != b.mean.shape:
        raise UsageProblem(f"features must have one dimension: {len(a.mean)} and {len(b.mean)} were given")
    cross = torch.linalg.svdvals(a.root @ b.root).sum()
    squared = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    return squared.clamp_min(0).item()
