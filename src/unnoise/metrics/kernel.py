"""Kernel distance: the squared maximum mean discrepancy, estimated without bias.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   x, x' ~ p,  y, y' ~ q  independent

The estimate leaves out the pairs of an example with itself, so its mean is MMD^2 at any count, and it can be negative.
With the cubic kernel on Inception features it is called KID.

References: Gretton et al. 2012 (eq. 3); Binkowski et al. 2018, "Demystifying MMD GANs".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageProblem
from .matrices import Matrix, blocks, matrix, pair, squared_distances

Kernel = Callable[[Tensor, Tensor], Tensor]


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x.y / d + 1)^3, the kernel of KID; (n, m)."""
    k = torch.addmm(torch.ones((), dtype=x.dtype), x, y.T, alpha=1 / x.shape[1])
    return k.pow_(3)


@dataclass(frozen=True)
class RBF:
    """k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)); the bandwidth is in the units of the features."""

    bandwidth: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return squared_distances(x, y).mul_(-0.5 / self.bandwidth**2).exp_()


def median_bandwidth(x: Matrix, limit: int = 1000) -> float:
    """The usual choice for `RBF`: the median distance between the first `limit` examples."""
    x = matrix(x)[:limit]
    if len(x) < 2 or (median := torch.pdist(x).median().item()) == 0:
        raise UsageProblem("no bandwidth from these features: give at least two examples that differ")
    return median


def row_means(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """The mean over j of k(x_i, y_j), (n,)."""
    return torch.cat([kernel(block, y).mean(1) for block in blocks(x, len(y))])


def mean_of_pairs(x: Tensor, kernel: Kernel) -> float:
    """The mean of k(x_i, x_j) over i != j."""
    if len(x) < 2:
        raise UsageProblem("a kernel distance needs at least 2 examples on each side")
    upper, start = 0.0, 0
    for block in blocks(x, len(x)):
        k = kernel(block, x[start:])
        upper, start = upper + k.triu_(1).sum().item(), start + len(block)  # i < j: the block's own corner comes first
    return 2 * upper / (len(x) * (len(x) - 1))


def kernel_distance(x: Matrix, y: Matrix, kernel: Kernel = cubic) -> float:
    """The unbiased estimate of MMD^2 between features (n, d) and (m, d), over all pairs (no random subsets).

    `kernel` maps (n, d), (m, d) to (n, m): `cubic` for KID, `RBF(bandwidth)` for a Gaussian kernel.
    Raises UsageProblem when the dimensions differ or a side has fewer than two examples.
    """
    x, y = pair(x, y)
    return mean_of_pairs(x, kernel) + mean_of_pairs(y, kernel) - 2 * row_means(x, y, kernel).mean().item()
