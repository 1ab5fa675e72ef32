"""Score entropy, the proper loss of ratios (2310.16834), and the squared error that it takes the place of."""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..laws import Law, sum_event
from ..likelihood import bits_per_dim
from ..likelihood.jump import check_jump, score_entropy_nats
from ..processes import Jump
from ..rng import Rng
from .objective import Loss, Objective
from .times import Times


class ScoreEntropy(Objective):
    r"""E_t sigma(t) sum_i sum_{y != x^i} Q[x^i, y] (s_y - r_y log s_y + r_y (log r_y - 1)), in nats of a whole example.

    With t uniform it is the bound of the likelihood but for the ends of time. The line "bits" has it per token.
    """

    def __init__(self, times: Times):
        super().__init__()
        self.times = times

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = check_jump(denoiser.process)
        t, importance = self.times.sample(process, rng)
        xt = process.corrupt(x0, t, rng)
        error = self.error(process, denoiser(xt, t, cond), x0, xt, t)
        loss = importance.to(error.dtype) * error
        return Loss(loss, self.told(loss.detach(), x0), t, error.detach())

    def error(self, process: Jump, guess: Law, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """What a guess at x_t is charged, per unit of t: (batch,)."""
        return score_entropy_nats(process, guess, x0, xt, t)

    def told(self, loss: Tensor, x0: Tensor) -> dict[str, Tensor]:
        return {"bits": bits_per_dim(loss, x0)}

    def observe(self, loss: Loss) -> None:
        if loss.t is not None and loss.unweighted is not None:
            self.times.observe(loss.t, loss.unweighted)


class SquaredRatios(ScoreEntropy):
    r"""E_t sigma(t) 1/2 sum_i sum_{y != x^i} Q[x^i, y] (s_y - r_y)^2: concrete score matching (2211.00802), no bound of anything.

    Ratios grow without bound as t falls. `scaled` takes the error times e^sbar - 1, by which those of the absorbing graph become
    probabilities over sbar's odds: then it is Brier's score where score entropy is a cross-entropy, at the same weights of t.
    """

    def __init__(self, times: Times, scaled: bool = False):
        super().__init__(times)
        self.scaled = scaled

    def error(self, process: Jump, guess: Law, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        point = process.at(t, xt)
        total, rate = point.total.squeeze(-1), point.rate.squeeze(-1)  # type: ignore[union-attr]
        weight = rate * torch.expm1(total) if self.scaled else rate
        terms = process.graph.squared_error(process.log_ratios(guess, xt, t), xt, x0, total)
        return sum_event(weight.to(terms.dtype) * terms)

    def told(self, loss: Tensor, x0: Tensor) -> dict[str, Tensor]:
        return {}
