r"""The importance-weighted bound of a chain: K trajectories instead of one, tighter with every one of them (1509.00519).

    -log p(x_0) <= -E log 1/K sum_k w_k,   w = p(x_T) prod p(x_s | x_t) / (q(x_T | x_0) prod q(x_s | x_t, x_0))

K = 1 is the variational bound; as K grows it tends to the likelihood of the chain itself.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Law, Normal
from ..processes.gaussian import Point
from ..rng import Rng
from ..samplers.ancestral import Ancestral
from .bound import Discretised, check_chain, check_reverse, decoder_nats, guess_and_law


def _there(law: Law, x: Tensor) -> Law:
    return Normal(law.mean.to(x), law.std) if isinstance(law, Normal) else law


@torch.no_grad()
def log_weight(
    denoiser: Denoiser, reverse: Ancestral, points: list[Point], x0: Tensor, rng: Rng, cond: Cond, decoder
) -> Tensor:
    """log w of one trajectory of each example, drawn from q, nats (batch,)."""
    process = denoiser.process
    noised = process.marginal(x0, points[0])
    xt = noised.sample(rng)
    log_w = _there(process.prior(x0.shape, points[0]), xt).log_prob(xt) - noised.log_prob(xt)
    for i, (t, s) in enumerate(pairwise(points)):
        _, model = guess_and_law(denoiser, reverse, points, i, xt, cond)
        if i == len(points) - 2:
            return log_w - decoder_nats(model, process.state(x0), decoder)
        true = process.posterior(xt, x0, t, s, reverse.eta)
        xt = true.sample(rng)
        log_w = log_w + model.log_prob(xt) - true.log_prob(xt)
    raise UsageProblem("a chain needs at least one step")


def importance_weighted_bound(
    denoiser: Denoiser,
    reverse: Ancestral,
    points: list[Point],
    x0: Tensor,
    rng: Rng,
    cond: Cond = None,
    decoder: Discretised | None = None,
    samples: int = 8,
) -> Tensor:
    """The bound of each example, nats (batch,), by `samples` trajectories along a grid (noisy to clean)."""
    check_reverse(reverse)
    check_chain(denoiser.process, decoder)
    if samples < 1:
        raise UsageProblem(f"samples is {samples}, but the bound needs at least 1")
    logs = [log_weight(denoiser, reverse, points, x0, rng, cond, decoder) for _ in range(samples)]
    return math.log(samples) - torch.logsumexp(torch.stack(logs), 0)
