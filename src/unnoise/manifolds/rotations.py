r"""SO(3), the rotations of space, whose distance is the angle of the rotation between two.

A rotation R is kept as its nine numbers divided by sqrt 2: |R A|^2 = 2 |omega|^2 for an antisymmetric A of the vector omega, so
that the embedding is isometric, and the volume is 8 pi^2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rng import Rng
from .zonal import Zonal

ROOT = math.sqrt(2)


def hat(w: Tensor) -> Tensor:
    """The antisymmetric matrix A with A u = w x u."""
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def vee(matrix: Tensor) -> Tensor:
    """The vector of the antisymmetric part."""
    m = (matrix - matrix.mT) / 2
    return torch.stack([m[..., 2, 1], m[..., 0, 2], m[..., 1, 0]], -1)


class Rotations(Zonal):
    """SO(3). Z_l is the character sin((l + 1/2) omega) / sin(omega / 2), c the cosine of omega."""

    name, dim, ambient, log_volume, shift = "so3", 3, 9, math.log(8 * math.pi**2), -0.5

    def matrix(self, x: Tensor) -> Tensor:
        """R, (..., 3, 3)."""
        return x.unflatten(-1, (3, 3)) * ROOT

    def point(self, matrix: Tensor) -> Tensor:
        """The nine coordinates of a rotation matrix (..., 3, 3)."""
        return matrix.flatten(-2) / ROOT

    def project(self, x: Tensor) -> Tensor:
        u, _, vh = torch.linalg.svd(self.matrix(x))
        signs = torch.ones_like(x[..., :3])
        signs[..., 2] = torch.linalg.det(u @ vh).sign()
        return self.point(u * signs[..., None, :] @ vh)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        r = self.matrix(x)
        spin = r.mT @ v.unflatten(-1, (3, 3))
        return (r @ ((spin - spin.mT) / 2)).flatten(-2)

    def frame(self, x: Tensor) -> Tensor:
        return self.point(self.matrix(x) @ hat(torch.eye(3).to(x))[:, None])

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        r = self.matrix(x)
        w = vee(r.mT @ self.matrix(v))
        angle = w.norm(dim=-1)[..., None, None]
        a = hat(w)
        turn = torch.eye(3).to(x) + torch.sinc(angle / math.pi) * a
        turn = turn + torch.sinc(angle / (2 * math.pi)).square() / 2 * a @ a
        r = r @ turn
        return self.point(r @ (3 * torch.eye(3).to(x) - r.mT @ r) / 2)  # a step of Newton's, back to det = 1

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        r = self.matrix(x)
        between = r.mT @ self.matrix(y)
        w = vee(between)  # the axis, as long as the sine of the angle
        sine = w.norm(dim=-1, keepdim=True)
        angle = torch.atan2(sine, (between.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2)
        return self.point(r @ hat(angle / sine.clamp(min=torch.finfo(x.dtype).tiny) * w))

    def uniform(self, rng: Rng) -> Tensor:
        q = rng.normal(4, dtype=torch.float64)  # a quaternion
        q = q / q.norm(dim=-1, keepdim=True)
        axis = hat(q[:, 1:])
        return self.point(torch.eye(3).to(q) + 2 * q[:, :1, None] * axis + 2 * axis @ axis)

    def eigenvalue(self, n: Tensor) -> Tensor:
        return n * (n + 1)

    def multiplicity(self, n: Tensor) -> Tensor:
        return 2 * n + 1

    def first(self, c: Tensor) -> tuple[Tensor, float]:
        return 1 + 2 * c, 2.0

    def recurrence(self, n: int) -> tuple[float, float]:
        return 2.0, 1.0

    def sphere_at(self, r: Tensor) -> Tensor:
        return (r / 2).sin() ** 2
