"""What nearest neighbours tell: are samples like the data, is all the data covered, are samples copies of it?

A set of examples stands for its manifold: a ball around each example that reaches to its k-th nearest neighbour.

    precision    the fraction of fakes that lie in a real ball
    recall       the fraction of reals that lie in a fake ball
    density      the mean number of real balls that a fake lies in, over k
    coverage     the fraction of real balls that hold a fake

For two independent sets of one law, of equal size, density is 1 and coverage 1 - 2^-k, both in expectation.

References: Kynkaanniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageProblem
from .matrices import Matrix, pair


def distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|, (n, m), from the differences themselves: exactly zero between equal rows."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def radii(within: Tensor, k: int) -> Tensor:
    """The distance of each example to its k-th nearest neighbour, from the distances (n, n) within its set; (n,)."""
    if not 1 <= k < len(within):
        raise UsageProblem(f"k = {k} nearest neighbours need more than {k} examples, but there are {len(within)}")
    return within.topk(k + 1, dim=1, largest=False).values[:, k]  # the nearest of all is the example itself


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density, coverage; each but density lies in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float

    @classmethod
    def from_distances(cls, real: Tensor, fake: Tensor, cross: Tensor, k: int) -> PRDC:
        """From the distances within the reals (n, n), within the fakes (m, m), and from real to fake (n, m)."""
        in_real_ball = cross <= radii(real, k)[:, None]
        in_fake_ball = cross <= radii(fake, k)
        return cls(
            precision=in_real_ball.any(0).double().mean().item(),
            recall=in_fake_ball.any(1).double().mean().item(),
            density=in_real_ball.sum().item() / (k * cross.shape[1]),
            coverage=in_real_ball.any(1).double().mean().item(),
        )


def precision_recall_density_coverage(real: Matrix, fake: Matrix, k: int = 5) -> PRDC:
    """All four from features (n, d) and (m, d), by the definitions above; balls are closed.

    Comparable between runs only at equal counts and equal k. Raises UsageProblem when a side has at most k examples.
    """
    real, fake = pair(real, fake)
    return PRDC.from_distances(distances(real, real), distances(fake, fake), distances(real, fake), k)


def nearest_neighbours(samples: Matrix, train: Matrix) -> tuple[Tensor, Tensor]:
    """The distance of each sample to its nearest training example, float64 (n,), and that one's index, int64 (n,)."""
    samples, train = pair(samples, train)
    squares = (train * train).sum(1)  # |x - y|^2 less |x|^2, which the nearest y does not depend on
    index = torch.cat([torch.addmm(squares, block, train.T, alpha=-2).argmin(1) for block in samples.split(256)])
    return (samples - train[index]).norm(dim=1), index


def nearest_neighbour_distance(samples: Matrix, train: Matrix) -> Tensor:
    """The Euclidean distance of each sample to its nearest training example, in units of the features, float64 (n,)."""
    return nearest_neighbours(samples, train)[0]


@dataclass(frozen=True)
class Memorisation:
    """Do samples lie closer to the training set than fresh data does?

    `ratio` is the median distance of the samples over that of the held-out examples (1 when samples are as new as fresh
    data, near 0 when they are copies); `closer` is the fraction of samples that are closer to the training set than all
    but the `expected` closest fraction of the held-out examples (so fresh data would score `expected`).
    """

    samples_median: float
    held_out_median: float
    ratio: float
    closer: float
    expected: float

    @classmethod
    def from_distances(cls, samples: Tensor, held_out: Tensor, expected: float = 0.05) -> Memorisation:
        """From the nearest-neighbour distances (n,) of the samples and (m,) of the held-out examples."""
        threshold = held_out.quantile(expected)
        mine, fresh = samples.quantile(0.5).item(), held_out.quantile(0.5).item()
        closer = (samples < threshold).double().mean().item()
        return cls(mine, fresh, mine / fresh if fresh else float("nan"), closer, expected)


def memorisation(samples: Matrix, train: Matrix, held_out: Matrix, expected: float = 0.05) -> Memorisation:
    """The summary above of features (n, d) of samples against training and held-out examples."""
    return Memorisation.from_distances(
        nearest_neighbour_distance(samples, train), nearest_neighbour_distance(held_out, train), expected
    )
