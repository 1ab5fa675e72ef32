"""A codebook: vectors replaced by the nearest of a learned set (VQ-VAE, 1711.00937)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VectorQuantiser(nn.Module):
    r"""z -> the nearest code e, for each place of (batch, width, *places), with the gradient of z passed straight through.

    penalty = |sg[z] - e|^2 + beta |z - sg[e]|^2, mean over numbers: codes move to what they stand for, and that commits to them.
    `legacy` puts beta on the first term instead, as published latent-diffusion models were trained.
    """

    def __init__(self, codes: int, width: int, beta: float = 0.25, legacy: bool = False):
        super().__init__()
        self.beta, self.legacy = beta, legacy
        self.codes = nn.Parameter(
            torch.randn(codes, width)
        )  # as far apart as latents are, so that many are used at once

    def nearest(self, z: Tensor) -> Tensor:
        """Numbers of the codes, int64 (batch, *places)."""
        rows = z.detach().movedim(1, -1).to(self.codes.dtype)
        codes = self.codes.detach()
        # |z - e|^2 = |z|^2 - 2 z e + |e|^2, whose first term is the same for all codes
        return (codes.square().sum(1) - 2 * rows @ codes.T).argmin(-1)

    def look_up(self, index: Tensor) -> Tensor:
        """The codes of these numbers, (batch, width, *places)."""
        return self.codes[index].movedim(-1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """The nearest codes, whose gradient is that of z."""
        return z + (self.look_up(self.nearest(z)) - z).detach()

    def penalty(self, z: Tensor) -> Tensor:
        """(batch,)"""
        code = self.look_up(self.nearest(z))
        moves, commits = (a.square().flatten(1).mean(1) for a in (z.detach() - code, z - code.detach()))
        return self.beta * moves + commits if self.legacy else moves + self.beta * commits


def perplexity(index: Tensor, codes: int) -> float:
    """exp of the entropy of how often each code is used: between 1 and `codes`."""
    share = torch.bincount(index.flatten(), minlength=codes).double() / index.numel()
    return float(torch.special.entr(share).sum().exp())
