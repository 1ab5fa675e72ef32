r"""The span of times over which a likelihood is computed, and a clock u in [0, 1] that runs evenly over it.

Where there is one noise level for all coordinates, u is even in log-SNR: the flow of x/alpha depends on nothing else, and its
path is smooth there whatever the schedule. Where there is one for each frequency, u is even in t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..processes import Gaussian, LinearSDE, Process
from ..processes.gaussian import Point
from ..scalars import column

LEAST_RATIO, MOST_RATIO = 1e-3, 1e4


@dataclass(frozen=True)
class Clock:
    """t(u), from `low` (nearly data) to `high` (noise).

    `knots` None: even in t. Otherwise times and slopes at even u, between which t is a cubic of continuous slope: to find the
    time of a log-SNR can cost more than a network.
    """

    process: Gaussian | LinearSDE
    low: float
    high: float
    knots: tuple[Tensor, Tensor] | None = None

    def time(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """t and dt/du."""
        if self.knots is None:
            return self.low + (self.high - self.low) * u, torch.full_like(u, self.high - self.low)
        times, slopes = (k.to(u.device) for k in self.knots)
        n = len(times) - 1
        i = (u * n).floor().long().clamp(0, n - 1)
        v, rise = u * n - i, times[i + 1] - times[i]
        a, b = slopes[i] / n - rise, rise - slopes[i + 1] / n
        bump, between = v * (1 - v), (1 - v) * a + v * b
        return times[i] + v * rise + bump * between, n * (rise + (1 - 2 * v) * between + bump * (b - a))

    def at(self, u: Tensor, x: Tensor) -> tuple[Tensor, Any, Tensor]:
        """t, its point for states x, and dt/du, for u of shape (batch,)."""
        t, slope = self.time(u)
        point: Any = self.process.with_derivatives(t, x)
        return t, point, column(slope, x)


def _even_in_log_snr(process: Gaussian, low: float, high: float, count: int = 2000) -> Clock:
    schedule = process.schedule
    with torch.no_grad():
        a, b = schedule.log_snr(torch.tensor([low, high], dtype=torch.float64))
        times = schedule.time(torch.linspace(0, 1, count + 1, dtype=torch.float64) * (b - a) + a).clamp(low, high)
        times[0], times[-1] = low, high
        points = process.with_derivatives(times, times)
    return Clock(process, low, high, (times, ((b - a) / log_snr_slope(points)).detach()))


def log_snr_slope(point: Point) -> Tensor:
    """d log-SNR / dt = 2 (alpha'/alpha - sigma'/sigma), below 0."""
    return torch.as_tensor(2 * (point.dalpha / point.alpha - point.dsigma / point.sigma))


def clock(process: Process, start: float | None, what: str) -> Clock:
    r"""From `start` to t = 1.

    start None: 1/T for chains of T steps, whose network knows nothing below; otherwise where sigma/alpha is 0.001, or the
    process's own end where that is noisier. The top is t = 1, or sigma/alpha = 10^4 where less signal than that is left.
    Raises UsageProblem for processes that have no such thing (`what`).
    """
    if not isinstance(process, Gaussian):
        raise UsageProblem(
            f"a {type(process).__name__} process has no {what}; "
            "take --method bound or importance, the bounds of its chain, if it has densities"
        )
    if start is not None and not 0 < start < 1:
        raise UsageProblem(f"start is {start}, but must lie between 0 (data) and 1 (noise)")
    clean, noise = process.points([0.0, 1.0])
    if isinstance(noise.ratio, Tensor):
        return Clock(process, start or 1e-4, 1 - 1e-6 if bool(torch.as_tensor(noise.alpha == 0).any()) else 1.0)
    schedule = process.schedule
    if start is None and (steps := getattr(schedule, "steps", None)):
        start = 1 / steps
    least, most = max(float(clean.ratio), LEAST_RATIO), min(noise.ratio, MOST_RATIO)
    wanted = torch.tensor([-2 * math.log(least), -2 * math.log(most)], dtype=torch.float64)
    with torch.no_grad():
        low, high = schedule.time(wanted).clamp(0, 1).tolist()
    return _even_in_log_snr(process, low if start is None else start, 1.0 if most == noise.ratio else high)


def flow_clock(process: Process, start: float | None) -> Clock:
    """As `clock`; of a linear SDE, even in log t from where what a state says of the data is as sharp."""
    if not isinstance(process, LinearSDE):
        return clock(process, start, "probability flow")
    if start is not None and not 0 < start < 1:
        raise UsageProblem(f"start is {start}, but must lie between 0 (data) and 1 (noise)")
    if start is None:
        times = torch.logspace(-6, 0, 601, dtype=torch.float64)
        start = float(times[(process.kernel(times).snr > LEAST_RATIO**-2).sum().clamp(max=600)])
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    return Clock(process, start, 1.0, (start ** (1 - u), -math.log(start) * start ** (1 - u)))
