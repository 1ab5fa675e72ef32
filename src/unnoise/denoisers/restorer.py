"""A network that gives the image itself, on processes that know no noise level."""

from __future__ import annotations

from torch import Tensor, nn

from ..laws import Estimate
from ..processes import Process
from .denoiser import Cond, Denoiser


class Restorer(Denoiser[Process]):
    """x_0 = network(x_t, t steps - 1): told how many steps were taken, less one. It sees the data part of the state."""

    learned_range = False

    def __init__(self, network: nn.Module, process: Process, steps: int):
        super().__init__()
        self.network, self.process, self.steps = network, process, steps

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        x = self.process.data(xt)
        dtype = next((w.dtype for w in self.network.parameters()), x.dtype)
        told = (t.double() * self.steps - 1).to(dtype)
        return Estimate(self.network(x.to(dtype), told, cond).to(x.dtype))
