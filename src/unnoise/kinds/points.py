"""Points: coordinates in the space that a manifold is embedded in, float32; on disk, degrees where the manifold is the earth or
a torus of two angles: a table that `load` reads again."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..data.points import MANIFOLDS, coordinates, degrees
from ..disk import write_file
from ..errors import Problem
from ..figures import draw
from ..maps import draw_angles, draw_map
from .kind import About, Kind


class Points(Kind):
    """(coordinates,)."""

    name: ClassVar[str] = "points"
    one: ClassVar[str] = "point"
    suffix: ClassVar[str] = "csv"
    looks: ClassVar[str] = "coordinates"
    single: ClassVar[bool] = True

    def finish(self, x: Tensor, about: About) -> Tensor:
        return x.float()

    def _names(self, about: About) -> tuple[str, ...]:
        """What the columns of a table are called."""
        in_degrees = {manifold: names for names, manifold in MANIFOLDS.items()}
        return in_degrees.get(about.manifold or "", tuple(f"x{i}" for i in range(about.shape[0])))

    def save(self, stored: Tensor, path: Path, about: About) -> Path:
        names = self._names(about)
        table = degrees(stored, about.manifold or "") if len(names) == 2 else stored
        rows = "\n".join(",".join(f"{v:.9g}" for v in row) for row in table.tolist())
        write_file(path, f"{','.join(names)}\n{rows}\n".encode())
        return path

    def read(self, path: Path, about: About) -> Tensor:
        try:
            table = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2))
        except ValueError as error:
            raise Problem(f"{path} is no table of points ({error}); remove it") from None
        return coordinates(table, about.manifold or "") if len(self._names(about)) == 2 else table.float()

    def sheet(self, stored: Tensor, folder: Path, about: About, columns: int | None = None, name: str = "") -> Path:
        path = self.where(folder, name)
        if about.manifold == "sphere":
            draw(path, lambda axes: draw_map(axes, degrees(stored, "sphere")), size=(8, 4.2))
        elif about.manifold == "torus-2":
            draw(path, lambda axes: draw_angles(axes, degrees(stored, "torus-2")), size=(4.5, 4.5))
        else:
            draw(path, lambda axes: axes.scatter(stored[:, 0], stored[:, 1 % stored.shape[1]], s=3))
        return path

    def describe(self, about: About) -> str:
        return f"on {about.manifold}" if about.manifold else super().describe(about)
