"""Compare the restored image with the truth, pixel by pixel."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..rng import Rng
from .matching import mean_event
from .objective import Loss, Objective
from .times import Times


class Restoration(Objective):
    r"""E_t mean_d |x_0_guess - x_0|, or its square: cold diffusion's loss (2208.09392), on any process.

    levels    if given, the states that the network sees are rounded to so many grey levels in [-1, 1], so that what a
              degradation hides in the digits behind them is gone.
    """

    def __init__(self, times: Times, norm: Literal["l1", "l2"] = "l1", levels: int | None = None):
        super().__init__()
        self.times, self.norm, self.levels = times, norm, levels

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        t, importance = self.times.sample(denoiser.process, rng)
        xt = denoiser.process.corrupt(x0, t, rng)
        if self.levels is not None:
            half = (self.levels - 1) / 2
            xt = ((xt + 1) * half).round() / half - 1
        error = denoiser(xt, t, cond).mean - x0
        unweighted = mean_event(error.abs() if self.norm == "l1" else error.square())
        return Loss(importance.to(x0.dtype) * unweighted, t=t, unweighted=unweighted.detach())
