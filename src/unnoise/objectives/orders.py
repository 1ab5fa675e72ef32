"""Autoregression as a loss: in any order, or from left to right."""

from __future__ import annotations

import math

from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..likelihood.orders import at_once, on_masks, per_symbol
from ..rng import Rng
from .objective import Loss, Objective
from .times import Stratified, Times


class OrderAgnostic(Objective):
    r"""The bound at one random t: D/n sum over the n unknown symbols of -log p(x_i | x_t), bits per symbol (2110.02037).

    All unknown positions are compared, not only the next, and 1/n makes that unbiased. `plain` adds so much of the sum without
    1/n, per symbol. The process keeps what a symbol cost at each t, for schedules that take several at a step.
    """

    def __init__(self, steps: int, plain: float = 0.0, times: Times | None = None):
        super().__init__()
        self.plain, self.times = plain, times or Stratified(steps)
        self._seen: tuple[Tensor, Tensor] | None = None

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        masking = on_masks(denoiser)
        process = masking.process
        t, importance = self.times.sample(process, rng)
        nats = per_symbol(masking, x0, t, rng, cond)
        bits = process.stages * nats / math.log(2)
        unknown = (process.left(t, len(t)) - 1) % process.length + 1
        plain = self.plain * nats * unknown.to(nats.device) / (process.length * math.log(2))
        total = importance * bits + plain
        return Loss(total.float(), {"bits": bits.detach()}, t, nats.detach())

    def observe(self, loss: Loss) -> None:
        if loss.t is not None and loss.unweighted is not None:
            self.times.observe(loss.t, loss.unweighted)
            self._seen = loss.t, loss.unweighted

    def follow(self, denoiser: Denoiser) -> None:
        if self._seen is not None:
            denoiser.process.observe(*self._seen)  # type: ignore[attr-defined]
            self._seen = None


class LeftToRight(Objective):
    """-log p of a causal network, all symbols in one call: bits per symbol."""

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        nats = at_once(denoiser, x0, cond)
        if nats is None:
            raise UsageProblem("to learn from left to right takes a causal network (NextSymbols)")
        return Loss((nats / (x0[0].numel() * math.log(2))).float())
