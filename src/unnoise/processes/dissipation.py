r"""Heat dissipation as a schedule: every frequency of an image loses its signal at its own rate (2209.05557).

Blur by the heat equation for a time tau multiplies the cosine coefficient (n, m) of an H x W image by exp(-lambda_nm tau),
lambda_nm = pi^2 (n^2/H^2 + m^2/W^2), and is Gaussian blur of width sigma_B = sqrt(2 tau) with mirrored borders.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..schedules import Schedule


class Dissipating(Schedule):
    r"""alpha_t = a_t d_t, one for each frequency, with the a_t and sigma_t of `noise`: for a `Gaussian` in the basis `DCT`.

        d_t = (1 - floor) exp(-lambda tau_t) + floor,    tau_t = sigma_B(t)^2 / 2,    sigma_B(t) = blur sin^2(pi t / 2)

    size   height and width of the images, pixels.
    blur   width of the blur at t = 1, pixels; 0 leaves `noise` as it is: one alpha for all frequencies.
    floor  the share of every frequency that is never dissipated, by which 1/alpha stays finite.

    log-SNR is that of the frequency zero, which no blur takes: one number, to tell a network and to lay grids by. Raises
    UsageProblem for numbers out of range.
    """

    def __init__(self, noise: Schedule, size: tuple[int, int], blur: float = 20.0, floor: float = 0.001):
        super().__init__()
        if blur < 0 or not 0 < floor <= 1:
            raise UsageProblem(f"blur is {blur:g} and floor {floor:g}, but need blur >= 0 and 0 < floor <= 1")
        self.noise, self.size, self.blur, self.floor = noise, (size[0], size[1]), blur, floor
        self.prior_std = noise.prior_std

    def rate(self, like: Tensor) -> Tensor:
        """lambda, float64 (1, H, W): one axis for the channels."""
        rows, columns = (
            (math.pi * torch.arange(n, dtype=torch.float64, device=like.device) / n) ** 2 for n in self.size
        )
        return (rows[:, None] + columns)[None]

    def _decay(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d and its derivative in t, of shape (*t, 1, H, W)."""
        t = torch.as_tensor(t, dtype=torch.float64)[..., None, None, None]
        width, widening = torch.sin(math.pi / 2 * t) ** 2, math.pi / 2 * torch.sin(math.pi * t)
        rate = self.rate(t) * self.blur**2
        left = (1 - self.floor) * torch.exp(-rate * width**2 / 2)
        return left + self.floor, -rate * width * widening * left

    def dissipation(self, t: Tensor) -> Tensor:
        """d_t, float64 (*t, 1, H, W), whatever the blur."""
        return self._decay(t)[0]

    def alpha(self, t: Tensor) -> Tensor:
        if not self.blur:
            return self.noise.alpha(t)
        return self.noise.alpha(t)[..., None, None, None] * self.dissipation(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.noise.sigma(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.noise.log_snr(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return self.noise.time(log_snr)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if not self.blur:
            return self.noise.derivatives(t)
        (d, decay), (falling, dsigma) = self._decay(t), self.noise.derivatives(t)
        dalpha = falling[..., None, None, None] * d + self.noise.alpha(t)[..., None, None, None] * decay
        return dalpha, dsigma
