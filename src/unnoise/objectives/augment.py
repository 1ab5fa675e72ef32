"""EDM's non-leaky augmentation: the network is told how each image was bent, and told 'not at all' when sampling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..rng import Rng
from .objective import Around, Loss, Objective

PARAMETERS = 9
"""Length of cond["augment"]: flips (2), log2 scale (1), rotation cos - 1 and sin (2), anisotropy (2), shift (2)."""


class Augmented(Around):
    r"""An objective on images that are bent at random, each kind of bending with `probability` (2206.00364, app. F.2).

    Mirror left-right (always drawn, one in two) and top-bottom, scale (log2 std 0.2), rotation (full circle), stretch
    (log2 std 0.2, in a turned frame half of the time), shift (std 1/8 of the side). What was done goes into
    `cond["augment"]`, nine numbers that are zero for an image left alone. Resampled bilinearly with mirrored borders
    (the published code filters with sym6 wavelets).
    """

    def __init__(self, objective: Objective, probability: float):
        super().__init__(objective)
        self.probability = probability

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        matrix, parameters = self.draw(rng)
        grid = F.affine_grid(matrix[:, :2].to(x0.dtype), list(x0.shape), align_corners=False)
        bent = F.grid_sample(x0, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        untouched = (parameters == 0).all(1).reshape(-1, 1, 1, 1)
        cond = {**(cond or {}), "augment": parameters.to(x0.dtype)}
        return self.objective(denoiser, torch.where(untouched, x0, bent), cond, rng, turn)

    def draw(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Matrices (batch, 3, 3) from output to input coordinates, and the nine parameters (batch, 9), float64."""
        p = self.probability
        on = [rng.bernoulli(p).double() for _ in range(5)]
        x_flip, y_flip = rng.bernoulli(0.5).double(), on[0] * rng.bernoulli(0.5).double()
        scale = on[1] * 0.2 * rng.normal(dtype=torch.float64)
        angle = on[2] * math.pi * (2 * rng.uniform() - 1)
        turned = rng.bernoulli(0.5).double() * math.pi * (2 * rng.uniform() - 1)
        stretch = on[3] * 0.2 * rng.normal(dtype=torch.float64)
        shift = on[4][:, None] * 0.125 * rng.normal(2, dtype=torch.float64)
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)

        def rows(*entries: Tensor) -> Tensor:
            return torch.stack(entries, -1).reshape(-1, 3, 3)

        def rotation(a: Tensor) -> Tensor:
            return rows(a.cos(), -a.sin(), zero, a.sin(), a.cos(), zero, zero, zero, one)

        def scaling(sx: Tensor, sy: Tensor) -> Tensor:
            return rows(sx, zero, zero, zero, sy, zero, zero, zero, one)

        size = torch.exp2(-scale)
        matrix = scaling(1 - 2 * x_flip, 1 - 2 * y_flip) @ scaling(size, size) @ rotation(angle)
        matrix = matrix @ rotation(turned) @ scaling(torch.exp2(-stretch), torch.exp2(stretch)) @ rotation(-turned)
        matrix = matrix @ rows(one, zero, 2 * shift[:, 0], zero, one, 2 * shift[:, 1], zero, zero, one)
        told = [x_flip, y_flip, scale, angle.cos() - 1, angle.sin(), stretch * turned.cos(), stretch * turned.sin()]
        return matrix, torch.stack([*told, shift[:, 0], shift[:, 1]], 1)
