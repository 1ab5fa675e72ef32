r"""Couplings: which noise goes with which data; or, of a bridge, which data of its other end.

A path x_t = alpha x_0 + sigma eps needs a pair (x_0, eps). Drawn independently, paths cross, and the flow that averages them
bends. Any joint law with the right marginals gives a flow from noise to data; the less its paths cross, the straighter it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .denoisers.denoiser import Cond
from .errors import UsageProblem
from .processes import Gaussian
from .rng import Rng

Pairs = tuple[Tensor, Cond, Tensor]
"""Data with their conditions, and the noise of each."""
Coupling = Callable[[Tensor, Cond, Rng], Pairs]
"""coupling(x0, cond, rng) -> pairs, for a batch of data."""
Plan = Callable[[Tensor, Tensor, Rng], Tensor]
"""plan(x0, x1, rng) -> which x1 goes with each x0 of a batch, int64 (batch,)."""


def minibatch_optimal(x0: Tensor, cond: Cond, rng: Rng) -> Pairs:
    r"""The noise of a batch, dealt out so that sum |x_0 - eps|^2 is least: exact optimal transport in the batch.

    Under several processes each deals out its own share of the batch (2302.00482; 2304.14772).
    """
    eps = rng.normal(*x0.shape[1:]).to(x0.dtype)
    return x0, cond, eps[optimal(x0, eps, rng)]


def optimal(x0: Tensor, x1: Tensor, rng: Rng | None = None) -> Tensor:
    """The plan of least sum |x_0 - x_1|^2: between as many of each it is a permutation."""
    from scipy.optimize import linear_sum_assignment

    # |x - y|^2 = |x|^2 + |y|^2 - 2 x y, and the squares are the same for every permutation
    cost = -(x0.flatten(1).double() @ x1.flatten(1).double().T)
    _, chosen = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(chosen, device=x1.device)


def sinkhorn(cost: Tensor, reg: float, tolerance: float = 1e-9, most: int = 10_000) -> Tensor:
    r"""The entropic plan between n and m points of equal weights: argmin <P, cost> - reg H(P), by Sinkhorn's iterations on its
    potentials. log P, float64 (n, m); its columns sum to 1/m, its rows to 1/n within `tolerance` of that, or `most` iterations.
    """
    n, m = cost.shape
    kernel = -cost.double() / reg
    f, g = kernel.new_zeros(n, 1), kernel.new_zeros(1, m)
    for _ in range(most):
        rows = (kernel + f + g).logsumexp(1, keepdim=True) + math.log(n)
        f = f - rows
        g = -(kernel + f).logsumexp(0, keepdim=True) - math.log(m)
        if float(rows.abs().max()) < tolerance:
            break
    return kernel + f + g


def entropic(reg: float, tolerance: float = 1e-3) -> Plan:
    """Entropic optimal transport in the batch: each x_0 draws its x_1 from its row of the plan for |x_0 - x_1|^2 and `reg`.

    Of a Schroedinger bridge of Brownian motion with std sigma, reg is 2 sigma^2 (2303.16852)."""

    def plan(x0: Tensor, x1: Tensor, rng: Rng) -> Tensor:
        cost = torch.cdist(x0.flatten(1).double(), x1.flatten(1).double()).square()
        cumulative = sinkhorn(cost, reg, tolerance, 1000).softmax(1).cumsum(1)
        u = rng.uniform().to(cumulative)[:, None] * cumulative[:, -1:]
        return (cumulative <= u).sum(1).clamp_(max=len(x1) - 1)

    return plan


class Unpaired:
    """Of each example, a row of another data set, drawn for itself; `plan` deals them out within the batch."""

    def __init__(self, others: Any, plan: Plan | None = None):
        self.others, self.plan = others, plan

    def __call__(self, x0: Tensor, cond: Cond, rng: Rng) -> Pairs:
        x1 = drawn(self.others, rng).to(x0)
        return x0, cond, x1 if self.plan is None else x1[self.plan(x0, x1, rng)]


class Paired:
    """Rows of one number in two data sets, in place of the data."""

    def __init__(self, data: Any, others: Any):
        if len(data) != len(others):
            raise UsageProblem(
                f"sets of {len(data):,} and {len(others):,} rows are no pairs; choose sets of as many, or another coupling"
            )
        self.data, self.others = data, others

    def __call__(self, x0: Tensor, cond: Cond, rng: Rng) -> Pairs:
        rows = places(len(self.data), rng)
        return self.data.batch(rows).x.to(x0), cond, self.others.batch(rows).x.to(x0)


class Diffused:
    """The end of a Gaussian process, x_1 ~ q(x_1 | x_0): what pairs were before there was another set."""

    def __init__(self, process: Gaussian):
        self.process = process

    def __call__(self, x0: Tensor, cond: Cond, rng: Rng) -> Pairs:
        return x0, cond, self.process.marginal(x0, self.process.point(1.0)).sample(rng)


def places(size: int, rng: Rng) -> Tensor:
    """A row of `size` for each example, int64 (batch,), on the CPU."""
    return (rng.uniform() * size).long().cpu()


def drawn(data: Any, rng: Rng) -> Tensor:
    """A row of a data set for each example."""
    return data.batch(places(len(data), rng)).x


class Replayed:
    """Pairs that a trained flow joined, in place of the data: reflow (2209.03003).

    `simulate()` gives all the pairs, and is asked once, when the first batch is; each example then takes one of them at random.
    """

    def __init__(self, simulate: Callable[[], Pairs]):
        self.simulate = simulate
        self.pairs: Pairs | None = None

    def __call__(self, x0: Tensor, cond: Cond, rng: Rng) -> Pairs:
        if self.pairs is None:
            self.pairs = self.simulate()
        data, labels, eps = self.pairs
        rows = places(len(data), rng)
        told = None if labels is None else {name: value[rows].to(x0.device) for name, value in labels.items()}
        return data[rows].to(x0), told, eps[rows].to(x0)
