r"""Two guesses on a bridge, one of each end, and the probability flow that they make together.

backward drift  v_b = -f + g^2 S_0,   S_0 = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2       (for decreasing t)
forward drift   v_f = -f + g^2 S_1,   the same of x_1 in the time 1 - t                    (for increasing t)
flow            dx/dt = (v_f - v_b) / 2 = g^2 (S_1 - S_0) / 2
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..laws import Estimate
from ..processes import Bridge, Gaussian
from ..scalars import combine, times
from .denoiser import Cond, Denoiser

NEAREST = 1e-3
"""A guess is asked no nearer to the end that it guesses: there its drift is 0/0."""


class Bridged(Denoiser[Bridge]):
    """A denoiser that guesses the data of a bridge, and has beside it one that guesses the other end: `mirrored` has them change
    places. Each is a denoiser on the reference, and knows its own time: 0 at the end that it guesses."""

    def __init__(self, process: Bridge, towards_data: Denoiser[Gaussian], towards_other: Denoiser[Gaussian]):
        super().__init__()
        self.process, self.towards_data, self.towards_other = process, towards_data, towards_other

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        return self.towards_data(xt, t.clamp(min=NEAREST), cond)  # type: ignore[return-value]

    @property
    def mirrored(self) -> Bridged:
        """The bridge walked the other way, from data to the other end."""
        return Bridged(self.process, self.towards_other, self.towards_data)

    @property
    def flow(self) -> BridgeFlow:
        """The denoiser of the probability flow."""
        return BridgeFlow(self)

    def score(self, xt: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x_t) = (v_f + v_b) / g^2 = S_0 + S_1 - 2 f / g^2."""
        return _sum(self, xt, t, 1.0)


class BridgeFlow(Denoiser[Gaussian]):
    """The guess with which the flow of the reference is that of the bridge: any solver of ODEs then walks it.

    The flow of a Gaussian process is f - g^2 S / 2, so S = S_0 - S_1 + 2 f / g^2, and x_0 = (x_t + sigma_t^2 S) / alpha_t.
    """

    def __init__(self, bridged: Bridged):
        super().__init__()
        self.bridged, self.process = bridged, bridged.process.reference

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        point = self.process.at(t.clamp(min=NEAREST), xt)
        score = _sum(self.bridged, xt, t, -1.0, cond)
        return Estimate(combine((1 / point.alpha, xt), (point.sigma**2 / point.alpha, score)))


def _sum(bridged: Bridged, xt: Tensor, t: Tensor, sign: float, cond: Any = None) -> Tensor:
    """S_0 + sign (S_1 - 2 f / g^2)."""
    near, far = _pull(bridged, xt, t, cond), _pull(bridged.mirrored, xt, 1 - t, cond)
    reference, t = bridged.process.reference, t.clamp(min=NEAREST)
    drift = times(2 / reference.diffusion(t, xt) ** 2, reference.drift(xt, t))
    return combine((1.0, near), (sign, far), (-sign, drift))


def _pull(bridged: Bridged, xt: Tensor, t: Tensor, cond: Any) -> Tensor:
    """(alpha x_0 - x_t) / sigma^2."""
    t = t.clamp(min=NEAREST)
    point = bridged.process.reference.at(t, xt)
    return combine((point.alpha / point.sigma**2, bridged(xt, t, cond).mean), (-1 / point.sigma**2, xt))
