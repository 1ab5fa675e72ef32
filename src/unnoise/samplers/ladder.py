r"""NCSNv2's rules for a ladder of noise levels and for the Langevin steps down it (2006.09011, techniques 1, 2 and 4).

gamma is the ratio of neighbouring levels, D the number of numbers in an example, h = e / sigma^2 the relative step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..processes import Gaussian
from ..schedules import Geometric
from .grids import Integers


def largest_distance(data: Tensor, most: int = 10_000) -> float:
    """The greatest distance between two examples (count, *event): technique 1's sigma_1. Of `most` spread over the data."""
    rows = data.flatten(1)[torch.linspace(0, len(data) - 1, min(most, len(data))).long()].double()
    return max(float(torch.cdist(part, rows).max()) for part in rows.split(1000))


def diameter(data: Any) -> float:
    """`largest_distance` of a data set, to four digits after the point: of up to 10,000 examples, fewer where they are large."""
    most = min(10_000, 30_000_000 // math.prod(data.shape))
    rows = torch.linspace(0, len(data) - 1, min(most, len(data))).long()
    return round(largest_distance(data.batch(rows).x, most), 4)


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def overlap(gamma: float, dimension: int) -> float:
    """Technique 2's C: the share of one level's samples within three deviations of the shell of the level above."""
    shift = math.sqrt(2 * dimension) * (gamma - 1)
    return _normal_cdf(shift + 3 * gamma) - _normal_cdf(shift - 3 * gamma)


def spacing(dimension: int, share: float = 0.5) -> float:
    """The gamma at which `overlap` is `share`; the published ladders have 0.567, of a rule that says about 0.5."""
    low, high = 1.0, 1e6
    if not 0 < share < overlap(low, dimension) or overlap(high, dimension) > share:
        raise UsageProblem(f"no ratio of noise levels has an overlap of {share} in {dimension} dimensions")
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap(middle, dimension) > share else (low, middle)
    return (low + high) / 2


def settled_variance(h: float, gamma: float, corrections: int) -> float:
    r"""R: variance over sigma_i^2 of a point's Langevin chain after `corrections` steps at level i from level i - 1.

    R = (1 - h)^{2T} (gamma^2 - b) + b, b = 1 / (1 - h/2): the limit that the chain overshoots to.
    """
    b = 1 / (1 - h / 2)
    return (1 - h) ** (2 * corrections) * (gamma**2 - b) + b


def best_step(gamma: float, corrections: int) -> float:
    """Technique 4: the h in (0, 2) whose R is nearest 1. R is always above it, and has one minimum below h = 1."""
    low, high = math.log(1e-12), 0.0
    inverse_golden = (math.sqrt(5) - 1) / 2

    def value(log_h: float) -> float:
        return settled_variance(math.exp(log_h), gamma, corrections)

    for _ in range(100):
        a, b = high - inverse_golden * (high - low), low + inverse_golden * (high - low)
        low, high = (low, b) if value(a) < value(b) else (a, high)
    return math.exp((low + high) / 2)


@dataclass(frozen=True)
class Ladder:
    """`levels` noise levels from `sigma_max` to `sigma_min` with one ratio between neighbours; alpha = 1."""

    sigma_max: float
    sigma_min: float
    levels: int

    @classmethod
    def spaced(cls, sigma_max: float, sigma_min: float, dimension: int, share: float = 0.5) -> Ladder:
        """As many levels as technique 2 asks for in `dimension` numbers an example, rounded to a whole number."""
        if not 0 < sigma_min < sigma_max:
            raise UsageProblem(f"sigma_min is {sigma_min}, but must lie between 0 and the data's size, {sigma_max:.4g}")
        steps = math.log(sigma_max / sigma_min) / math.log(spacing(dimension, share))
        return cls(sigma_max, sigma_min, 1 + max(1, round(steps)))

    @classmethod
    def design(cls, data: Tensor, sigma_min: float = 0.02, share: float = 0.5) -> Ladder:
        """For these data (count, *event), in their own units: 0.02 of [-1, 1] is the 0.01 of pixels in [0, 1]."""
        return cls.spaced(largest_distance(data), sigma_min, data[0].numel(), share)

    @property
    def gamma(self) -> float:
        """sigma_{i-1} / sigma_i."""
        return (self.sigma_max / self.sigma_min) ** (1 / (self.levels - 1))

    def process(self) -> Gaussian[Geometric]:
        """Variance exploding, at these levels."""
        return Gaussian(Geometric(self.sigma_min, self.sigma_max, self.levels))

    def grid(self) -> Integers:
        """Every level, largest first."""
        return Integers(self.levels)
