"""Orthonormal bases in which a Gaussian process may have one signal and noise coefficient per coordinate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Basis(nn.Module):
    """An orthonormal change of coordinates: lengths, white noise and densities are the same in both."""

    def forward(self, x: Tensor) -> Tensor:
        """Data to coordinates."""
        raise NotImplementedError

    def inverse(self, u: Tensor) -> Tensor:
        """Coordinates to data."""
        raise NotImplementedError


class Identity(Basis):
    """No change."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, u: Tensor) -> Tensor:
        return u


class DCT(Basis):
    """The orthonormal two-dimensional cosine transform (DCT-II) over the last two axes."""

    def _matrix(self, n: int, like: Tensor) -> Tensor:
        k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
        matrix = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
        matrix[0] /= math.sqrt(2)
        return matrix.to(like)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self._matrix(n, x) for n in x.shape[-2:])
        return rows @ x @ columns.T

    def inverse(self, u: Tensor) -> Tensor:
        rows, columns = (self._matrix(n, u) for n in u.shape[-2:])
        return rows.T @ u @ columns
