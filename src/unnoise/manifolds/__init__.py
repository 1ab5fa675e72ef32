"""Manifolds: where points lie. Spheres, tori, rotations; each embedded isometrically."""

from __future__ import annotations

from functools import cache

from ..errors import UsageProblem
from .base import Heat, Manifold, divergence
from .rotations import Rotations
from .sphere import Sphere
from .torus import Torus
from .zonal import Zonal

__all__ = ["Heat", "Manifold", "Rotations", "Sphere", "Torus", "Zonal", "divergence", "manifold"]

NAMES = "sphere, sphere-3 (and further dimensions), torus-1, torus-2, ..., so3"


@cache
def manifold(name: str) -> Manifold:
    """By name: "sphere" is S^2, "sphere-3" S^3, "torus-2" T^2, "so3" the rotations. Raises UsageProblem for another."""
    family, _, number = name.partition("-")
    if name == "so3":
        return Rotations()
    if family in ("sphere", "torus") and (number.isdecimal() or name == "sphere"):
        dim = int(number or 2)
        return Sphere(dim) if family == "sphere" else Torus(dim)
    raise UsageProblem(f"there is no manifold {name!r}; known: {NAMES}")
