"""Points: coordinates in the space that a manifold is embedded in, float32; on disk, where the manifold has a chart (the earth, a
torus of two angles, rotations), a table that `load` reads again."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..data.charts import charts
from ..disk import write_file
from ..errors import Problem
from ..figures import draw
from ..maps import draw_angles, draw_map, draw_turns
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

    def save(self, stored: Tensor, path: Path, about: About) -> Path:
        own, table, names = charts(about.manifold), stored, tuple(f"x{i}" for i in range(about.shape[0]))
        if own:
            table, names = own[0].table(stored), own[0].names
        rows = "\n".join(",".join(f"{v:.9g}" for v in row) for row in table.tolist())
        write_file(path, f"{','.join(names)}\n{rows}\n".encode())
        return path

    def read(self, path: Path, about: About) -> Tensor:
        try:
            table = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2))
        except ValueError as error:
            raise Problem(f"{path} is no table of points ({error}); remove it") from None
        own = charts(about.manifold)
        return own[0].points(table) if own else table.float()

    def sheet(self, stored: Tensor, folder: Path, about: About, columns: int | None = None, name: str = "") -> Path:
        path, where = self.where(folder, name), about.manifold
        if where == "so3":
            draw(path, lambda *panels: draw_turns(panels, {"": stored}), panels=3, size=(10, 3.2))
        elif own := charts(where):
            paint, size = (draw_map, (8, 4.2)) if where == "sphere" else (draw_angles, (4.5, 4.5))
            draw(path, lambda panel: paint(panel, own[0].table(stored)), size=size)
        else:
            draw(path, lambda panel: panel.scatter(stored[:, 0], stored[:, 1 % stored.shape[1]], s=3))
        return path

    def describe(self, about: About) -> str:
        return f"on {about.manifold}" if about.manifold else super().describe(about)
