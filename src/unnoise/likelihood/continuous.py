r"""The variational bound in continuous time, for any Gaussian process (2107.00630, eq. 11-17):

    -log p(x) <= KL(q(x_1 | x) || p(x_1)) + 1/2 E_{t, eps}[-lambda'(t) |eps - eps_guess|^2] - E[log p(x | x_0)]

with lambda the log-SNR. The middle term is 1/2 int |eps - eps_guess|^2 dlambda: of the schedule, only its ends matter.
Everything here is differentiable, in a learned schedule's parameters too; training and evaluation share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Estimate, Normal, sum_event
from ..processes import Gaussian, Identity
from ..rng import Rng
from ..scalars import expm1
from .clock import Clock, clock, log_snr_slope
from .dequantise import bin_width


@dataclass(frozen=True)
class Softmax:
    """VDM's decoder: a law's density at each of `levels` grey levels in [-1, 1], normalised over them."""

    levels: int = 256

    def log_prob(self, law: Normal, x: Tensor) -> Tensor:
        """log of the probability of the level that each number of x is, nats (batch,)."""
        width, top = bin_width(self.levels), self.levels - 1
        std = torch.as_tensor(law.std, dtype=torch.float64, device=x.device).expand_as(x) / width
        mean, chosen = (law.mean.double() + 1) / width, ((x.double() + 1) / width).round().clamp(0, top)  # in levels
        # Levels that lie 40 deviations further from the mean than the nearest have e^-800 of its mass: nothing, in float64.
        reach = min(top, math.ceil(40 * float(std.detach().max())) + 1)
        few = 2 * reach < top
        span = torch.arange(-reach if few else 0, (reach if few else top) + 1, dtype=torch.float64, device=x.device)
        rows = []
        for m, s, k in zip(mean, std, chosen, strict=True):  # one example at a time: its levels are many numbers
            level = m.detach().round().clamp(0, top)[..., None] + span if few else span
            logits = -0.5 * ((m[..., None] - level) / s[..., None]).square()
            logits = logits.masked_fill((level < 0) | (level > top), -math.inf)
            rows.append((-0.5 * ((m - k) / s).square() - torch.logsumexp(logits, -1)).sum())
        return torch.stack(rows)


@dataclass(frozen=True)
class ContinuousTerms:
    """The bound of each example and its parts, nats (batch,)."""

    total: Tensor
    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor


def diffusion_nats(
    denoiser: Denoiser,
    x0: Tensor,
    u: Tensor,
    ticking: Clock,
    eps: Tensor,
    cond: Cond = None,
    steps: int | None = None,
) -> Tensor:
    """1/2 (-dlambda/du) |eps - eps_guess|^2 at clock times u (batch,): of expectation the bound's middle term for uniform u.

    Of a chain of T `steps`, for u = i/T: T/2 (e^(lambda(u - 1/T) - lambda(u)) - 1) |eps - eps_guess|^2.
    """
    process: Gaussian = denoiser.process  # type: ignore[assignment]
    x = process.state(x0).double()
    t, point, dt = ticking.at(u, x)
    guess = process.state(denoiser((point.alpha * x + point.sigma * eps).to(x0.dtype), t, cond).mean)
    error = point.alpha / point.sigma * (x - guess)
    if steps is None:
        fall = -log_snr_slope(point) * dt
    else:
        before = process.at(ticking.time((u - 1 / steps).clamp(min=0))[0], x)
        fall = steps * expm1(before.log_snr - point.log_snr)
    return 0.5 * sum_event(fall * error.square())


def prior_nats(process: Gaussian, x0: Tensor, high: float) -> Tensor:
    """KL(q(x_1 | x) || p(x_1))."""
    t = torch.full((len(x0),), high, dtype=torch.float64, device=x0.device)
    top = process.at(t, process.state(x0))
    return process.marginal(x0.double(), t).kl(process.prior(x0.shape, top))


def reconstruction_nats(
    denoiser: Denoiser, x0: Tensor, low: float, eps: Tensor, cond: Cond = None, levels: int | None = None
) -> Tensor:
    """-log p(x | x_0) given a draw of x_0: VDM's softmax over grey levels, or, for continuous data, the density of
    N(guess, v), v the denoiser's own variance where it knows it and (sigma/alpha)^2 where it does not."""
    process: Gaussian = denoiser.process  # type: ignore[assignment]
    x = process.state(x0).double()
    t = torch.full((len(x0),), low, dtype=torch.float64, device=x0.device)
    point = process.at(t, x)
    xt, ratio = point.alpha * x + point.sigma * eps, point.sigma / point.alpha
    if levels is not None:
        return -Softmax(levels).log_prob(Normal(xt / point.alpha, ratio), x)
    guess = denoiser(xt.to(x0.dtype), t, cond)
    known = isinstance(guess, Estimate) and guess.variance is not None
    std = guess.variance.double().sqrt() if known else ratio  # type: ignore[union-attr]
    return -Normal(process.state(guess.mean).double(), std).log_prob(x)


def continuous_bound(
    denoiser: Denoiser,
    x0: Tensor,
    rng: Rng,
    cond: Cond = None,
    *,
    levels: int | None = None,
    draws: int = 100,
    even_in: str = "log-snr",
    start: float | None = None,
    steps: int | None = None,
) -> ContinuousTerms:
    """The bound of each example by `draws` noise levels, spread evenly over log-SNR or over t from one offset of its own.

    With `steps`, of a chain of so many, spaced evenly as the draws are. Levels None: continuous data. Raises UsageProblem for
    processes without log-SNR, or grey levels in another basis.
    """
    process = denoiser.process
    ticking = clock(process, start, "bound in continuous time")
    if steps is not None and steps < 1:
        raise UsageProblem(f"a chain of {steps} steps has no bound; take 1 or more, or none for continuous time")
    if draws < 1 or even_in not in ("log-snr", "time"):
        raise UsageProblem(f"the bound needs draws of 1 or more, even in log-snr or time, not {draws} and {even_in!r}")
    if levels is not None and not isinstance(process.basis, Identity):  # type: ignore[union-attr]
        raise UsageProblem(
            "grey levels are not independent in this process's basis, so its bound has no decoder for them"
        )
    if even_in == "time":
        ticking = Clock(ticking.process, ticking.low, ticking.high)
    offset = rng.uniform().to(x0.device)
    diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for i in range(draws):
        u = (offset + i / draws) % 1.0
        u = u if steps is None else (u * steps).floor().add(1).clamp(max=steps) / steps
        eps = rng.normal(*x0.shape[1:], dtype=torch.float64).to(x0.device)
        diffusion = diffusion + diffusion_nats(denoiser, x0, u, ticking, eps, cond, steps) / draws
    eps = rng.normal(*x0.shape[1:], dtype=torch.float64).to(x0.device)
    prior = prior_nats(ticking.process, x0, ticking.high)  # type: ignore[arg-type]
    reconstruction = reconstruction_nats(denoiser, x0, ticking.low, eps, cond, levels)
    return ContinuousTerms(prior + diffusion + reconstruction, prior, diffusion, reconstruction)
