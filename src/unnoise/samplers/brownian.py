r"""One Brownian path per example, the same whatever steps are taken: stochastic samplers become comparable across step counts.

The path lives on half the log-SNR, l = log(alpha/sigma), in the clock nu = e^{2 kappa l}: with kappa = eta the noise of a step
of the reverse SDE with the linear part of `x0` is exactly an increment of it (`eps`: kappa = -1). It is grown by halving
[-span, span]: the value in the middle of a piece, given its ends, is their bridge plus a normal number named by (example,
piece). A walk keeps the pieces it stands in, so a step costs few draws. Within a piece of the last level (2 span / 2^depth in
l) points are drawn in the order of the walk: the law of every walk is exact, and only there do two walks differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..rng import Rng


class Brownian:
    """B(nu(l)) for the examples of `rng`, shape `(len(rng), *event)`, tied to its keys and not to what was drawn from it."""

    def __init__(self, rng: Rng, event: Sequence[int], kappa: float = 1.0, *, depth: int = 14, span: float = 12.0):
        self.rng, self.event = rng.spawn(0xB40), tuple(event)
        self.kappa, self.depth, self.span = kappa, depth, span
        self.zero = torch.zeros(len(rng), *self.event, dtype=torch.float64, device=rng.device)
        self._root: tuple[tuple[float, Tensor], tuple[float, Tensor]] | None = None
        self._halves: list[tuple[int, Tensor]] = []  # at each level: the piece the walk is in, the path in its middle
        self._last: tuple[int, float, Tensor] | None = None  # the last answer: its piece, clock and value

    def _clock(self, l: float) -> float:
        return math.exp(min(2 * self.kappa * l, 700.0))

    def _normal(self, *name: int) -> Tensor:
        return self.rng.spawn(*name).normal(*self.event, dtype=torch.float64)

    def _bridge(self, at: float, a: tuple[float, Tensor], b: tuple[float, Tensor], *name: int) -> Tensor:
        (from_, x), (to, y) = a, b
        share = (at - from_) / (to - from_)
        return torch.lerp(x, y, share).add_(self._normal(*name), alpha=math.sqrt(share * (to - at)))

    def __call__(self, l: float) -> Tensor:
        """B at half log-SNR `l`. Ask in the order of a walk: monotonically."""
        place = (l if self.kappa > 0 else -l) / self.span  # in (-1, 1) within the tree; the clock runs forward along it
        at = self._clock(l)
        if self._last is not None and self._last[1] == at:
            return self._last[2]
        piece, a, b = self._around(place)
        if (
            self._last is not None and self._last[0] == piece
        ):  # an earlier point of this piece is an end of what is left
            a, b = (self._last[1:], b) if self._last[1] < at else (a, self._last[1:])
        if at == a[0]:
            value = a[1]
        elif b is None:
            value = a[1] + math.sqrt(at - a[0]) * self._normal(3, *_name(place))
        else:
            value = self._bridge(at, a, b, 2, *_name(place))
        self._last = (piece, at, value)
        return value

    def _around(self, place: float) -> tuple[int, tuple[float, Tensor], tuple[float, Tensor] | None]:
        """The piece of the last level that a place lies in, and the path at its two ends."""
        if self._root is None:
            first, last = self._at(-1.0), self._at(1.0)
            start = math.sqrt(first) * self._normal(0, 0)
            self._root = (first, start), (last, start + math.sqrt(last - first) * self._normal(0, 1))
        a, b = self._root
        if place <= -1:
            return -1, (0.0, self.zero), a
        if place >= 1:
            return 1 << self.depth, b, None
        low, high, piece = -1.0, 1.0, 0
        for level in range(self.depth):
            middle = (low + high) / 2
            if level == len(self._halves) or self._halves[level][0] != piece:
                self._halves[level:] = [(piece, self._bridge(self._at(middle), a, b, 1, level, piece))]
            centre = (self._at(middle), self._halves[level][1])
            if place < middle:
                b, high, piece = centre, middle, 2 * piece
            else:
                a, low, piece = centre, middle, 2 * piece + 1
        return piece, a, b

    def _at(self, place: float) -> float:
        return self._clock(place * self.span if self.kappa > 0 else -place * self.span)

    def normal(self, a: float, b: float, like: Tensor) -> Tensor:
        """The increment from `a` to `b` over its standard deviation: standard normal, independent over disjoint intervals."""
        if a == -math.inf:
            increment, variance = (self(b), self._clock(b)) if self.kappa > 0 else (self._normal(4, *_name(b)), 1.0)
        else:
            start = self(a)  # in this order: the walk's
            increment, variance = self(b) - start, abs(self._clock(b) - self._clock(a))
        return (increment / math.sqrt(variance)).to(like)


def _name(place: float) -> tuple[int, int]:
    return divmod(round((place + 64) * 2**40), 2**30)
