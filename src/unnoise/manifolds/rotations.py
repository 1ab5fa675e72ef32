r"""SO(3), the rotations of space, whose distance is the angle of the rotation between two.

A rotation R is kept as its nine numbers divided by sqrt 2: |R A|^2 = 2 |omega|^2 for an antisymmetric A of the vector omega, so
that the embedding is isometric, and the volume is 8 pi^2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..rng import Rng
from .base import as_times
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


def times(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product, as a sum of products: what computes networks in half precision leaves it whole."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def product(p: Tensor, q: Tensor) -> Tensor:
    """Of quaternions (..., 4): the rotation q, then p."""
    a, u, b, v = p[..., :1], p[..., 1:], q[..., :1], q[..., 1:]
    return torch.cat([a * b - (u * v).sum(-1, keepdim=True), a * v + b * u + torch.linalg.cross(u, v)], -1)


class Rotations(Zonal):
    """SO(3). Z_l is the character sin((l + 1/2) omega) / sin(omega / 2), c the cosine of omega."""

    name, dim, ambient, log_volume, shift = "so3", 3, 9, math.log(8 * math.pi**2), -0.5

    def matrix(self, x: Tensor) -> Tensor:
        """R, (..., 3, 3)."""
        return x.unflatten(-1, (3, 3)) * ROOT

    def point(self, matrix: Tensor) -> Tensor:
        """The nine coordinates of a rotation matrix (..., 3, 3)."""
        return matrix.flatten(-2) / ROOT

    def turned(self, q: Tensor) -> Tensor:
        """The point of a unit quaternion (..., 4), its real part first: cos(omega/2), and sin(omega/2) times the axis."""
        axis = hat(q[..., 1:])
        return self.point(torch.eye(3).to(q) + 2 * q[..., :1, None] * axis + 2 * times(axis, axis))

    def quaternion(self, x: Tensor) -> Tensor:
        """Back again, (..., 4), the first number that is not 0 positive: the largest row of 4 q q^T, which is linear in R."""
        r = self.matrix(x)
        a, b, c = r.diagonal(dim1=-2, dim2=-1).unbind(-1)
        odd = 2 * vee(r)
        even = (r + r.mT)[..., [2, 0, 1], [1, 2, 0]]  # of yz, zx, xy
        p, q, s = even.unbind(-1)
        rows = [
            torch.stack([1 + a + b + c, *odd.unbind(-1)], -1),
            torch.stack([odd[..., 0], 1 + a - b - c, s, q], -1),
            torch.stack([odd[..., 1], s, 1 - a + b - c, p], -1),
            torch.stack([odd[..., 2], q, p, 1 - a - b + c], -1),
        ]
        outer = torch.stack(rows, -2)
        best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
        row = outer.gather(-2, best.expand(*best.shape[:-1], 4)).squeeze(-2)
        return row / row.norm(dim=-1, keepdim=True) * torch.where(row[..., :1] < 0, -1, 1)

    def turns(self, x: Tensor) -> Tensor:
        """The angles (..., 3) with R = R_z(yaw) R_y(pitch) R_x(roll): roll, pitch in [-pi/2, pi/2], yaw (Tait and Bryan's)."""
        r = self.matrix(x)
        pitch = torch.atan2(-r[..., 2, 0], r[..., :2, 0].norm(dim=-1))
        roll, yaw = torch.atan2(r[..., 2, 1], r[..., 2, 2]), torch.atan2(r[..., 1, 0], r[..., 0, 0])
        return torch.stack([roll, pitch, yaw], -1)

    def turning(self, angles: Tensor) -> Tensor:
        """The point of these angles."""
        roll, pitch, yaw = (
            self.matrix(self.exp(self.point(torch.eye(3).to(angles)), self.point(hat(a))))
            for a in (angles[..., None] * torch.eye(3).to(angles)).unbind(-2)
        )
        return self.point(times(times(yaw, pitch), roll))

    def project(self, x: Tensor) -> Tensor:
        u, _, vh = torch.linalg.svd(self.matrix(x))
        signs = torch.ones_like(x[..., :3])
        signs[..., 2] = torch.linalg.det(times(u, vh)).sign()
        return self.point(times(u * signs[..., None, :], vh))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        r = self.matrix(x)
        spin = times(r.mT, v.unflatten(-1, (3, 3)))
        return times(r, (spin - spin.mT) / 2).flatten(-2)

    def frame(self, x: Tensor) -> Tensor:
        return self.point(times(self.matrix(x), hat(torch.eye(3).to(x))[:, None]))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        r = self.matrix(x)
        w = vee(times(r.mT, self.matrix(v)))
        angle = w.norm(dim=-1)[..., None, None]
        a = hat(w)
        turn = torch.eye(3).to(x) + torch.sinc(angle / math.pi) * a
        turn = turn + torch.sinc(angle / (2 * math.pi)).square() / 2 * times(a, a)
        r = times(r, turn)
        return self.point(times(r, 3 * torch.eye(3).to(x) - times(r.mT, r)) / 2)  # a step of Newton's, back to det = 1

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        r = self.matrix(x)
        q = self.quaternion(self.point(times(r.mT, self.matrix(y))))  # which keeps its digits near half a turn
        sine = q[..., 1:].norm(dim=-1, keepdim=True)
        angle = 2 * torch.atan2(sine, q[..., :1])
        return self.point(times(r, hat(angle / sine.clamp(min=torch.finfo(x.dtype).tiny) * q[..., 1:])))

    def uniform(self, rng: Rng) -> Tensor:
        q = rng.normal(4, dtype=torch.float64)  # a quaternion
        return self.turned(q / q.norm(dim=-1, keepdim=True))

    def walk(self, x: Tensor, tau: Tensor | float, rng: Rng, steps: int) -> Tensor:
        """Brownian motion by a walk of so many steps. A step turns by the same law wherever it begins, so all are made at once,
        as quaternions, and multiplied in pairs."""
        if not steps:
            return x
        w = (as_times(tau, x) / steps).sqrt()[:, None, None] * rng.normal(steps, 3, dtype=torch.float64).to(x.device)
        half = w.norm(dim=-1, keepdim=True) / 2
        q = torch.cat([half.cos(), torch.sinc(half / math.pi) / 2 * w], -1)
        while q.shape[1] > 1:
            pairs, left = q.shape[1] // 2, q[:, q.shape[1] // 2 * 2 :]
            q = torch.cat([product(q[:, : 2 * pairs : 2], q[:, 1 : 2 * pairs : 2]), left], 1)
        return self.point(times(self.matrix(x), self.matrix(self.turned(q[:, 0])).to(x.dtype)))

    def eigenvalue(self, n: Tensor) -> Tensor:
        return n * (n + 1)

    def multiplicity(self, n: Tensor) -> Tensor:
        return 2 * n + 1

    def first(self, c: Tensor) -> tuple[Tensor, float]:
        return 1 + 2 * c, 2.0

    def recurrence(self, n: int) -> tuple[float, float]:
        return 2.0, 1.0

    def sphere_at(self, r: Tensor) -> Tensor:
        return (2 * (r / 2).sin()) ** 2
