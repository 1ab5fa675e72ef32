"""Each metric in the form that resampling needs: a fixed reference, then a set, then any rows of that set.

`measure.on(x)` does once what all subsets of `x` share (projecting, kernels, distances) and gives a function from
rows to numbers. The numbers for all rows are those of the plain functions in this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.metrics.frechet import Moments, frechet_distance
from unnoise.metrics.kernel import RBF, Kernel, cubic, mean_of_pairs, median_bandwidth, row_means
from unnoise.metrics.neighbours import PRDC, Memorisation, distances, nearest_neighbour_distance
from unnoise.metrics.wasserstein import directions, transport_1d

Statistic = Callable[[Tensor], tuple[float, ...]]  # rows of a set, int64 (m,) -> one number per name
INFINITY = float("inf")


@dataclass(frozen=True)
class Measure:
    """Some numbers about a set of examples against a reference.

    `better` is "lower", "higher" or "floor" (as near the floor as can be); `needs` is the least count of examples on a
    side; `bounds` are the values a number can take; `note` states what the names leave open.
    """

    names: tuple[str, ...]
    better: str
    needs: int
    on: Callable[[Tensor], Statistic]
    bounds: tuple[float, float] = (0.0, INFINITY)
    note: str = ""


def frechet(reference: Tensor) -> Measure:
    law, dimension = Moments.of(reference), reference.shape[1]

    def on(x: Tensor) -> Statistic:
        return lambda rows: (frechet_distance(Moments.of(x[rows]), law),)

    return Measure(("frechet",), "lower", dimension + 1, on, note=f"{dimension} features")


def sliced(reference: Tensor, projections: int, generator: torch.Generator) -> Measure:
    lines = directions(reference.shape[1], projections, generator)
    sorted_reference = (reference @ lines).sort(0).values

    def on(x: Tensor) -> Statistic:
        projected = x @ lines
        return lambda rows: (transport_1d(projected[rows].sort(0).values, sorted_reference).mean().sqrt().item(),)

    return Measure(("sliced_wasserstein",), "lower", 1, on, note=f"{projections} projections")


def _kernel(name: str, reference: Tensor, kernel: Kernel, note: str) -> Measure:
    within_reference = mean_of_pairs(reference, kernel)

    def on(x: Tensor) -> Statistic:
        between, within = row_means(x, reference, kernel), kernel(x, x).fill_diagonal_(0)

        def statistic(rows: Tensor) -> tuple[float]:
            chosen = torch.zeros(len(x), dtype=x.dtype).index_fill_(0, rows, 1.0)
            pairs = chosen @ within @ chosen / (len(rows) * (len(rows) - 1))
            return ((pairs + within_reference - 2 * between[rows].mean()).item(),)

        return statistic

    return Measure((name,), "lower", 2, on, (-INFINITY, INFINITY), note)


def kernel_cubic(reference: Tensor) -> Measure:
    return _kernel("kernel_cubic", reference, cubic, "unbiased, kernel (x.y/d + 1)^3")


def kernel_rbf(reference: Tensor) -> Measure:
    bandwidth = median_bandwidth(reference)
    return _kernel("kernel_rbf", reference, RBF(bandwidth), f"unbiased, RBF of bandwidth {bandwidth:.3g}")


def prdc(reference: Tensor, k: int) -> Measure:
    """As many reals as fakes, always: the four numbers depend on the ratio. A subset takes the same rows of both."""

    def on(x: Tensor) -> Statistic:
        x = x[: len(reference)]
        real_set = reference[: len(x)]
        real, fake, cross = distances(real_set, real_set), distances(x, x), distances(real_set, x)

        def statistic(rows: Tensor) -> tuple[float, ...]:
            found = PRDC.from_distances(*(d[rows[:, None], rows] for d in (real, fake, cross)), k=k)
            return found.precision, found.recall, found.density, found.coverage

        return statistic

    names = ("precision", "recall", "density", "coverage")
    return Measure(names, "higher", k + 1, on, note=f"k = {k}, equal counts")


def nearest(train: Tensor, held_out: Tensor) -> Measure:
    fresh = nearest_neighbour_distance(held_out, train)

    def on(x: Tensor) -> Statistic:
        mine = fresh if x is held_out else nearest_neighbour_distance(x, train)

        def statistic(rows: Tensor) -> tuple[float, ...]:
            found = Memorisation.from_distances(mine[rows], fresh)
            return found.samples_median, found.ratio, found.closer

        return statistic

    names = ("nearest_train_distance", "nearest_train_ratio", "nearest_train_closer")
    note = f"median; over held-out's; fraction closer than held-out's 5 % quantile; {len(train):,} train images"
    return Measure(names, "floor", 1, on, note=note)
