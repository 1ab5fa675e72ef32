"""Runge-Kutta integration in which every example keeps its own steps, so that none depends on the others beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import Diverged
from ..tableaux import DORMAND_PRINCE, Tableau

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""f(u, y, rows): dy/du at u (n,) and y (n, d), for the examples `rows` of the batch."""


def _stages(
    f: Field, table: Tableau, u: Tensor, y: Tensor, h: Tensor, rows: Tensor, first: Tensor | None
) -> list[Tensor]:
    k: list[Tensor] = [] if first is None else [first]
    for a, c in list(zip(table.a, table.c, strict=True))[len(k) :]:
        move = sum((w * slope for w, slope in zip(a, k, strict=True) if w), torch.zeros_like(y))
        k.append(f(u + c * h, y + h[:, None] * move, rows))
    return k


def _combine(weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    return sum((w * slope for w, slope in zip(weights, k, strict=True) if w), torch.zeros_like(k[0]))


def fixed(f: Field, table: Tableau, y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """y at u = 1 from y (n, d) at u = 0, in even steps; and the evaluations, (n,)."""
    rows = torch.arange(len(y), device=y.device)
    h = torch.full((len(y),), 1 / steps, dtype=torch.float64, device=y.device)
    for i in range(steps):
        y = y + h[:, None] * _combine(table.b, _stages(f, table, i * h, y, h, rows, None))
    return y, torch.full((len(y),), steps * len(table.b))


def adaptive(f: Field, y: Tensor, tolerance: float, most: int = 2000) -> tuple[Tensor, Tensor]:
    """Dormand and Prince's 5(4), error per step below tolerance (1 + |y|) in the root mean square of an example."""
    table, n = DORMAND_PRINCE, len(y)
    y = y.clone()
    u = torch.zeros(n, dtype=torch.float64, device=y.device)
    h = torch.full_like(u, 0.02)
    calls = torch.ones(n, dtype=torch.int64)
    slope = f(u, y, torch.arange(n, device=y.device))
    rows = torch.arange(n, device=y.device)
    for _ in range(most):
        step = torch.minimum(h[rows], 1 - u[rows])
        k = _stages(f, table, u[rows], y[rows], step, rows, slope[rows])
        calls[rows.cpu()] += len(k) - 1
        move = step[:, None] * _combine(table.b, k)
        error = step[:, None] * _combine(table.error, k)
        scale = tolerance * (1 + torch.maximum(y[rows].abs(), (y[rows] + move).abs()))
        size = (error / scale).square().mean(1).sqrt()
        if not bool(torch.isfinite(size).all()):
            raise Diverged(
                "the likelihood's flow met numbers that are not finite; the model is broken or x is far from data"
            )
        good = size <= 1
        kept = rows[good]
        y[kept] += move[good]
        u[kept] += step[good]
        slope[kept] = k[-1][good]  # the last stage is the next step's first
        h[rows] = step * (0.9 * size.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
        rows = rows[(u[rows] < 1 - 1e-12)]
        if not len(rows):
            return y, calls
    raise Diverged(f"the likelihood's flow needs more than {most} steps at tolerance {tolerance:g}; allow a larger one")
