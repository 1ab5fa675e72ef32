"""The sphere S^d of unit vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..rng import Rng
from .zonal import Zonal


class Sphere(Zonal):
    """S^d in d + 1 coordinates, d of 2 or more (the circle is a torus). Z_n is Gegenbauer's C_n of the order (d - 1)/2."""

    def __init__(self, dim: int = 2):
        if dim < 2:
            raise UsageProblem(f"a sphere of dimension {dim} is not offered; the circle is torus-1")
        self.name, self.dim, self.ambient = "sphere" if dim == 2 else f"sphere-{dim}", dim, dim + 1
        self.log_volume = math.log(2) + self.ambient / 2 * math.log(math.pi) - math.lgamma(self.ambient / 2)
        self.order = (dim - 1) / 2

    def project(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - (x * v).sum(-1, keepdim=True) * x

    def frame(self, x: Tensor) -> Tensor:
        """The axes but the last, reflected as takes the last one to x or to -x."""
        last = torch.eye(self.ambient).to(x)[-1]
        mirror = x + torch.where(x[:, -1:] < 0, -last, last)
        mirror = mirror / mirror.norm(dim=-1, keepdim=True)
        axes = torch.eye(self.ambient).to(x)[:-1, None]
        return axes - 2 * mirror.T[:-1, :, None] * mirror

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        length = v.norm(dim=-1, keepdim=True)
        return self.project(length.cos() * x + torch.sinc(length / math.pi) * v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        way = self.tangent(x, y)
        sine = way.norm(dim=-1, keepdim=True)
        angle = torch.atan2(sine, (x * y).sum(-1, keepdim=True))
        return angle / sine.clamp(min=torch.finfo(x.dtype).tiny) * way

    def uniform(self, rng: Rng) -> Tensor:
        return self.project(rng.normal(self.ambient, dtype=torch.float64))

    def eigenvalue(self, n: Tensor) -> Tensor:
        return n * (n + self.dim - 1)

    def multiplicity(self, n: Tensor) -> Tensor:
        return (2 * n + self.dim - 1) / (self.dim - 1)

    def first(self, c: Tensor) -> tuple[Tensor, float]:
        return 2 * self.order * c, 2 * self.order

    def recurrence(self, n: int) -> tuple[float, float]:
        return 2 * (n + self.order) / (n + 1), (n + 2 * self.order - 1) / (n + 1)

    def sphere_at(self, r: Tensor) -> Tensor:
        return r.sin() ** (self.dim - 1)
