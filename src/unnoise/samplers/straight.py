"""A grid in the time of the straight path, tau = sigma / (d alpha + sigma), whatever path a process takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..errors import UsageProblem
from ..processes import Process
from .grids import Grid, _ends, _times_of_ratios


@dataclass(frozen=True)
class Straight(Grid):
    r"""tau_i = low + (top - low) ((n - i)/n)^power for i < n, then clean data; low is where the process itself ends.

    `scale`: d, the standard deviation of the data. `power` 1 is the even grid of rectified flows, 2 the quadratic one.
    `sigma_max` None: the process's own sigma/alpha at t = 1, or 80 where that is larger.
    """

    name: ClassVar[str] = "straight"
    power: float = 1.5
    scale: float = 1.0
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.power > 0 and self.scale > 0):
            raise UsageProblem(f"power is {self.power} and scale {self.scale}, but both must be positive")

    def times(self, process: Process) -> list[float]:
        top, low = (r / (self.scale + r) for r in _ends(process, 1e-12, self.sigma_max))
        left = 1 - torch.arange(self.steps, dtype=torch.float64) / self.steps
        tau = low + (top - low) * left**self.power
        return _times_of_ratios(process, self.scale * tau / (1 - tau))  # type: ignore[arg-type]
