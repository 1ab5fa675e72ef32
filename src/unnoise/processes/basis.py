"""Orthonormal bases in which a Gaussian process may have one signal and noise coefficient per coordinate."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache

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


@lru_cache
def _cosines(n: int) -> Tensor:
    """The orthogonal matrix of the DCT-II, float64 (n, n): row k is the cosine of frequency k."""
    i = torch.arange(n, dtype=torch.float64, device="cpu")
    k = i[:, None]
    matrix = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


class DCT(Basis):
    """The orthonormal two-dimensional cosine transform (DCT-II) over the last two axes, in the precision of its input.

    Autocast, which is for networks, is kept out: the state would be rounded to bfloat16 at every step of a sampler.
    """

    def _turn(self, x: Tensor, back: bool) -> Tensor:
        kind = x.device.type
        whole = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        rows, columns = (_cosines(n).to(x) for n in x.shape[-2:])
        with whole:
            return rows.T @ x @ columns if back else rows @ x @ columns.T

    def forward(self, x: Tensor) -> Tensor:
        return self._turn(x, back=False)

    def inverse(self, u: Tensor) -> Tensor:
        return self._turn(u, back=True)
