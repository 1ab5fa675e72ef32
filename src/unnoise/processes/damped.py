r"""Critically damped Langevin dynamics: noise enters a velocity, and data feel it through the motion alone (2112.07068).

    dx = v/M dB,   dv = -x dB - Gamma v/M dB + (2 Gamma)^(1/2) dw,   Gamma^2 = 4 M,   v_0 ~ N(0, gamma M)

Critical damping is the fastest way to rest, N(0, 1) N(0, M), without swinging: A has one eigenvalue, -2/Gamma, twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Correlated, mixed
from .linear import Kernel, LinearSDE, root


class CriticallyDamped(LinearSDE):
    """The state is (x, v), shape (batch, 2, *event).

    mass: M; gamma: of the velocity's variance gamma M at t = 0; floor: variance added to both parts at t = 0, which bounds the
    score there; beta: at t = 0 and t = 1, linear between.
    """

    def __init__(
        self, mass: float = 0.25, gamma: float = 0.04, floor: float = 0.0, beta: tuple[float, float] = (4.0, 4.0)
    ):
        if not mass > 0:
            raise UsageProblem(f"mass is {mass}, but must be positive")
        if not 0 <= gamma < 2:
            raise UsageProblem(
                f"gamma is {gamma}, but must be 0 or more and below 2, or the velocity tells nothing of x_0"
            )
        if floor < 0:
            raise UsageProblem(f"floor is {floor}, but must be 0 or more")
        self.mass, self.gamma, self.friction = mass, gamma, 2 * math.sqrt(mass)
        drift = torch.tensor([[0, 1 / mass], [-1, -self.friction / mass]], dtype=torch.float64)
        spread = torch.tensor([[0, 0], [0, 2 * self.friction]], dtype=torch.float64)
        start = torch.tensor([[floor, 0], [0, gamma * mass + floor]], dtype=torch.float64)
        super().__init__(drift, spread, start, beta)

    def flow(self, clock: Tensor, drift: Tensor | None = None) -> Tensor:
        """e^{A B} = e^{-r B} (1 + (A + r) B) with r = 2/Gamma, as (A + r)^2 = 0."""
        rate, b = 2 / self.friction, clock[..., None, None]
        one = torch.eye(2, dtype=clock.dtype, device=clock.device)
        turning = (self.drift if drift is None else drift).to(clock) + rate * one
        return (-rate * b).exp() * (one + turning * b)

    def fresh(self, point: Kernel) -> Tensor:
        """The covariance of u_t given both x_0 and v_0, but for the floor: (..., 2, 2)."""
        flow = self.flow(point.clock)
        return self.start[0, 0] * (flow @ flow.mT) + self.noise(point.clock)

    def given(self, x0: Tensor, v0: Tensor, t: Tensor | Kernel) -> Correlated:
        """q(u_t | x_0, v_0)."""
        point = self.at(t)
        return Correlated(mixed(self.flow(point.clock), torch.stack([x0, v0], 1)), root(self.fresh(point)))


def multiplier(covariance: Tensor) -> Tensor:
    """ell = (S_xx / det S)^(1/2): one over the deviation of v given x."""
    xx, xv, vv = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    return (xx / (xx * vv - xv * xv)).sqrt()
