"""A network that gives the score on a manifold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..processes.curved import Curved, Scored
from .denoiser import Cond, Denoiser


class Tangent(Denoiser[Curved]):
    """score = P_x network(x_t, log std) / std, with std = sqrt(1 - exp(-tau)): the network's answer, made a tangent vector, is
    of order one at all times (2202.02763). Computed in full precision: coordinates need more digits than pixels."""

    learned_range = False

    def __init__(self, network: nn.Module, process: Curved):
        super().__init__()
        self.network, self.process = network, process

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Scored:
        process, manifold = self.process, self.process.manifold
        dtype = next((w.dtype for w in self.network.parameters()), xt.dtype)
        tau = process.tau(t, xt)
        std = process.std(tau)
        with torch.autocast(xt.device.type, enabled=False):
            output = self.network(xt.to(dtype), std.log().to(dtype), cond)
        score = manifold.tangent(xt, output.to(xt.dtype)) / std.to(xt.dtype)[:, None]
        return Scored(score, xt, tau, manifold)
