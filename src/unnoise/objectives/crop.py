"""Training on stretches of long sounds."""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..rng import Rng
from .objective import Around, Loss, Objective


class Cropped(Around):
    """An objective on `length` samples of each sound (batch, channels, samples), from a random multiple of `hop` on.

    Conditions (batch, ..., frames) with a frame every `hop` samples, floating-point, are cut at the same place: frames
    k ... k + length / hop belong to the samples from k hop on. Others are left as they are.
    """

    def __init__(self, objective: Objective, length: int, hop: int = 1):
        super().__init__(objective)
        if length < 1 or hop < 1 or length % hop:
            raise UsageProblem(f"a crop must be a multiple of the hop of {hop} samples, and {length} is not")
        self.length, self.hop = length, hop

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        room = x0.shape[-1] - self.length
        if room < 0:
            raise UsageProblem(f"a crop of {self.length} samples does not fit sounds of {x0.shape[-1]}; shorten it")
        k = rng.integers(room // self.hop + 1)
        told = cond and {
            name: self._cut(value, k, self.length // self.hop + 1) if value.is_floating_point() else value
            for name, value in cond.items()
        }
        return self.objective(denoiser, self._cut(x0, k * self.hop, self.length), told, rng, turn)

    @staticmethod
    def _cut(x: Tensor, start: Tensor, length: int) -> Tensor:
        return torch.stack([row[..., i : i + length] for row, i in zip(x, start.tolist(), strict=True)])
