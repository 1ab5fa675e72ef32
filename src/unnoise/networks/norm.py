"""Group normalisation, joined with what always follows it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def groups_for(channels: int, most: int = 32, least_channels: int = 4) -> int:
    """How many groups: at most `most`, of at least `least_channels` channels each, and a divisor of `channels`."""
    wanted = max(1, min(most, channels // least_channels))
    return next(g for g in range(wanted, 0, -1) if channels % g == 0)


class NormAct(nn.Module):
    """`silu(norm(x + add) (1 + scale) + shift)`, with `norm` a group normalisation with weight and bias.

    x: (batch, channel, *space); add, scale, shift: (batch, channel) or None. `act=False` leaves out the silu.
    """

    def __init__(self, channels: int, groups: int = 32, eps: float = 1e-5, act: bool = True):
        super().__init__()
        self.groups, self.eps, self.act = groups_for(channels, groups), eps, act
        self.weight = nn.Parameter(Tensor(channels).fill_(1.0))
        self.bias = nn.Parameter(Tensor(channels).zero_())

    def forward(
        self, x: Tensor, add: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        def spread(v: Tensor) -> Tensor:
            return v.to(x.dtype).reshape(*v.shape, *[1] * (x.ndim - 2))

        if add is not None:
            x = x + spread(add)
        h = F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if scale is not None:
            h = h * (1 + spread(scale))
        if shift is not None:
            h = h + spread(shift)
        return F.silu(h) if self.act else h
