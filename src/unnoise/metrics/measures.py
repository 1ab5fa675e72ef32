"""Each metric in the form that resampling needs: a fixed reference, then a set, then any rows of that set.

`measure.on(x)` does once what all subsets of `x` share (projecting, kernels, distances) and gives a function from
rows to numbers. The numbers for all rows are those of the plain functions in this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .frechet import Moments, frechet_distance
from .kernel import RBF, Kernel, cubic, mean_of_pairs, median_bandwidth, row_means
from .neighbours import PRDC, Memorisation, distances, nearest_neighbour_distance
from .wasserstein import Staircase, ascending, directions

Statistic = Callable[[Tensor], tuple[float, ...]]  # rows of a set, int64 (m,) -> one number per name
INFINITY = float("inf")


@dataclass(frozen=True)
class Measure:
    """Some numbers about a set of examples against a reference.

    `better` is "lower", "higher" or "floor" (as near the floor as can be); `needs` is the least count of examples on a
    side; `low` and `high` bound what each number can be; `notes` state what its name leaves open.
    """

    names: tuple[str, ...]
    better: str
    needs: int
    on: Callable[[Tensor], Statistic]
    notes: tuple[str, ...]
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (INFINITY,)


def frechet(reference: Tensor) -> Measure:
    law, dimension = Moments.of(reference), reference.shape[1]

    def on(x: Tensor) -> Statistic:
        return lambda rows: (frechet_distance(Moments.of(x[rows]), law),)

    return Measure(("frechet",), "lower", dimension + 1, on, (f"{dimension} features",))


def sliced(reference: Tensor, projections: int, generator: torch.Generator) -> Measure:
    lines = directions(reference.shape[1], projections, generator)
    sorted_reference = ascending(lines @ reference.T)
    staircase = cache(lambda count: Staircase.of(sorted_reference, count))

    def on(x: Tensor) -> Statistic:
        projected = lines @ x.T
        return lambda rows: (staircase(len(rows)).transport(ascending(projected[:, rows])).mean().sqrt().item(),)

    return Measure(("sliced_wasserstein",), "lower", 1, on, (f"{projections} lines",))


def _kernel(name: str, reference: Tensor, kernel: Kernel, note: str) -> Measure:
    within_reference = mean_of_pairs(reference, kernel)

    def on(x: Tensor) -> Statistic:
        between, within = row_means(x, reference, kernel), kernel(x, x).fill_diagonal_(0)

        def statistic(rows: Tensor) -> tuple[float]:
            chosen = torch.zeros(len(x), dtype=x.dtype).index_fill_(0, rows, 1.0)
            pairs = chosen @ within @ chosen / (len(rows) * (len(rows) - 1))
            return ((pairs + within_reference - 2 * between[rows].mean()).item(),)

        return statistic

    return Measure((name,), "lower", 2, on, (note,), low=(-INFINITY,))


def kernel_cubic(reference: Tensor) -> Measure:
    return _kernel("kernel_cubic", reference, cubic, "unbiased")


def kernel_rbf(reference: Tensor) -> Measure:
    bandwidth = median_bandwidth(reference)
    return _kernel("kernel_rbf", reference, RBF(bandwidth), f"unbiased, bandwidth {bandwidth:.3g}")


def prdc(reference: Tensor, k: int) -> Measure:
    """Against as many reals as fakes: the four numbers depend on the ratio. A subset takes the same rows of both."""

    def on(x: Tensor) -> Statistic:
        real_set = reference[: len(x)]
        real, fake, cross = distances(real_set, real_set), distances(x, x), distances(real_set, x)

        def statistic(rows: Tensor) -> tuple[float, ...]:
            found = PRDC.from_distances(
                *(d.index_select(0, rows).index_select(1, rows) for d in (real, fake, cross)), k=k
            )
            return found.precision, found.recall, found.density, found.coverage

        return statistic

    names = ("precision", "recall", "density", "coverage")
    return Measure(names, "higher", k + 1, on, (f"k = {k}",) * 4, high=(1.0, 1.0, INFINITY, 1.0))


def nearest(train: Tensor, held_out: Tensor) -> Measure:
    fresh = nearest_neighbour_distance(held_out, train)

    def on(x: Tensor) -> Statistic:
        mine = fresh if x is held_out else nearest_neighbour_distance(x, train)

        def statistic(rows: Tensor) -> tuple[float, ...]:
            found = Memorisation.from_distances(mine[rows], fresh)
            return found.samples_median, found.ratio, found.closer

        return statistic

    names = ("nearest_train_distance", "nearest_train_ratio", "nearest_train_closer")
    notes = ("median", "over the held-out median", "fraction closer than 95 % of held-out")
    return Measure(names, "floor", 1, on, notes, high=(INFINITY, INFINITY, 1.0))
