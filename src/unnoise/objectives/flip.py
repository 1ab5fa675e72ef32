"""Random mirror images, the one augmentation that the early papers share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..rng import Rng
from .objective import Loss, Objective


class Flipped(Objective):
    """An objective on images that are mirrored left to right with probability 1/2."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective, self.turns = objective, objective.turns

    def parameters_of(self, denoiser: Denoiser, turn: str):
        return self.objective.parameters_of(denoiser, turn)

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        mirrored = rng.bernoulli(0.5).reshape(-1, *[1] * (x0.ndim - 1))
        return self.objective(denoiser, torch.where(mirrored, x0.flip(-1), x0), cond, rng, turn)

    def observe(self, loss: Loss) -> None:
        self.objective.observe(loss)
