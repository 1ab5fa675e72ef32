r"""The bound of autoregression in every order (2110.02037), with n of D symbols unknown when n is drawn from 1..D:

    -log p(x) <= D E_n[L_n],     L_n = E[ 1/n sum over the n unknown positions of -log p(x_i | the known ones) ]

and with S stages the sum of S such bounds. A chain that reveals several symbols at a step pays for each what it costs where
the step begins; one whose positions are masked each by itself, with probability i/T after i of T steps, a mean over n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..denoisers.symbols import NextSymbols
from ..errors import UsageProblem
from ..processes.masking import Masking
from ..rng import Rng
from .call import Method


def per_symbol(denoiser: Denoiser[Masking], x0: Tensor, t: Tensor, rng: Rng, cond: Cond = None) -> Tensor:
    """-log p of the symbols (in stages: digits) that are unknown at times t (batch,), of a random order: nats each, (batch,)."""
    process = denoiser.process
    xt, end = process.corrupt(x0, t, rng), process.stage_end(t)
    law = process.reverse_law(denoiser(xt, t, cond), xt, t, end)
    unknown = process.left(t, len(t)) - process.left(end, len(t))
    return -law.log_prob(process.state(x0)) / unknown.to(x0.device)


@torch.no_grad()
def losses_by_step(denoiser: Denoiser[Masking], x0: Tensor, rng: Rng, cond: Cond = None) -> Tensor:
    """`per_symbol` of each example after every number of steps, float64 (batch, steps); a fresh order each."""
    steps = denoiser.process.steps
    times = (torch.full((len(x0),), 1 - e / steps, dtype=torch.float64, device=x0.device) for e in range(steps))
    return torch.stack([per_symbol(denoiser, x0, t, rng, cond) for t in times], 1)


def on_masks(denoiser: Denoiser[Any]) -> Denoiser[Masking]:
    """The denoiser itself. Refuses, with a sentence, a process without masks."""
    if not isinstance(denoiser.process, Masking):
        raise UsageProblem(
            f"the order-agnostic bound is of symbols that are masked in order, and this model's process is "
            f"{type(denoiser.process).__name__}; choose another method"
        )
    return denoiser


def at_once(denoiser: Denoiser[Any], x0: Tensor, cond: Cond = None) -> Tensor | None:
    """-log p of data from left to right, nats (batch,), in one call of a causal network; None for any other."""
    if not isinstance(denoiser, NextSymbols):
        return None
    process: Masking = denoiser.process
    return -denoiser.conditionals(x0, cond).log_prob(process.numbers(x0))


@dataclass(frozen=True)
class OrderAgnostic(Method):
    """The bound over all orders, by `draws` numbers of known symbols spread evenly over all, an order each; exact in one call
    of a causal network."""

    name: ClassVar[str] = "order-agnostic"
    draws: int = 32

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UsageProblem(f"draws is {self.draws}, but the bound needs at least 1")

    @torch.no_grad()
    def nats(self, denoiser, x, rng, cond, levels):
        if (exact := at_once(denoiser, x, cond)) is not None:
            return exact, {}, 1
        denoiser = on_masks(denoiser)
        process, total = denoiser.process, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if process.order != "random":
            raise UsageProblem("the order-agnostic bound needs a model of random orders; take the method bound")
        for j in range(self.draws):
            place = (j + rng.uniform().to(x.device)) / self.draws
            t = (place * process.steps).floor().add(1).clamp(max=process.steps) / process.steps
            total += per_symbol(denoiser, x, t, rng, cond)
        return process.steps * total / self.draws, {}, self.draws


def independent_masks(losses: Tensor, steps: int) -> float:
    r"""The bound of D symbols, nats, where each is masked by itself, with probability i/T after i of T `steps` (absorbing D3PM):

        sum_i sum_n Binomial(n; D, i/T) (n/i) L_n

    losses   L by the number of known symbols, (D,): `losses_by_step`, averaged. It falls to D E_n[L_n] as T grows.
    """
    length = len(losses)
    n = torch.arange(1, length + 1, dtype=torch.float64)
    by_unknown = losses.double().flip(0)
    choose = torch.lgamma(torch.tensor(length + 1.0).double()) - torch.lgamma(n + 1) - torch.lgamma(length - n + 1)
    i = torch.arange(1, steps + 1, dtype=torch.float64)[:, None]
    rest = torch.where(n < length, (length - n) * torch.log1p(-i / steps), 0.0)
    binomial = torch.exp(choose + n * torch.log(i / steps) + rest)
    return float((binomial * n / i * by_unknown).sum())
