"""The exact denoiser of a mixture under a linear SDE: what a state of several parts says of x_0 is one Gaussian observation."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..laws import Correlated, Estimate, sum_event
from ..processes import LinearSDE
from .mixture import Mixture, _coefficient


class LinearMixtureDenoiser(Denoiser[LinearSDE]):
    """E[x_0 | u_t] and Var[x_0 | u_t] themselves, of a mixture of Gaussians independent over the event."""

    def __init__(self, mixture: Mixture, process: LinearSDE):
        super().__init__()
        self.mixture, self.process = mixture, process

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        y, std = self.process.observation(xt, t)
        label = None if cond is None else cond.get("label")
        found = self.mixture.estimate(y, _coefficient(torch.ones(()), y), _against(std, y), label)
        return replace(found, mean=found.mean.to(xt), variance=found.variance.to(xt))  # type: ignore[union-attr]

    def log_prob(self, xt: Tensor, t: Tensor) -> Tensor:
        """log p(u_t), nats (batch,): that of y, and of u_t given x_0 = y."""
        y, std = self.process.observation(xt, t)
        spread = _against(std, y)
        of_y = self.mixture.evidence(y, _coefficient(torch.ones(()), y), spread)
        law = self.process.marginal(y, t)
        rest = Correlated(law.mean, law.root).log_prob(xt.double())
        return of_y + rest + sum_event((spread.log() + 0.5 * math.log(2 * math.pi)).expand_as(y))


def _against(std: Tensor, y: Tensor) -> Tensor:
    return std.reshape(-1, *[1] * (y.ndim - 1)).expand(len(y), *[1] * (y.ndim - 1))
