"""Symbols as their digits, guessed apart: so a symbol may be one of 65,536, and its law is 16 numbers (2110.02037)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..laws import Categorical, Law, sum_event
from ..rng import Rng


def digits(symbol: Tensor, stages: int, base: int) -> Tensor:
    """Those of numbers below base^stages, the coarsest first: int64 (*symbol.shape, stages)."""
    places = base ** torch.arange(stages - 1, -1, -1, device=symbol.device)
    return symbol[..., None].div(places, rounding_mode="floor") % base


@dataclass(frozen=True, slots=True)
class Digits(Law):
    """Independent digits, the coarsest first: `log_probs` of shape (batch, ..., stages, base), normalised."""

    log_probs: Tensor

    @classmethod
    def certain(cls, symbol: Tensor, stages: int, base: int) -> Digits:
        """All mass on these symbols."""
        digit = torch.arange(base, device=symbol.device)
        return cls(torch.where(digits(symbol, stages, base)[..., None] == digit, 0.0, -torch.inf).double())

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The vector of probabilities of all base^stages symbols."""
        p = self.log_probs.exp()
        whole = p[..., 0, :]
        for stage in range(1, p.shape[-2]):
            whole = (whole[..., None] * p[..., stage, None, :]).flatten(-2)
        return whole

    def sample(self, rng: Rng) -> Tensor:
        """Symbols, shape (batch, ...)."""
        stages, base = self.log_probs.shape[-2:]
        drawn = Categorical(self.log_probs).sample(rng)
        return (drawn * base ** torch.arange(stages - 1, -1, -1, device=drawn.device)).sum(-1)

    draw = sample

    def each(self, x: Tensor) -> Tensor:
        """log-probability of each digit of symbols: float64 (*x.shape, stages)."""
        stages, base = self.log_probs.shape[-2:]
        return self.log_probs.double().gather(-1, digits(x, stages, base)[..., None])[..., 0]

    def log_prob(self, x: Tensor) -> Tensor:
        return sum_event(self.each(x).sum(-1))

    def apart(self, other: Digits) -> Tensor:
        """The divergence of each digit's law from the other's, nats (batch, ..., stages)."""
        p = self.log_probs.double()
        return torch.where(p.isinf(), 0.0, p.exp() * (p - other.log_probs.to(p))).sum(-1)

    def kl(self, other: Law) -> Tensor:
        return sum_event(self.apart(other).sum(-1)) if isinstance(other, Digits) else Law.kl(self, other)
