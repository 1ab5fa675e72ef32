"""Random mirror images, the one augmentation that the early papers share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..rng import Rng
from ..scalars import column
from .objective import Around, Loss


class Flipped(Around):
    """An objective on images that are mirrored left to right with probability 1/2."""

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        mirrored = column(rng.bernoulli(0.5), x0)
        return self.objective(denoiser, torch.where(mirrored, x0.flip(-1), x0), cond, rng, turn)
