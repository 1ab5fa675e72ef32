r"""The flow of a Gaussian, exactly: every jump along it in closed form.

With x_0 ~ N(m, c^2), rho = sigma/alpha and y = x/alpha, the probability-flow ODE moves y - m in proportion to its deviation,

    G(x_t, t, s) / alpha_s = m + k (y_t - m),    k = sqrt((c^2 + rho_s^2) / (c^2 + rho_t^2)),

and, without a difference that could cancel as s goes to t, with r = rho_s / rho_t,

    g(x_t, t, s) = m + c^2 (1 + r) / ((c^2 + rho_t^2) (k + r)) (y_t - m).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import TOWARD, Cond, Denoiser
from ..laws import Estimate
from ..processes import Gaussian


class GaussianFlow(Denoiser):
    """The denoiser of N(mean, variance), independent over the elements of the state, that jumps without error."""

    jumps = True

    def __init__(self, mean: Tensor, variance: Tensor | float, process: Gaussian):
        super().__init__()
        self.process = process
        self.mean, self.variance = mean.double(), torch.as_tensor(variance, dtype=torch.float64)

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        s = (cond or {}).get(TOWARD, t)
        a, b = self.process.at(t, xt), self.process.at(s, xt)
        top, low = torch.as_tensor(a.ratio), torch.as_tensor(b.ratio)
        total, r = self.variance + top**2, low / top
        k = ((self.variance + low**2) / total).sqrt()
        gain = self.variance * (1 + r) / (total * (k + r))
        guess = self.mean + gain * (xt.double() / a.alpha - self.mean)
        return Estimate(self.process.data(guess).to(xt.dtype), (self.variance * top**2 / total).expand(xt.shape))
