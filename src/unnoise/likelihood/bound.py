r"""The variational bound of a chain, in nats and bits per dimension.

    -log p(x_0) <= KL(q(x_T | x_0) || p(x_T)) + sum_{i=2..T} KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i)) - log p(x_0 | x_1)

The last term needs a decoder: the probability of the grey level that x_0 is (`Discretised`), or the density of N (`None`,
for continuous data). The model's reverse law is the sampler's own, `Ancestral.law`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Estimate, Law, Normal, sum_event
from ..processes import Identity, Process
from ..processes.gaussian import Point
from ..rng import Rng
from ..samplers.ancestral import Ancestral


@dataclass(frozen=True)
class Discretised:
    """log of the mass that N(mean, std^2) gives to the grey-level bin of x, for `levels` levels evenly spaced in [-1, 1].

    The outermost bins reach to infinity (2006.11239, eq. 13, with the exact normal distribution function).
    """

    levels: int = 256

    def log_prob(self, law: Normal, x: Tensor) -> Tensor:
        half = 1 / (self.levels - 1)
        std = torch.as_tensor(law.std, dtype=torch.float64, device=x.device)
        centre = (x - law.mean).double()
        upper, lower = (centre + half) / std, (centre - half) / std
        # log(Phi(upper) - Phi(lower)), mirrored so that both lie in the lower tail, where log Phi keeps its digits
        flip = (upper + lower) > 0
        upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
        log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
        bin_ = log_upper + torch.log(-torch.expm1((log_lower - log_upper).clamp(max=-1e-15)))
        first = torch.special.log_ndtr((centre + half) / std)
        last = torch.special.log_ndtr(-(centre - half) / std)
        edge = 1 - half
        return sum_event(torch.where(x < -edge, first, torch.where(x > edge, last, bin_)))


def decoder_nats(law: Law, x0: Tensor, decoder: Discretised | None) -> Tensor:
    """-log p(x_0 | x_1), nats (batch,)."""
    return -(law.log_prob(x0) if decoder is None else decoder.log_prob(law, x0))  # type: ignore[arg-type]


def bits_per_dim(nats: Tensor, x0: Tensor) -> Tensor:
    """Nats of a whole example to bits per dimension."""
    return nats / (x0[0].numel() * math.log(2))


def check_reverse(reverse: Ancestral) -> None:
    """Refuses a deterministic chain, whose steps have no density."""
    if reverse.eta == 0:
        raise UsageProblem("a chain with eta 0 is deterministic, so it has no variational bound; take eta above 0")


def check_chain(process: Process, decoder: Discretised | None = None) -> None:
    """Refuses a process without densities, and grey levels where the noise is not independent over pixels."""
    if not process.dense:
        raise UsageProblem(
            f"a {type(process).__name__} process has no densities, so it has no bound and no likelihood; measure its samples"
        )
    if decoder is not None and not isinstance(getattr(process, "basis", Identity()), Identity):
        raise UsageProblem(
            "grey levels are decoded pixel by pixel, and this process is independent over frequencies; take the method flow"
        )


def guess_and_law(
    denoiser: Denoiser, reverse: Ancestral, points: list[Point], i: int, xt: Tensor, cond: Cond
) -> tuple[Law, Law]:
    """The denoiser's law of x_0 at point i of a chain, and the model's p(x_s | x_t) at the next."""
    t, s = points[i], points[i + 1]
    guess = denoiser(xt, t.over(xt), cond)
    return guess, reverse.law(denoiser.process, guess, xt, t, s, before=points[i - 1] if i else None)


@dataclass(frozen=True)
class BoundTerms:
    """The bound of each example, bits/dim (batch,), and its parts; `steps` (batch, T) from the first step (decoder) up."""

    total: Tensor
    prior: Tensor
    steps: Tensor
    mse: Tensor


def _squared_error(guess: Law, x0: Tensor) -> Tensor:
    """Of the mean, per dimension (batch,); of a guess that has none (tokens), not a number."""
    if not isinstance(guess, Estimate):
        return torch.full((len(x0),), math.nan, device=x0.device)
    return (guess.mean - x0).square().flatten(1).mean(1)


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    reverse: Ancestral,
    points: list[Point],
    x0: Tensor,
    rng: Rng,
    cond: Cond = None,
    decoder: Discretised | None = None,
) -> BoundTerms:
    """The bound along a grid (noisy to clean), one noise draw for each step."""
    check_reverse(reverse)
    check_chain(denoiser.process, decoder)
    process = denoiser.process
    top = points[0]
    steps, errors = [], []
    for i, (t, s) in enumerate(pairwise(points)):
        xt = process.corrupt(x0, t, rng)
        guess, law = guess_and_law(denoiser, reverse, points, i, xt, cond)
        if i == len(points) - 2:
            nats = decoder_nats(law, process.state(x0), decoder)
        else:
            nats = process.posterior(xt, x0, t, s, reverse.eta).kl(law)
        steps.append(bits_per_dim(nats, x0))
        errors.append(_squared_error(guess, x0))
    prior = bits_per_dim(process.marginal(x0, top).kl(process.prior(x0.shape, top)), x0)
    stacked = torch.stack(steps[::-1], 1)
    return BoundTerms(prior + stacked.sum(1), prior, stacked, torch.stack(errors[::-1], 1))
