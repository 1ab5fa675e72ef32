"""Networks that guess symbols: at every masked position the law of what is there."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from ..laws import Categorical
from ..processes.masking import Masking
from .denoiser import Cond, Denoiser

Parametrisation = Literal["data", "direct"]


class Symbols(Denoiser[Masking]):
    """p(x_0 | x_t) at every position, from the logits of a network on sequences; what is known already has probability 1.

    data     a logit for each symbol; those that the coarse symbol excludes are left out and the rest sums to 1.
    direct   a logit for each digit at each stage, from which those of symbols are added up: stages x branching outputs.

    The network sees (batch, D) numbers in 0..`vocabulary` - 1: the mask, the symbol, or the coarse symbol at its depth; and
    1000 t.
    """

    def __init__(self, network: nn.Module, process: Masking, parametrisation: Parametrisation = "data"):
        super().__init__()
        self.network, self.process, self.parametrisation = network, process, parametrisation

    @staticmethod
    def vocabulary(process: Masking) -> int:
        """How many numbers the network is shown."""
        return process.stages * process.tokens + 1

    @staticmethod
    def outputs(process: Masking, parametrisation: Parametrisation) -> int:
        """How many logits it gives at each position."""
        return process.tokens if parametrisation == "data" else process.stages * process.branching

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Categorical:
        process = self.process
        symbol, depth, possible = process.beneath(xt, t)
        hidden = (depth == 0) | (depth == process.stages)
        shown = torch.where(hidden, symbol, depth * process.tokens + symbol + 1)
        logits = self.theta(self.logits(shown, t, cond))
        return Categorical(logits.masked_fill(~possible, -torch.inf).log_softmax(-1))

    def logits(self, shown: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """What the network says of (batch, *event) numbers: (batch, *event, outputs), float32 or float64."""
        dtype = next((w.dtype for w in self.network.parameters()), torch.float32)
        out = self.network(shown.flatten(1), (1000 * t.double()).to(dtype), cond)
        return (out if out.dtype == torch.float64 else out.float()).reshape(*shown.shape, -1)

    def theta(self, logits: Tensor) -> Tensor:
        """Logits of symbols."""
        if self.parametrisation == "data":
            return logits
        process = self.process
        b, k = process.branching, torch.arange(process.tokens, device=logits.device)
        slices = logits.unflatten(-1, (process.stages, b)).log_softmax(-1).unbind(-2)
        places = (k.div(b ** (process.stages - 1 - i), rounding_mode="floor") % b for i in range(process.stages))
        return torch.stack([one[..., place] for one, place in zip(slices, places, strict=True)]).sum(0)


class NextSymbols(Symbols):
    """Plain autoregression: a causal network that sees the symbols before its own, and is told no time.

    Of a position beyond the first unknown one it knows nothing true; a process from left to right never asks.
    """

    def __init__(self, network: nn.Module, process: Masking):
        super().__init__(network, process)
        if process.order != "left-to-right" or process.stages > 1:
            raise UsageProblem("a causal network reads from left to right; take order left-to-right and no branching")

    def logits(self, shown: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        before = shown.flatten(1).roll(1, 1)
        before[:, 0] = self.process.tokens  # the mask stands for the beginning
        return super().logits(before.reshape(shown.shape), torch.zeros_like(t), cond)

    def conditionals(self, x0: Tensor, cond: Cond = None) -> Categorical:
        """p(x_i | x_0, ..., x_(i-1)) of every symbol of the data, in one call."""
        number = self.process.numbers(x0)
        t = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        return Categorical(self.logits(number, t, cond).log_softmax(-1))
