r"""Denoisers that jump: a second time says how far, and one call goes there along the flow.

The probability-flow ODE from t to s < t is solved by a straight step in x/alpha whose guess is the denoiser's average along the
way. With rho = sigma/alpha,

    G(x_t, t, s) / alpha_s = rho_s/rho_t x_t/alpha_t + (1 - rho_s/rho_t) g(x_t, t, s),
    g(x_t, t, s) = int_s^t D(x_u, u) d(1/rho_u) / int_s^t d(1/rho_u),

so g(x_t, t, t) = D(x_t, t) is the denoiser, G(x_t, t, t) = x_t whatever the network, and G is DDIM's step with g as its guess
(2310.02279; there alpha = 1 and rho is the time). As a mean of guesses g is guided and thresholded as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..laws import Estimate
from ..processes import Gaussian
from .denoiser import TOWARD, Cond, Denoiser, NetworkDenoiser
from .preconditioning import Preconditioning


class Jumping(NetworkDenoiser):
    """g(x_t, t, s) by a network that is told two times, s in `cond["toward"]`; where none is given, the denoiser g(x_t, t, t).

    No s below `end` is told, nor any above t: jumps to clean data are told the end, the least time there was in training.
    """

    jumps = True

    def __init__(self, network: nn.Module, process: Gaussian, preconditioning: Preconditioning, end: float):
        super().__init__(network, process, preconditioning)
        self.end = end

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        told = dict(cond or {})
        s = torch.minimum(told.get(TOWARD, t).double().clamp(min=self.end), t.double())
        told[TOWARD] = self.preconditioning.c_noise(s, self.process.schedule.log_snr(s))
        return super().forward(xt, t, told)


def jump(denoiser: Denoiser, xt: Tensor, t: Tensor, s: Tensor, cond: Cond = None) -> Tensor:
    """G(x_t, t, s): the state at times s (batch,), by one call of a denoiser that jumps. Differentiable in x_t."""
    guess = denoiser(xt, t, {**(cond or {}), TOWARD: s}).mean
    return denoiser.process.posterior(xt, guess, t, s, eta=0.0).mean
