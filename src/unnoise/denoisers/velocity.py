r"""A network that says which noise the velocity of a damped process holds; from it follows the data (2112.07068).

Score and guess are one linear relation, score_v = -[S^-1 (u - c x_0)]_v, so the network's F is, as in `preconditioning.py`,

    F = p . u + q x_0,    p = ([S^-1]_v - e_v / S_vv) / ell,    q = -[S^-1 c]_v / ell,    score_v = -ell F - v / S_vv

with 1/ell^2 = S_vv - S_xv^2 / S_xx the variance of the velocity given x: F is the noise beyond what a Gaussian would say of v alone
(the *mixed* score; without it p = [S^-1]_v / ell, and F is the noise).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..laws import Estimate, mixed
from ..processes import CriticallyDamped, Kernel
from ..processes.damped import multiplier
from ..scalars import column
from .denoiser import Cond, Denoiser


class VelocityDenoiser(Denoiser[CriticallyDamped]):
    """x_0 = (F((x, v), 1000 t) - p . u) / q. The network sees x and v as channels, and gives as many as x has."""

    learned_range = False

    def __init__(self, network: nn.Module, process: CriticallyDamped, mixed_score: bool = True):
        super().__init__()
        self.network, self.process, self.mixed_score = network, process, mixed_score

    def relation(self, point: Kernel) -> tuple[Tensor, Tensor]:
        """p (..., 2) and q (...), float64."""
        precision, ell = point.precision, multiplier(point.covariance)[..., None]
        p, q = precision[..., 1, :] / ell, -(precision @ point.gain[..., None])[..., 1, 0] / ell[..., 0]
        if self.mixed_score:
            p = p - torch.tensor([0.0, 1.0]).to(p) / (point.covariance[..., 1, 1:] * ell)
        return p, q

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        p, q = self.relation(self.process.at(t))
        dtype = next((w.dtype for w in self.network.parameters()), xt.dtype)
        channels = xt.flatten(1, 2) if xt.ndim > 2 else xt
        output = self.network(channels.to(dtype), (1000 * t).to(dtype), cond).reshape(xt[:, 0].shape).double()
        known = mixed(p[..., None, :], xt.double())[:, 0]
        return Estimate(((output - known) / column(q, known)).to(xt.dtype))
