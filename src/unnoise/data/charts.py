"""Charts: in which numbers a table tells points of a manifold, and what its columns are called.

latitude, longitude   degrees; (cos lat cos lon, cos lat sin lon, sin lat) on the sphere
phi, psi              degrees; an angle a is (cos a, sin a) on the torus
w, x, y, z            a rotation's unit quaternion, cos(omega/2) first, then sin(omega/2) times the axis
roll, pitch, yaw      degrees; the rotation R_z(yaw) R_y(pitch) R_x(roll)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..manifolds import Rotations


@dataclass(frozen=True)
class Chart:
    """Tables (n, columns) of numbers in [-limit, limit], as points (n, ambient) of `manifold`: both ways, float64.

    `columns` are their names, each with others that mean the same; `unit` is the norm that a row must have, if any.
    """

    manifold: str
    columns: dict[str, tuple[str, ...]]
    limits: tuple[float, ...]
    to_points: Callable[[Tensor], Tensor]
    to_table: Callable[[Tensor], Tensor]
    unit: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def points(self, table: Tensor) -> Tensor:
        """Points of the rows of a table, float32."""
        return self.to_points(table.double()).float()

    def table(self, points: Tensor) -> Tensor:
        """Back again: latitudes and pitches in [-90, 90], other angles in [-180, 180]."""
        return self.to_table(points.double())


def _place(table: Tensor) -> Tensor:
    a, b = torch.deg2rad(table).unbind(1)
    return torch.stack([a.cos() * b.cos(), a.cos() * b.sin(), a.sin()], 1)


def _of_place(x: Tensor) -> Tensor:
    lat = torch.atan2(x[:, 2], x[:, :2].norm(dim=1))
    return torch.rad2deg(torch.stack([lat, torch.atan2(x[:, 1], x[:, 0])], 1))


def _angles(table: Tensor) -> Tensor:
    a = torch.deg2rad(table)
    return torch.stack([a.cos(), a.sin()], -1).flatten(1)


def _of_angles(x: Tensor) -> Tensor:
    return torch.rad2deg(torch.atan2(x[:, 1::2], x[:, ::2]))


CHARTS = (
    Chart(
        "sphere",
        {"latitude": ("lat",), "longitude": ("lon", "long", "lng")},
        (90.0, 360.0),
        _place,
        _of_place,
    ),
    Chart("torus-2", {"phi": (), "psi": ()}, (360.0, 360.0), _angles, _of_angles),
    Chart(
        "so3",
        {"w": ("qw",), "x": ("qx",), "y": ("qy",), "z": ("qz",)},
        (1.01,) * 4,
        lambda q: Rotations().turned(q / q.norm(dim=1, keepdim=True)),
        lambda x: Rotations().quaternion(x),
        unit=1.0,
    ),
    Chart(
        "so3",
        {"roll": (), "pitch": (), "yaw": ()},
        (360.0,) * 3,
        lambda angles: Rotations().turning(torch.deg2rad(angles)),
        lambda x: torch.rad2deg(Rotations().turns(x)),
    ),
)


def charts(manifold: str | None) -> list[Chart]:
    """The charts of a manifold, first the one in which its points are written; none, if they are written as they are."""
    return [one for one in CHARTS if one.manifold == manifold]
