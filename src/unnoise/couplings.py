r"""Couplings: which noise goes with which data.

A path x_t = alpha x_0 + sigma eps needs a pair (x_0, eps). Drawn independently, paths cross, and the flow that averages them
bends. Any joint law with the right marginals gives a flow from noise to data; the less its paths cross, the straighter it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .denoisers.denoiser import Cond
from .rng import Rng

Pairs = tuple[Tensor, Cond, Tensor]
"""Data with their conditions, and the noise of each."""
Coupling = Callable[[Tensor, Cond, Rng], Pairs]
"""coupling(x0, cond, rng) -> pairs, for a batch of data."""


def minibatch_optimal(x0: Tensor, cond: Cond, rng: Rng) -> Pairs:
    r"""The noise of a batch, dealt out so that sum |x_0 - eps|^2 is least: exact optimal transport in the batch.

    Between as many data as noises the optimal plan is a permutation. Under several processes each deals out its own share of the
    batch (2302.00482; 2304.14772).
    """
    from scipy.optimize import linear_sum_assignment

    eps = rng.normal(*x0.shape[1:]).to(x0.dtype)
    # |x - e|^2 = |x|^2 + |e|^2 - 2 x e, and the squares are the same for every permutation
    cost = -(x0.flatten(1).double() @ eps.flatten(1).double().T)
    _, chosen = linear_sum_assignment(cost.cpu().numpy())
    return x0, cond, eps[torch.as_tensor(chosen, device=eps.device)]


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
        rows = (rng.uniform() * len(data)).long().cpu()
        told = None if labels is None else {name: value[rows].to(x0.device) for name, value in labels.items()}
        return data[rows].to(x0), told, eps[rows].to(x0)
