"""Averages of the weights along the training.

An exponential average with half-life H images and a ramp-up (Karras et al. 2022, training_loop of EDM):

    ema <- beta ema + (1 - beta) weights,    beta = 2^(-batch / min(H, rampup * images seen before the step)),

and averages with power-function profiles (Karras et al. 2024, arXiv 2312.02696, section 3.1), whose weight on the state
after step tau of t is proportional to tau^gamma, so that they forget the beginning at any length of run:

    ema <- beta_t ema + (1 - beta_t) weights,    beta_t = (1 - 1/t)^(gamma + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def power_gamma(relative_std: float) -> float:
    """The exponent gamma of the profile tau^gamma on [0, 1] whose standard deviation is `relative_std`.

    relative_std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)); `relative_std` lies in (0, 12^-1/2).
    Source: arXiv 2312.02696, eq. 126.
    """
    inverse = relative_std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def halflife_beta(batch: int, images: int, halflife: float, rampup: float | None) -> float:
    """How much of the average stays after a step of `batch` images, `images` having been seen before it."""
    if rampup is not None:
        halflife = min(halflife, rampup * images)
    return 0.5 ** (batch / halflife) if halflife > 0 else 0.0


class Averages:
    """Averages of some parameters (a list of tensors: whole, or this process's shards), by name.

    `values[name]` are the averaged tensors in the order of the parameters; names are "ema" and "ema-power-0.100".
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        halflife: float | None = None,
        rampup: float | None = None,
        powers: Sequence[float] = (),
    ):
        self.parameters = [p.detach() for p in parameters]
        self.halflife, self.rampup = halflife, rampup
        self.gammas = {f"ema-power-{power:.3f}": power_gamma(power) for power in powers}
        names = (["ema"] if halflife is not None else []) + list(self.gammas)
        self.values = {name: [p.clone() for p in self.parameters] for name in names}

    @torch.no_grad()
    def update(self, step: int, batch: int) -> None:
        """Take in the weights after step `step` (from 0) of `batch` images."""
        for name, values in self.values.items():
            if name in self.gammas:
                beta = (1 - 1 / (step + 1)) ** (self.gammas[name] + 1)
            else:
                beta = halflife_beta(batch, step * batch, self.halflife or 0.0, self.rampup)
            torch._foreach_lerp_(values, self.parameters, 1 - beta)

    @contextmanager
    def swapped(self, name: str | None):
        """Inside, the parameters hold the average `name` (None: themselves) and `values[name]` holds the weights."""
        if name is not None:
            self._swap(name)
        try:
            yield
        finally:
            if name is not None:
                self._swap(name)

    @torch.no_grad()
    def _swap(self, name: str) -> None:
        for parameter, value in zip(self.parameters, self.values[name], strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)
