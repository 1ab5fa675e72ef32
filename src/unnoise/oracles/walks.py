"""What walks of tokens that jump end in, exactly, and their bound by quadrature: for sequences few enough to count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..likelihood.jump import score_entropy_nats
from ..processes import Jump, Ratios
from ..samplers import Ancestral, Step
from .sequences import Joint


def states_of(process: Jump, length: int) -> Tensor:
    """Every state of a sequence, (states^length, length)."""
    return torch.cartesian_prod(*[torch.arange(process.graph.states)] * length).reshape(-1, length)


def together(p: Tensor, ends: Tensor) -> Tensor:
    """Probabilities (batch, length, states) of each position, as those of whole sequences (batch, ends)."""
    return torch.stack([p[:, i][:, ends[:, i]] for i in range(ends.shape[1])]).prod(0)


@torch.no_grad()
def walk_output(
    law: Joint,
    process: Jump,
    step: Step,
    points: Sequence[Any],
    guide: Callable[[Any], Any] = lambda denoiser: denoiser,
) -> Tensor:
    """The law of what a walk down `points` ends in (tokens^length,), float64, in the order of `law.every`: with the exact
    denoiser, guided if asked, from the true law of x_t at the first of them. `step`: Ancestral() or TauLeaping()."""
    denoiser, states = guide(law.denoiser(process)), states_of(process, law.length)
    p = law.log_prob(law.every).exp() @ together(process.marginal(law.every, points[0]).mean, states)
    for t, s in pairwise(points):
        x = states[p > 0]
        leap = process.leap if s.is_clean or isinstance(step, Ancestral) else process.tau_leap
        moves = leap(denoiser(x, t.over(x)), x, t, s).mean
        p = p[p > 0] @ together(moves, law.every if s.is_clean else states)
    return p


@torch.no_grad()
def exact_bound(law: Joint, process: Jump, x0: Tensor, nodes: int = 60) -> Tensor:
    """The integral of the score entropy of exact ratios over t, nats (batch,): by Gauss and Legendre in t^(1/3), in which
    it is smooth at 0, with every state counted."""
    import numpy as np

    states, denoiser = states_of(process, law.length), law.denoiser(process)
    total = torch.zeros(len(x0), dtype=torch.float64)
    for node, weight in zip(*np.polynomial.legendre.leggauss(nodes), strict=True):
        u = (node + 1) / 2
        point = process.point(u**3)
        times = point.over(states)
        log_ratios = process.log_ratios(denoiser(states, times), states, times)
        chances = together(process.marginal(x0, point).mean, states)
        for j, p in enumerate(chances):
            can = p > 0
            guess = Ratios(process.graph, point.total, states[can], log_ratios[can])
            nats = score_entropy_nats(process, guess, x0[j].expand(int(can.sum()), -1), states[can], times[can])
            total[j] += weight / 2 * 3 * u**2 * (p[can] @ nats)
    return total
