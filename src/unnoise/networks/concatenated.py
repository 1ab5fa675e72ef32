"""A network that sees pictures beside its state, as further channels of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem


class Concatenated(nn.Module):
    """`network([x, *(cond[name] for name in names)], t, cond)`: each (batch, channels, height, width), brought to the size of x by
    the nearest pixel where it has another. The network is built for all those channels, and gives those of x alone."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        rest, seen = dict(cond or {}), [x]
        for name in self.names:
            if name not in rest:
                raise UsageProblem(f'this network is told a {name}, and was given none; give cond["{name}"]')
            told = rest.pop(name).to(x.dtype)
            seen.append(told if told.shape[2:] == x.shape[2:] else F.interpolate(told, x.shape[2:], mode="nearest"))
        return self.network(torch.cat(seen, 1), t, rest or None)
