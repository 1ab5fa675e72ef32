r"""Hints: what a network is told of the very picture it is to make: all but a hole, or the picture made smaller.

A hint is a condition of one part or two, which the network sees as further channels beside its state (networks/concatenated.py):

    picture   (batch, *shape), of the data's shape: what a space makes of data it makes of it, too (`Space.told`)
    map       (batch, any, height, width) of any size, told as it is

In training it is made of the data, with other holes at every step (`objectives.Hinted`); of a file, when samples are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageProblem
from .rng import Rng

Shape = tuple[int, ...]
HIDDEN = -1.0
"""What a hole is filled with: black."""


class Hint:
    """`hint(x, rng)` is what is told of pictures x, (batch, channels, height, width) in [-1, 1]."""

    parts: ClassVar[tuple[str, ...]] = ("map",)

    def channels(self, data: Shape, code: Shape) -> int:
        """How many channels it has beside a state of shape `code`, of data of shape `data`. Raises UsageProblem."""
        raise NotImplementedError

    def __call__(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        raise NotImplementedError

    def read(self, path: str, data: Shape) -> dict[str, Tensor]:
        """What the picture of a file tells, without the batch's axis. Raises Problem or UsageProblem."""
        raise NotImplementedError

    def completed(self, x: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Samples with what they were told of themselves put in place."""
        return x


class Hole(Hint):
    r"""The picture but for a hole, which is black, and a map that is 1 in the hole and -1 elsewhere.

    Holes of training are, one as likely as the other, 1 to 3 boxes, each side 1/8 to 1/2 of the picture's, or a stroke of 1 to 4
    straight parts, 1/8 to 1/3 wide. (Published models were trained with LaMa's strokes and boxes.)
    """

    parts = ("picture", "map")

    def channels(self, data: Shape, code: Shape) -> int:
        return code[0] + 1

    def __call__(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        return self.told(x, self.draw(x.shape[-2:], rng).to(x.device))

    def told(self, x: Tensor, hole: Tensor) -> dict[str, Tensor]:
        """Of pictures with these holes, (batch, 1, height, width) bool."""
        return {"picture": x.masked_fill(hole, HIDDEN), "map": 2 * hole.to(x) - 1}

    def draw(self, size: Shape, rng: Rng) -> Tensor:
        """Holes (batch, 1, height, width), bool."""
        boxed, kinds, numbers = (v.cpu() for v in (rng.bernoulli(0.5), rng.integers(12), rng.uniform(3, 5)))
        hole = torch.where(boxed[:, None, None], boxes(numbers, kinds % 3 + 1, size), strokes(numbers, kinds % 4, size))
        return hole[:, None]

    def read(self, path: str, data: Shape) -> dict[str, Tensor]:
        from .data.encoded import transparent

        hole = torch.from_numpy(transparent(Path(path), path, data[1:]).copy())[None]  # type: ignore[arg-type]
        if not hole.any() or hole.all():
            raise UsageProblem(
                f"{path} is {'all transparent' if hole.any() else 'nowhere transparent'}: what is transparent is painted anew, "
                "the rest is kept; erase a part of the picture and save it as PNG"
            )
        return {name: value[0] for name, value in self.told(_pixels(path, data)[None], hole[None]).items()}

    def completed(self, x: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        return torch.where(told["map"] > 0, x, told["picture"].to(x))


class Smaller(Hint):
    """The picture made smaller by a factor: bicubic, with anti-aliasing."""

    def __init__(self, factor: int):
        if factor < 2:
            raise UsageProblem(f"the factor by which pictures are enlarged is {factor}, but must be 2 or more")
        self.factor = factor

    def size(self, data: Shape) -> tuple[int, int]:
        height, width = data[-2:]
        if height % self.factor or width % self.factor:
            raise UsageProblem(
                f"pictures of {height}x{width} cannot be made smaller by {self.factor}; choose a factor that divides both"
            )
        return height // self.factor, width // self.factor

    def channels(self, data: Shape, code: Shape) -> int:
        self.size(data)
        return data[0]

    def __call__(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        small = F.interpolate(x, self.size(x.shape), mode="bicubic", antialias=True)
        return {"map": small.clamp(-1, 1)}

    def read(self, path: str, data: Shape) -> dict[str, Tensor]:
        return {"map": _pixels(path, (data[0], *self.size(data)))}


def _pixels(path: str, shape: Shape) -> Tensor:
    from .data.encoded import pixels

    return torch.from_numpy(pixels(Path(path), path, shape[0], shape[1:]).copy()).float() / 127.5 - 1  # type: ignore[arg-type]


def _centres(size: Shape) -> tuple[Tensor, Tensor]:
    """Where pixels lie in [0, 1]^2: rows (height, 1) and columns (1, width)."""
    rows, columns = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in size)
    return rows[:, None], columns[None]


def boxes(numbers: Tensor, count: Tensor, size: Shape) -> Tensor:
    """The first `count` (batch,) boxes that uniform `numbers` (batch, any, 4 or more) tell: sides and places; (batch, *size)."""
    sides = 1 / 8 + 3 / 8 * numbers[..., :2]
    first = (1 - sides) * numbers[..., 2:4]
    inside = [
        (place >= first[..., i, None, None]) & (place < (first + sides)[..., i, None, None])
        for i, place in enumerate(_centres(size))
    ]
    there = torch.arange(numbers.shape[1]) < count[:, None]
    return (inside[0] & inside[1] & there[..., None, None]).any(1)


def strokes(numbers: Tensor, corners: Tensor, size: Shape) -> Tensor:
    """The stroke through the first 2 + `corners` (batch,) of the points that uniform `numbers` (batch, 3, 5) tell, and how wide
    it is; (batch, *size)."""
    points = numbers.flatten(1)[:, :10].unflatten(1, (5, 2))
    radius = (1 / 16 + (1 / 6 - 1 / 16) * numbers[:, 2, 4]).clamp(min=0.71 / min(size))  # wide enough to meet a pixel
    rows, columns = _centres(size)
    a, along = points[:, :-1, :, None, None], (points[:, 1:] - points[:, :-1])[..., None, None]
    there = (
        ((rows - a[:, :, 0]) * along[:, :, 0] + (columns - a[:, :, 1]) * along[:, :, 1])
        / along.square().sum(2).clamp(min=1e-12)
    ).clamp(0, 1)  # the nearest place on each part, from 0 to 1
    away = (rows - a[:, :, 0] - there * along[:, :, 0]) ** 2 + (columns - a[:, :, 1] - there * along[:, :, 1]) ** 2
    part = torch.arange(4) <= corners[:, None]
    return ((away < radius[:, None, None, None] ** 2) & part[..., None, None]).any(1)
