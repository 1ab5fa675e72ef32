"""An objective in the denoiser's space."""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..rng import Rng
from .objective import Around, Loss


class Encoded(Around):
    """An objective on what `denoiser.space` makes of the data, and of pictures among the conditions: latents, which nothing is
    learned through."""

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        with torch.no_grad():
            z0 = denoiser.space.encode(x0, rng)
        return self.objective(denoiser, z0, denoiser.space.told(cond), rng, turn)
