"""Training with hints."""

from __future__ import annotations

from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..hints import Hint
from ..rng import Rng
from .objective import Around, Loss, Objective


class Hinted(Around):
    """An objective on pictures of which the network is told something: `hint` of them, drawn anew at every step."""

    def __init__(self, objective: Objective, hint: Hint):
        super().__init__(objective)
        self.hint = hint

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        return self.objective(denoiser, x0, {**(cond or {}), **self.hint(x0, rng)}, rng, turn)
