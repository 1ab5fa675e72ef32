r"""Dequantisation: grey levels spread over their bins, so that a density speaks of discrete data.

Levels are 2k/(K - 1) - 1, so a bin is Delta = 2/(K - 1) wide. For any law q(y | x) on the bin of x, and p a density,

    -log P(x) <= E_q[log q(y | x) - log p(y)]            (1902.00275, eq. 12)

and uniform q has log q = -D log Delta: log2((K - 1)/2) bits per dimension over -log2 p, 6.99 for 256 levels, 3 for 17.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from ..laws import sum_event
from ..rng import Rng


def bin_width(levels: int) -> float:
    """Delta, the distance of neighbouring grey levels in [-1, 1]."""
    if levels < 2:
        raise UsageProblem(f"levels is {levels}, but discrete data have 2 or more")
    return 2 / (levels - 1)


class Dequantiser(nn.Module):
    """forward(x, levels, rng) -> y within the bins of x, and log q(y | x), nats (batch,)."""

    def forward(self, x: Tensor, levels: int, rng: Rng) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Uniform(Dequantiser):
    """y = x + Delta (u - 1/2), u uniform in [0, 1)."""

    def forward(self, x: Tensor, levels: int, rng: Rng) -> tuple[Tensor, Tensor]:
        width = bin_width(levels)
        u = rng.uniform(*x.shape[1:]).to(x.device)
        log_q = torch.full((len(x),), -x[0].numel() * math.log(width), dtype=torch.float64, device=x.device)
        return x.double() + width * (u - 0.5), log_q


class Variational(Dequantiser):
    r"""y = x + Delta (sigmoid(m + e^s eps / 0.588) - 1/2), where the network, told x, gives m and s as twice the channels.

    Trained by the bound itself: log q - log p is differentiable in m and s wherever log p is in y. At m = s = 0, where a
    network whose last layer is zero begins, y is all but uniform: sigmoid(z) is the normal distribution at 0.588 z to 0.01.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, levels: int, rng: Rng) -> tuple[Tensor, Tensor]:
        width = bin_width(levels)
        dtype = next((w.dtype for w in self.network.parameters()), x.dtype)
        output = self.network(x.to(dtype), torch.zeros(len(x), dtype=dtype, device=x.device), None)
        mean, log_std = output.double().chunk(2, dim=1)
        log_std = log_std - math.log(0.588)
        eps = rng.normal(*x.shape[1:], dtype=torch.float64).to(x.device)
        a = mean + log_std.exp() * eps
        log_slope = F.logsigmoid(a) + F.logsigmoid(-a)  # of the sigmoid
        normal = -0.5 * eps**2 - 0.5 * math.log(2 * math.pi)
        log_q = sum_event(normal - log_std - log_slope - math.log(width))
        return x.double() + width * (torch.sigmoid(a) - 0.5), log_q
