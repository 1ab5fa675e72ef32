"""The variational bound as a loss, and improved-ddpm's hybrid of it with the simple loss."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..denoisers.guidance import drop
from ..errors import UsageProblem
from ..laws import Estimate, Law, Normal
from ..likelihood import Discretised, bits_per_dim, check_chain, check_reverse, decoder_nats
from ..processes import Gaussian, Process
from ..rng import Rng
from ..samplers.ancestral import Ancestral
from .matching import mean_event
from .objective import Loss, Objective
from .times import Times
from .weightings import Eps, Integral, Weighting


class Bound(Objective):
    r"""T times the bound's term of one random step of a chain of T, in bits/dim: an unbiased estimate of L - L_T.

    The term is KL(q(x_s | x_t, x_0) || p(x_s | x_t)), or the decoder's -log p(x_0 | x_1) at the first step.
    """

    def __init__(
        self, steps: int, times: Times, reverse: Ancestral, decoder: Discretised | None = None, drop: float = 0.0
    ):
        super().__init__()
        check_reverse(reverse)
        self.steps, self.times, self.reverse, self.decoder, self.drop = steps, times, reverse, decoder, drop

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        check_chain(process, self.decoder)
        t, importance = self.times.sample(process, rng)
        if self.drop > 0:
            cond = drop(cond, rng.bernoulli(self.drop))
        xt = process.corrupt(x0, t, rng)
        return self.compare_at(denoiser, x0, xt, t, denoiser(xt, t, cond), importance)

    def compare_at(self, denoiser: Denoiser, x0: Tensor, xt: Tensor, t: Tensor, guess: Law, importance: Tensor) -> Loss:
        unweighted = self.steps * self.term(denoiser, x0, xt, t, guess).to(x0.dtype)
        return Loss(importance.to(x0.dtype) * unweighted, t=t, unweighted=unweighted.detach())

    def term(self, denoiser: Denoiser, x0: Tensor, xt: Tensor, t: Tensor, guess: Law) -> Tensor:
        """The bound's term of the step from t to t - 1/steps, bits/dim (batch,)."""
        process = denoiser.process
        first = t * self.steps < 1.5
        # The decoder's step and the others are two formulas; each is evaluated at times where it is finite, then chosen.
        inner, two = torch.where(first, 2 / self.steps, t), torch.full_like(t, 2 / self.steps)
        one, zero = torch.full_like(t, 1 / self.steps), torch.zeros_like(t)
        below = inner - 1 / self.steps
        model = self.reverse.law(process, guess, xt, inner, below)
        divergence = process.posterior(xt, x0, inner, below, self.reverse.eta).kl(model)
        if not bool(first.any()):
            return bits_per_dim(divergence, x0)
        last = self.reverse.law(process, guess, xt, one, zero, before=two)
        return bits_per_dim(torch.where(first, decoder_nats(last, process.state(x0), self.decoder), divergence), x0)

    def on_eps(self, on: Denoiser | Process, t: Tensor) -> tuple[Tensor, Times]:
        """Of the steps before the decoder's. Learned variances lie between the small, of which this speaks, and the large."""
        process = on if isinstance(on, Process) else on.process
        t = t.clamp(min=2 / self.steps)
        zero, one = torch.zeros(len(t), 1, dtype=torch.float64), torch.ones(len(t), 1, dtype=torch.float64)
        guess = Estimate(one, variance=zero, fraction=zero)  # of a reverse mean that is linear in it, the factor itself
        law: Normal = self.reverse.law(process, guess, zero, t, t - 1 / self.steps)  # type: ignore[assignment]
        point = process.at(t, zero)  # type: ignore[union-attr]
        on_eps = 0.5 * (law.mean / law.std * point.sigma / point.alpha) ** 2
        return self.steps / math.log(2) * on_eps[:, 0], self.times

    def observe(self, loss: Loss) -> None:
        if loss.t is not None and loss.unweighted is not None:
            self.times.observe(loss.t, loss.unweighted)


class Hybrid(Objective):
    r"""improved-ddpm's L_simple + weight L_vlb (2102.09672, eq. 16): the bound teaches the variance alone.

    The mean is detached inside the bound, so the network's noise estimate learns from the simple loss only, whose squared
    error of eps may have a `weighting` (P2).
    """

    def __init__(self, bound: Bound, weight: float = 0.001, weighting: Weighting | None = None):
        super().__init__()
        self.bound, self.weight, self.weighting = bound, weight, weighting or Eps()
        if isinstance(self.weighting, Integral):
            raise UsageProblem(
                f"{type(self.weighting).__name__} weights an integral over log-SNR, and the hybrid loss a sum over steps; "
                "take eps, p2 or min-snr"
            )

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        t, importance = self.bound.times.sample(process, rng)
        if self.bound.drop > 0:
            cond = drop(cond, rng.bernoulli(self.bound.drop))
        xt = process.corrupt(x0, t, rng)
        guess = denoiser(xt, t, cond)
        eps, guessed = process.noise(xt, x0, t), process.noise(xt, guess.mean, t)
        factor = importance * self._factor(process, t)
        simple = factor.to(x0.dtype) * mean_event((guessed - eps).square())
        vlb = self.bound.compare_at(denoiser, x0, xt, t, replace(guess, mean=guess.mean.detach()), importance)
        total = simple + self.weight * vlb.per_example
        return Loss(total, {"simple": simple.detach(), "bound": vlb.per_example.detach()}, t, vlb.unweighted)

    def _factor(self, process: Gaussian, t: Tensor) -> Tensor:
        """What the weighting gives a squared error of eps at each t (batch,)."""
        point = process.at(t, t)
        return torch.as_tensor(self.weighting.on_eps(point), dtype=torch.float64, device=t.device).expand(len(t))

    def on_eps(self, on: Denoiser | Process, t: Tensor) -> tuple[Tensor, Times]:
        process = on if isinstance(on, Process) else on.process
        return self._factor(process, t), self.bound.times  # type: ignore[arg-type]

    def observe(self, loss: Loss) -> None:
        self.bound.observe(loss)
