r"""Levels and coefficients of a sampler, fitted to where the flow ends: damped least squares, without gradients of the network.

The walk is a table (samplers/fitted.py): x_{i+1} = a_i x_T + sum_j b_ij x_0(x_j, level_j). Its end depends smoothly on the
logarithms of the levels and on corrections to the rows, theta. With r the difference from the flow's end, J = dr/dtheta from one
more walk for each element (only the part after the change is walked again; the last row's is known), and weights 1/|r| for each
example, so that the mean distance falls and not its square,

    theta <- theta - (J^T W J + mu diag(J^T W J))^{-1} J^T W r

with mu lowered after a step that helps, raised after one that does not (Levenberg, Marquardt), and J corrected by what the step
showed (Broyden), so that it need not be found anew each time. What is kept is the theta with
the least error on latents that the fit does not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..processes.gaussian import Point
from ..recipe import Sampling
from ..samplers import Fitted, Levels
from ..samplers.exponential import combine
from ..samplers.fitted import corrected, table
from .latents import Latents, rms

MOST = 400  # evaluations of each latent for one Jacobian
JACOBIANS = 4  # two where one costs more than that
TRIES = 10  # steps from each, with Broyden's updates between
STEP = 0.01  # of the finite differences: of a level's logarithm, and of the size of a state


@dataclass(frozen=True)
class Corner:
    """An element of theta: the logarithm of level `row` (`column` None), or the correction at a place of the table."""

    row: int
    column: int | None

    def after(self) -> int:
        """How many guesses stay as they are when this changes."""
        return self.row if self.column is None else self.row + 1


def corners(steps: int, most: int) -> list[Corner]:
    """What is fitted: all levels, the last row, and of each other row the newest guesses and x_T, as many as keep one
    Jacobian within `most` evaluations of each latent."""
    found = [Corner(i, None) for i in range(steps)]
    last = [Corner(steps - 1, m) for m in range(steps + 1)]
    for band in range(steps, 0, -1):
        rows = [Corner(i, m) for i in range(steps - 1) for m in range(i + 2) if m == 0 or m > i + 1 - band]
        if _cost([*found, *rows], steps) <= most:
            return [*found, *rows, *last]
    return [*found, *last]


@dataclass
class Theta:
    """Logarithms of the levels, and corrections."""

    logs: list[float]
    corrections: list[list[float]]

    def moved(self, corners: Sequence[Corner], by: Sequence[float]) -> Theta:
        logs, rows = list(self.logs), [list(row) for row in self.corrections]
        for corner, change in zip(corners, by, strict=True):
            if corner.column is None:
                logs[corner.row] += change
            else:
                rows[corner.row][corner.column] += change
        return Theta(logs, rows)

    @property
    def levels(self) -> list[float]:
        return [math.exp(v) for v in self.logs]


class Walk:
    """Walks of one set of latents under different theta."""

    def __init__(self, latents: Latents, sampling: Sampling, scale: float):
        self.latents, self.inner, self.scale = latents, sampling.step, scale
        self.process = latents.denoiser.process
        points = sampling.grid(self.process)
        self.top, self.low = self.process.point(1.0).ratio, self.process.point(0.0).ratio
        zeros = [[0.0] * (i + 2) for i in range(len(points) - 1)]
        self.begin = Theta([math.log(p.ratio) for p in points[:-1]], zeros)

    def sampling(self, theta: Theta) -> Sampling:
        """As a sampler that can be named."""
        return Sampling(Fitted(self.inner, tuple(map(tuple, theta.corrections))), Levels.of(theta.levels))

    def allowed(self, theta: Theta) -> bool:
        """Whether the levels decrease, within the process."""
        levels = theta.levels
        inside = levels[0] <= self.top * (1 + 1e-9) and levels[-1] >= self.low
        return inside and all(a > 1.02 * b for a, b in zip(levels, levels[1:], strict=False))

    def prepared(self, theta: Theta) -> tuple[list[Point], list[list[float]]]:
        points = Levels.of(theta.levels)(self.process)
        return points, corrected(table(self.inner, self.process, points), theta.corrections)

    @torch.no_grad()
    def walk(self, latents: Latents, theta: Theta, seen: Sequence[Tensor] = (), keep: int = 0) -> list[Tensor]:
        """x_T, every guess, and the end, as states. The first `keep` guesses are taken from `seen`."""
        points, rows = self.prepared(theta)
        denoise = latents.guesses()
        found = [latents.start(points), *seen[1 : keep + 1]]
        for i in range(keep, len(rows)):
            x = combine(*zip(rows[i - 1], found, strict=True)) if i else found[0]
            found.append(self.process.state(denoise(x, points[i]).mean))
        latents.heard(denoise.calls * len(latents))
        return [*found, combine(*zip(rows[-1], found, strict=True))]

    def error(self, theta: Theta) -> float:
        return self.latents.distance(self.process.data(self.walk(self.latents, theta)[-1]))

    def size(self, corner: Corner, points: Sequence[Point]) -> float:
        """What makes a change of 1 natural: 1 for a logarithm; for a coefficient, the size of the state over that of its term."""
        if corner.column is None:
            return 1.0
        s = points[corner.row + 1]
        term = self.latents.denoiser.process.prior((1,), points[0]).std if corner.column == 0 else self.scale
        return math.hypot(s.alpha * self.scale, s.sigma) / float(term)

    def jacobian(self, theta: Theta, corners: Sequence[Corner], seen: list[Tensor]) -> tuple[Tensor, list[float]]:
        """d end / d theta in units of `size`, (theta, count * numbers), and the units."""
        points, _ = self.prepared(theta)
        units = [self.size(corner, points) for corner in corners]
        end, columns = seen[-1], []
        for corner, unit in zip(corners, units, strict=True):
            if corner.column is not None and corner.row == len(self.begin.logs) - 1:
                columns.append(unit * seen[corner.column])
                continue
            h = -STEP if corner.column is None else STEP  # a lower level stays within the process
            changed = self.walk(self.latents, theta.moved([corner], [h * unit]), seen, corner.after())[-1]
            columns.append((changed - end) / h)
        return torch.stack([c.flatten() for c in columns]), units


def fit(
    latents: Latents, unseen: Latents, sampling: Sampling, scale: float, most: int = MOST
) -> tuple[float, Sampling]:
    """The sampler fitted to `latents`, and its error on the `unseen` ones; the given one where nothing is better."""
    walk, check = Walk(latents, sampling, scale), Walk(unseen, sampling, scale)
    theta, mu = walk.begin, 1e-2
    which = corners(len(theta.logs), most)
    goal, seen = walk.process.state(latents.end), walk.walk(latents, theta)
    cost = latents.distance(walk.process.data(seen[-1]))
    best = (check.error(theta), sampling)
    for _ in range(_jacobians(which, len(theta.logs), most)):
        jacobian, units = walk.jacobian(theta, which, seen)
        before = cost
        for _ in range(TRIES):
            by = _downhill(jacobian, seen[-1] - goal, mu)
            tried = theta.moved(which, [b * unit for b, unit in zip(by.tolist(), units, strict=True)])
            ends = walk.walk(latents, tried) if walk.allowed(tried) else None
            now = math.inf if ends is None else latents.distance(walk.process.data(ends[-1]))
            if ends is None or now >= cost:
                mu *= 4
                continue
            by = by.to(jacobian)
            jacobian += (
                torch.outer(by, (ends[-1] - seen[-1]).flatten() - by @ jacobian) / by.square().sum()
            )  # Broyden's
            theta, seen, cost, mu = tried, ends, now, mu / 4
        error = check.error(theta)
        if error < best[0]:
            best = (error, walk.sampling(theta))
        if cost > 0.98 * before:
            break
    return best


def _downhill(jacobian: Tensor, residual: Tensor, mu: float) -> Tensor:
    """The damped step, float64 (theta,)."""
    size = rms(residual)
    weight = (
        (1 / size.clamp(min=0.1 * float(size.median()) + 1e-30)).repeat_interleave(residual[0].numel()).to(jacobian)
    )
    square = ((jacobian * weight) @ jacobian.T).double()
    pull = (jacobian * weight @ residual.flatten()).double()
    return torch.linalg.solve(square + torch.diag((mu + 1e-10) * square.diagonal() + 1e-300), -pull)


def _cost(which: Sequence[Corner], steps: int) -> int:
    """Evaluations of each latent for a Jacobian."""
    return sum(steps - corner.after() for corner in which if corner.row < steps - 1 or corner.column is None)


def _jacobians(which: Sequence[Corner], steps: int, most: int) -> int:
    return JACOBIANS if _cost(which, steps) <= most else 2


def work(latents: int, unseen: int, steps: int, most: int = MOST) -> int:
    """Guesses that `fit` makes, at most."""
    which = corners(steps, most)
    times = _jacobians(which, steps, most)
    return latents * (steps + times * (_cost(which, steps) + TRIES * steps)) + unseen * steps * (1 + times)
