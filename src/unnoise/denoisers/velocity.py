r"""A network that says which noise the velocity of a damped process holds; from it follows the data (2112.07068).

Score and guess are one linear relation, score_v = -[S^-1 (u - c x_0)]_v, so the network's F is, as in `preconditioning.py`,

    F = p . u + q x_0,    p = ([S^-1]_v - e_v / S_vv) / ell,    q = -[S^-1 c]_v / ell,    score_v = -ell F - v / S_vv

with 1/ell^2 = S_vv - S_xv^2 / S_xx the variance of the velocity given x: F is the noise beyond what a Gaussian would say of v alone
(the *mixed* score; without it p = [S^-1]_v / ell, and F is the noise).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..laws import Estimate, mixed
from ..processes import CriticallyDamped, Kernel
from ..processes.damped import multiplier
from ..scalars import column
from .denoiser import Cond, Denoiser


class VelocityDenoiser(Denoiser[CriticallyDamped]):
    """x_0 = (F - p . u) / q. The network sees x and v as channels, is told 1000 t or log t, and gives as many channels as x has.

    hybrid: whether ell is that of HSM, as above, or that of DSM, with v_0 given too.
    """

    learned_range = False

    def __init__(
        self,
        network: nn.Module,
        process: CriticallyDamped,
        mixed_score: bool = True,
        hybrid: bool = True,
        told: Literal["t", "log t"] = "t",
    ):
        super().__init__()
        self.network, self.process = network, process
        self.mixed_score, self.hybrid, self.told = mixed_score, hybrid, told

    def relation(self, point: Kernel) -> tuple[Tensor, Tensor]:
        """p (..., 2) and q (...), float64."""
        precision = point.precision
        ell = multiplier(point.covariance if self.hybrid else self.process.fresh(point))
        p, q = precision[..., 1, :] / ell[..., None], -(precision @ point.gain[..., None])[..., 1, 0] / ell
        if self.mixed_score:
            p = p - torch.tensor([0.0, 1.0]).to(p) / (point.covariance[..., 1, 1] * ell)[..., None]
        return p, q

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        p, q = self.relation(self.process.at(t))
        dtype = next((w.dtype for w in self.network.parameters()), xt.dtype)
        seen = xt.flatten(1, 2) if xt.ndim > 2 else xt
        told = t.log() if self.told == "log t" else 1000 * t
        output = self.network(seen.to(dtype), told.to(dtype), cond).reshape(xt[:, 0].shape).double()
        known = mixed(p[..., None, :], xt.double())[:, 0]
        return Estimate(((output - known) / column(q, known)).to(xt.dtype))
