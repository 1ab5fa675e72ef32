"""Points: coordinates in the space that a manifold is embedded in, float32."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..disk import write_file
from ..figures import draw
from .kind import About, Kind


class Points(Kind):
    """(coordinates,)."""

    name: ClassVar[str] = "points"
    one: ClassVar[str] = "point"
    suffix: ClassVar[str] = "csv"
    single: ClassVar[bool] = True

    def finish(self, x: Tensor, about: About) -> Tensor:
        return x.float()

    def save(self, stored: Tensor, path: Path, about: About) -> Path:
        head = ",".join(f"x{i}" for i in range(stored.shape[1]))
        rows = "\n".join(",".join(f"{v:.9g}" for v in row) for row in stored.tolist())
        write_file(path, f"{head}\n{rows}\n".encode())
        return path

    def read(self, path: Path, about: About) -> Tensor:
        return torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, dtype=np.float32))

    def sheet(self, stored: Tensor, folder: Path, about: About, columns: int | None = None, name: str = "") -> Path:
        def paint(axes):
            axes.scatter(stored[:, 0], stored[:, 1 % stored.shape[1]], s=3)
            axes.set_aspect("equal")

        path = self.where(folder, name)
        draw(path, paint)
        return path
