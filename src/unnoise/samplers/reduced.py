"""DiffWave's fast sampler: a short chain with variances of its own, on the steps of a long one that have its noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from ..errors import UsageProblem
from ..processes import Process
from .grids import Grid
from .levels import Levels

DIFFWAVE = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)
"""The variances for models trained with betas up to 0.05 in 50 steps (2009.09761)."""
DIFFWAVE_LARGE = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.7)
"""Those for betas up to 0.02 in 200 steps."""


@dataclass(frozen=True)
class Reduced(Grid):
    r"""The times at which alpha(t)^2 = prod_{r <= s} (1 - eta_r), for the `variances` eta_1, eta_2, ... from data to noise.

    On it the ancestral step is the reverse of the chain of these variances (2009.09761, appendix B). Another number of
    `steps` than of variances takes as many, evenly along the logarithms of their noise levels (as the grid levels does).
    Raises UsageProblem where the chain ends in more noise than the model has seen.
    """

    name: ClassVar[str] = "reduced"
    steps: int = 6
    variances: tuple[float, ...] = DIFFWAVE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variances or not all(0 < v < 1 for v in self.variances):
            raise UsageProblem("variances are one or more numbers between 0 and 1, such as [0.0001,0.01,0.2]")

    @property
    def signal(self) -> list[float]:
        """alpha^2 after each variance."""
        return list(accumulate((1 - v for v in self.variances), lambda a, b: a * b))

    def times(self, process: Process) -> list[float]:
        levels = [math.sqrt((1 - g) / g) for g in reversed(self.signal)]
        grid = Levels(self.steps, tuple(levels))
        point = process.point(1.0)
        most = getattr(point, "ratio", None)
        if isinstance(most, float) and levels[0] > most * (1 + 1e-6):
            raise UsageProblem(
                f"these variances keep alpha = {self.signal[-1] ** 0.5:.4g} of the signal, but the model never saw less "
                f"than {point.alpha:.4g}; make the last variance smaller"
            )
        return grid.times(process)
