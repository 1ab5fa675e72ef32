r"""The bound of a jump process in continuous time (2310.16834):

    -log p(x_0) <= KL(q(x_1 | x_0) || p(x_1)) + int_start^1 E[score entropy] dt - E[log p(x_0 | x_start)]

for any positive ratios. The last term is the paper's with the integral cut off: the tokens are read off at `start`, with
probabilities in proportion to exp(sbar Q)[x, y] s_y, which are positive, and exact where that total is small or absorbs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Law, sum_event
from ..processes import Jump, Process
from ..rng import Rng
from .continuous import ContinuousTerms


def check_jump(process: Process) -> Jump:
    """Refuses, with a sentence, a process without jump rates."""
    if not isinstance(process, Jump):
        raise UsageProblem(
            f"score entropy compares the ratios of tokens that jump, and this model's process is {type(process).__name__}"
        )
    return process


def score_entropy_nats(process: Jump, guess: Law, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """sigma(t) times the score entropy of a guess at x_t, summed over the tokens: nats per unit of t, (batch,)."""
    point = process.at(t, xt)
    total, rate = point.total.squeeze(-1), point.rate.squeeze(-1)  # type: ignore[union-attr]
    terms = process.graph.score_entropy(process.log_ratios(guess, xt, t), xt, x0, total)
    return sum_event(rate.to(terms.dtype) * terms)


def read_off(process: Jump, guess: Law, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """-log p(x_0 | x_t) where nearly all tokens are as they were, nats (batch,)."""
    graph, total = process.graph, process.at(t, xt).total
    weights = graph.row(total, xt) * process.log_ratios(guess, xt, t).double().exp()
    log_weights = weights[..., : graph.tokens].log()
    return -sum_event((log_weights - log_weights.logsumexp(-1, keepdim=True)).gather(-1, x0[..., None]).squeeze(-1))


def jump_bound(
    denoiser: Denoiser, x0: Tensor, rng: Rng, cond: Cond = None, *, draws: int = 100, start: float | None = None
) -> ContinuousTerms:
    """The bound of each example by `draws` times, spread evenly over t from one offset of its own; `start` is 1/1000 if left
    out."""
    process, start = check_jump(denoiser.process), 1e-3 if start is None else start
    if draws < 1 or not 0 < start < 1:
        raise UsageProblem(f"the bound needs draws of 1 or more and a start between 0 and 1, not {draws} and {start}")
    offset = rng.uniform().to(x0.device)
    diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for i in range(draws):
        t = start + (1 - start) * ((offset + i / draws) % 1.0)
        xt = process.corrupt(x0, t, rng)
        nats = score_entropy_nats(process, denoiser(xt, t, cond), x0, xt, t)
        diffusion = diffusion + (1 - start) / draws * nats.double()
    t = torch.full_like(offset, start)
    xt = process.corrupt(x0, t, rng)
    reconstruction = read_off(process, denoiser(xt, t, cond), x0, xt, t)
    top = process.point(1.0)
    prior = process.marginal(x0, top).kl(process.prior(x0.shape, top)).to(x0.device)
    return ContinuousTerms(prior + diffusion + reconstruction, prior, diffusion, reconstruction)
