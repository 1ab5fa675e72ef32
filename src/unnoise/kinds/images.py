"""Images: uint8 grey levels on disk, [-1, 1] to a model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ..data.levels import from_levels, to_uint8
from .kind import About, Kind


class Images(Kind):
    """(channel, height, width), 1 or 3 channels."""

    name: ClassVar[str] = "images"
    one: ClassVar[str] = "image"
    suffix: ClassVar[str] = "png"
    array: ClassVar[str] = "images"
    looks: ClassVar[str] = "pixels"

    def decode(self, stored: Tensor, about: About) -> Tensor:
        return from_levels(stored, about.levels)

    def finish(self, x: Tensor, about: About) -> Tensor:
        return to_uint8(x)

    def numbers(self, stored: Tensor, about: About) -> Tensor:
        return from_levels(stored).flatten(1).double()

    def save(self, stored: Tensor, path: Path, about: About) -> Path:
        from ..data.pictures import save_png

        return save_png(stored, path)

    def read(self, path: Path, about: About) -> Tensor:
        import torch

        from ..data.encoded import pixels

        channels, height, width = about.shape
        return torch.from_numpy(pixels(path, str(path), channels, (height, width)).copy())

    def sheet(self, stored: Tensor, folder: Path, about: About, columns: int | None = None, name: str = "") -> Path:
        from ..data.pictures import grid, save_png

        return save_png(grid(stored, columns=columns), self.where(folder, name))

    def describe(self, about: About) -> str:
        channels, height, width = about.shape
        return f"{height}x{width}x{channels}"
