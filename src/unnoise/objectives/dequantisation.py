"""What teaches a dequantiser: its own bound, with a density that stands still."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..denoisers.denoiser import Cond
from ..likelihood.bound import bits_per_dim
from ..likelihood.dequantise import Dequantiser
from ..rng import Rng
from .objective import Loss, Objective


class Dequantisation(Objective):
    """log q(y | x) - log p(y), y from q, in bits per dimension: of expectation at least -log P(x) (1902.00275, eq. 12).

    nats    nats(y, cond, rng) -> -log p(y), or an estimate of a bound of it, (batch,), differentiable in y
    levels  grey levels of the data

    The dequantiser stands in the denoiser's place, and is all that moves.
    """

    def __init__(self, nats: Callable[[Tensor, Cond, Rng], Tensor], levels: int):
        super().__init__()
        self.nats, self.levels = nats, levels

    def forward(self, denoiser: Dequantiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:  # type: ignore[override]
        y, log_q = denoiser(x0, self.levels, rng)
        density = self.nats(y, cond, rng)
        terms = {"density": bits_per_dim(density, x0), "dequantisation": bits_per_dim(log_q, x0)}
        return Loss(bits_per_dim(density + log_q, x0), terms)
