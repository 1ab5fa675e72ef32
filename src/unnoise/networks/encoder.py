"""ADM's classifier of noisy images: the way down of its U-Net, and a pooling that attends (2105.05233)."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..errors import UsageProblem
from .attention import AttentionPool
from .norm import NormAct
from .unet import Trunk, UNetOptions, heads_of, initialise


class Encoder(Trunk):
    """`network(x, t) -> (batch, outputs)`, logits say.

    x: (batch, in_channels, *size), of that size and no other: every place of the smallest level has a position of its own.
    Raises UsageProblem for another size.
    """

    def __init__(self, options: UNetOptions, in_channels: int, outputs: int, size: tuple[int, int]):
        super().__init__(options, in_channels)
        o, c = options, self.skips[-1]
        self.size = tuple(size)
        least = [-(-side // 2 ** (len(o.mult) - 1)) for side in size]
        self.norm = NormAct(c, o.groups, o.eps)
        self.pool = AttentionPool(c, outputs, prod(least), heads_of(o, c))
        initialise(self, o.init)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise UsageProblem(
                f"this classifier looks at images of {self.size[0]} x {self.size[1]}, not {x.shape[2]} x {x.shape[3]}"
            )
        h, _ = self.descend(x, self.embedding(t, cond))
        return self.pool(self.norm(h))
