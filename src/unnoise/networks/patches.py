"""A critic that looks at patches: convolutions only (PatchGAN, 1611.07004)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .norm import NormAct


class PatchCritic(nn.Module):
    """(batch, channels, height, width) -> (batch, 1, about height / 8, width / 8): above 0 where a patch looks real.

    `layers` convolutions of stride 2, each but the first followed by a normalisation of each example by itself (the published one
    takes the batch's statistics).
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.convolutions, self.norms, c = nn.ModuleList(), nn.ModuleList(), width
        for i in range(1, layers + 1):
            wider = width * min(2**i, 8)
            self.convolutions.append(nn.Conv2d(c, wider, 4, stride=2 if i < layers else 1, padding=1))
            self.norms.append(NormAct(wider, act=False))
            c = wider
        self.head = nn.Conv2d(c, 1, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.stem(x), 0.2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = F.leaky_relu(norm(convolution(h)), 0.2)
        return self.head(h)
