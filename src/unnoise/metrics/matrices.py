"""Feature matrices: one row an example, float64, and squared distances between their rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import UsageProblem

Matrix = Tensor | ArrayLike
CHUNK = 1 << 18  # numbers of a block of pairwise values: 2 MB, what stays in a cache


def matrix(x: Matrix, name: str = "features") -> Tensor:
    """`x` as a float64 tensor (count, dimension); more axes are flattened, a vector is `count` numbers.

    Raises UsageProblem when it is empty or holds a number that is not finite.
    """
    x = torch.as_tensor(x).detach().to("cpu", torch.float64)
    x = x.reshape(len(x), -1) if x.ndim and len(x) else x.reshape(0, 1)
    if x.numel() == 0:
        raise UsageProblem(f"{name} is empty: give at least one row")
    if not torch.isfinite(x).all():
        raise UsageProblem(f"{name} holds numbers that are not finite: drop those rows first")
    return x


def pair(x: Matrix, y: Matrix) -> tuple[Tensor, Tensor]:
    """Both as matrices of the same dimension; UsageProblem otherwise."""
    x, y = matrix(x, "x"), matrix(y, "y")
    if x.shape[1] != y.shape[1]:
        raise UsageProblem(f"features must have one dimension: x has {x.shape[1]} columns, y has {y.shape[1]}")
    return x, y


def blocks(x: Tensor, width: int) -> Iterator[Tensor]:
    """Rows of `x` in runs, such that a run times `width` columns fits in memory."""
    return iter(x.split(max(1, CHUNK // max(1, width))))


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, (n, m), by one matrix product: fast, and off by about 1e-16 |x||y|."""
    squares = torch.addmm((y * y).sum(1), x, y.T, alpha=-2)
    return squares.add_((x * x).sum(1)[:, None]).clamp_min_(0)
