r"""VDM's bound as a loss, in continuous time or of T steps, with a schedule that learns (2107.00630).

The parts are those of `likelihood/continuous.py`, in bits per dimension. The ends of a learned schedule follow the bound.
Its interior cannot: the bound does not depend on it. It is there to lower the variance of the estimate over t, that is
E[L^2] of the diffusion term. What the network does at a noise level does not depend on when that level comes, so with L
at a fixed log-SNR the density of noise levels, 1 / (-lambda'(t)), is all that the interior moves:

    d E[L^2] = E_t[L^2 d log lambda'(t(lambda))] = E_t[L^2 (d m' / m' - m'' d m / m'^2)],

m(t) the share of the way between the ends. That is a gradient of the schedule alone, beside the bound's own backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..likelihood import bits_per_dim
from ..likelihood.clock import Clock
from ..likelihood.continuous import diffusion_nats, prior_nats, reconstruction_nats
from ..processes import Gaussian, Identity, Process
from ..rng import Rng
from ..schedules import Learned
from .objective import Loss, Objective
from .times import Stratified, Times

INTERIOR = 1e-3
"""The share of E[L^2] in the loss. AdamW does not care for it; it keeps the gradient's norm, and its clipping, the bound's."""


class VLB(Objective):
    """prior + diffusion + reconstruction, bits/dim, from one time and one noise for each example.

    levels     grey levels of the data, for the decoder; None: continuous data, of which the bound is a density.
    steps      T of the discrete-time bound, T/2 (e^(lambda_s - lambda_t) - 1) |eps - eps_guess|^2; None: its limit.
    times      the distribution of t; by default evenly over the batch, at i / T where there are steps.
    variance   whether a learned schedule's interior minimises the variance; it rests otherwise.
    """

    def __init__(
        self, levels: int | None = None, steps: int | None = None, times: Times | None = None, variance: bool = True
    ):
        super().__init__()
        self.levels, self.steps, self.variance = levels, steps, variance
        self.times = times or Stratified(steps)

    def parameters_of(self, denoiser: Denoiser, turn: str) -> Iterable[nn.Parameter]:
        self.check(denoiser.process)
        return super().parameters_of(denoiser, turn)

    def check(self, process: Process) -> None:
        """Refuses processes that have no such bound."""
        if not isinstance(process, Gaussian) or process.point(0.0).is_clean:
            raise UsageProblem(
                "the bound in log-SNR needs a Gaussian process that keeps some noise at t = 0; choose a learned schedule"
            )
        if self.levels is not None and not isinstance(process.basis, Identity):
            raise UsageProblem("grey levels are not independent in this process's basis, so its bound has no decoder")

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process: Gaussian = denoiser.process  # type: ignore[assignment]
        t, importance = self.times.sample(process, rng)
        eps, first = (rng.normal(*x0.shape[1:], dtype=torch.float64).to(x0.device) for _ in range(2))
        with at_rest(process.schedule):
            ticking = Clock(process, 0.0, 1.0)
            parts = {
                "prior": prior_nats(process, x0, 1.0),
                "diffusion": diffusion_nats(denoiser, x0, t, ticking, eps, cond, self.steps),
                "reconstruction": reconstruction_nats(denoiser, x0, 0.0, first, cond, self.levels),
            }
        parts = {name: bits_per_dim(nats, x0) for name, nats in parts.items()}
        total = parts["prior"] + importance * parts["diffusion"] + parts["reconstruction"]
        if self.variance:
            spread = INTERIOR * spread_gradient(process.schedule, t, (importance * parts["diffusion"]).detach())
            total = total + (spread - spread.detach())  # a gradient, no loss
        unweighted = parts["diffusion"].detach()
        terms = {name: value.detach() for name, value in parts.items()}
        return Loss(total.to(x0.dtype), terms, t.detach(), unweighted)

    def on_eps(self, on: Denoiser | Process, t: Tensor) -> tuple[Tensor, Times]:
        process: Gaussian = on if isinstance(on, Process) else on.process  # type: ignore[assignment]
        if self.steps is None:
            alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
            dalpha, dsigma = process.schedule.derivatives(t)
            fall = 2 * (dsigma / sigma - dalpha / alpha)
        else:
            log_snr = process.schedule.log_snr
            fall = self.steps * torch.expm1(log_snr((t - 1 / self.steps).clamp(min=0)) - log_snr(t))
        return fall / (2 * math.log(2)), self.times

    def observe(self, loss: Loss) -> None:
        if loss.t is not None and loss.unweighted is not None:
            self.times.observe(loss.t, loss.unweighted)


def spread_gradient(schedule: nn.Module, t: Tensor, loss: Tensor) -> Tensor:
    """Numbers (batch,) whose mean's gradient in the interior of a learned schedule is that of E[loss^2], for losses at t."""
    if not isinstance(schedule, Learned) or not any(p.requires_grad for p in schedule.interior):
        return torch.zeros_like(loss)
    share, slope, bend = schedule.course(t)
    return loss.square() * (slope / slope.detach() - (bend / slope.square()).detach() * share)


@contextmanager
def at_rest(schedule: nn.Module) -> Iterator[None]:
    """Inside, the interior of a learned schedule takes no gradient: the bound's would be noise of mean zero."""
    moving = [p for p in getattr(schedule, "interior", []) if p.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
