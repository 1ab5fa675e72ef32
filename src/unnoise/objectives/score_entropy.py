"""Score entropy: the proper loss of ratios (2310.16834)."""

from __future__ import annotations

from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..likelihood import bits_per_dim
from ..likelihood.jump import check_jump, score_entropy_nats
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
        nats = score_entropy_nats(process, denoiser(xt, t, cond), x0, xt, t)
        loss = importance.to(nats.dtype) * nats
        return Loss(loss, {"bits": bits_per_dim(loss.detach(), x0)}, t, nats.detach())

    def observe(self, loss: Loss) -> None:
        if loss.t is not None and loss.unweighted is not None:
            self.times.observe(loss.t, loss.unweighted)
