"""A network denoiser that keeps count of its own error, so that reverse steps can have the variance that fits it best."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..laws import Estimate
from ..processes import Gaussian
from ..scalars import column
from .denoiser import Cond, NetworkDenoiser
from .preconditioning import Preconditioning


class Matched(NetworkDenoiser):
    r"""Gives, as the variance of its guess, the mean square error it made in training at this level of a chain of `levels`.

    With it the "optimal" reverse step (see `Ancestral`) has the variance of greatest likelihood among all that are one
    number for each level, s^2 = v + (a^2 / d) E|x_0 - x_0_guess|^2 for a guess with weight a in the posterior's mean.

    The errors are running means over a level's last visits, about `memory` of them, of the guess clipped to [-1, 1] as it
    is in sampling; they are buffers, as batch normalisation's are, and 1 at levels never seen.
    """

    errors: Tensor
    visits: Tensor

    def __init__(
        self, network: nn.Module, process: Gaussian, preconditioning: Preconditioning, levels: int, memory: int = 30
    ):
        super().__init__(network, process, preconditioning)
        self.levels, self.memory = levels, memory
        self.register_buffer("errors", torch.ones(levels))
        self.register_buffer("visits", torch.zeros(levels, dtype=torch.int64))

    def level(self, t: Tensor) -> Tensor:
        """The place in the table of each time (batch,)."""
        return (t * self.levels).round().long().clamp(1, self.levels) - 1

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        estimate = super().forward(xt, t, cond)
        error = column(self.errors[self.level(t)].to(xt.dtype), xt)
        return replace(estimate, variance=error.expand(xt.shape))

    @torch.no_grad()
    def learn(self, t: Tensor, guess: Tensor, x0: Tensor) -> None:
        """Take in the errors of guesses of x0 made at times t."""
        errors = (guess.clamp(-1, 1) - x0).square().flatten(1).mean(1)
        level = self.level(t)
        count = torch.zeros_like(self.visits).index_add_(0, level, torch.ones_like(level))
        total = torch.zeros_like(self.errors).index_add_(0, level, errors.to(self.errors.dtype))
        self.visits += count
        rate = (count / self.visits.clamp(min=1, max=self.memory)).clamp(max=1)
        self.errors += rate * (total / count.clamp(min=1) - self.errors)
