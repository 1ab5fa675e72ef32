"""A grid given as its noise levels, such as a search finds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..errors import UsageProblem
from ..processes import Process
from .grids import Grid, _ends, _times_of_ratios


@dataclass(frozen=True)
class Levels(Grid):
    """The levels sigma/alpha themselves, largest first; none lies outside of the process.

    Another number of `steps` than of levels takes as many, evenly, along the line through their logarithms: between the two
    levels of the default that is the grid log-snr.
    """

    name: ClassVar[str] = "levels"
    levels: tuple[float, ...] = (80.0, 0.002)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels or not all(0 < r < math.inf for r in self.levels):
            raise UsageProblem("the grid levels takes one or more positive numbers, such as levels=[80,5,0.5,0.02]")
        if any(a <= b for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise UsageProblem("the levels of a grid must decrease, from noise to data")

    @classmethod
    def of(cls, levels) -> Levels:
        """One step for each level."""
        levels = tuple(map(float, levels))
        return cls(len(levels), levels)

    def times(self, process: Process) -> list[float]:
        _, low = _ends(process, 1e-12, None)
        top = process.point(1.0).ratio
        logs = [math.log(min(max(r, low), top)) for r in self.levels]
        last = len(logs) - 1
        at = [i * last / max(self.steps - 1, 1) for i in range(self.steps)]
        ratios = [logs[int(a)] + (a - int(a)) * (logs[min(int(a) + 1, last)] - logs[int(a)]) for a in at]
        return _times_of_ratios(process, torch.tensor(ratios, dtype=torch.float64).exp())  # type: ignore[arg-type]
