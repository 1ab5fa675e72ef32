"""Networks that guess symbols: at every masked position the law of what is there."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from ..laws import Categorical
from ..processes.digits import Digits, digits
from ..processes.masking import Masking
from .denoiser import Cond, Denoiser

Parametrisation = Literal["data", "direct"]


class Symbols(Denoiser[Masking]):
    """p(x_0 | x_t) at every position, from the logits of a network on sequences; what is known already has probability 1.

    data     a logit for each symbol; those that the coarse symbol excludes are left out and the rest sums to 1.
    direct   a logit for each digit at each stage, from which those of symbols are added up: stages x branching outputs. Where
             every row of digits is a symbol, they are the law themselves (`Digits`).

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

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Categorical | Digits:
        process = self.process
        symbol, depth = process.surface(xt, t)
        logits = self.logits(symbol, depth, t, cond)
        if self.parametrisation == "direct" and process.branching**process.stages == process.tokens:
            known = Digits.certain(symbol.clamp(max=process.tokens - 1), process.stages, process.branching)
            there = torch.arange(process.stages, device=xt.device) < depth[..., None]
            guess = self.slices(logits)
            return Digits(torch.where(there[..., None], known.log_probs.to(guess), guess))
        possible = process.beneath(xt, t)[2]
        return Categorical(self.theta(logits).masked_fill(~possible, -torch.inf).log_softmax(-1))

    def logits(self, symbol: Tensor, depth: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """What the network says of (batch, *event) symbols at their depths: (batch, *event, outputs), float32 or float64."""
        process = self.process
        hidden = (depth == 0) | (depth == process.stages)
        shown = torch.where(hidden, symbol, depth * process.tokens + symbol + 1)
        out = self.network(shown.flatten(1), (1000 * t.double()).to(self.dtype), cond)
        return (out if out.dtype == torch.float64 else out.float()).reshape(*shown.shape, -1)

    @property
    def dtype(self) -> torch.dtype:
        """That of the network's weights."""
        return next((w.dtype for w in self.network.parameters()), torch.float32)

    def slices(self, logits: Tensor) -> Tensor:
        """Log-probabilities of digits, (..., stages, branching)."""
        return logits.unflatten(-1, (self.process.stages, self.process.branching)).log_softmax(-1)

    def theta(self, logits: Tensor) -> Tensor:
        """Logits of symbols."""
        if self.parametrisation == "data":
            return logits
        process = self.process
        k = digits(torch.arange(process.tokens, device=logits.device), process.stages, process.branching)
        slices = zip(self.slices(logits).unbind(-2), k.unbind(-1), strict=True)
        return torch.stack([one[..., digit] for one, digit in slices]).sum(0)


class Levels(Symbols):
    """The same of images and sounds by networks on them, which are shown of each symbol its level, how much of it is known, as a
    share of its stages, and a learned vector of `width`; what is masked has level 0."""

    def __init__(self, network: nn.Module, process: Masking, parametrisation: Parametrisation, width: int):
        super().__init__(network, process, parametrisation)
        self.vectors = nn.Embedding(process.tokens + 1, width)
        if process.scale is None:
            raise UsageProblem("networks of images and sounds are shown levels, and these symbols have none")

    @staticmethod
    def inputs(channels: int, width: int) -> int:
        """Channels that the network is shown, of data that have so many."""
        return channels * (2 + width)

    def logits(self, symbol: Tensor, depth: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        process, dtype = self.process, self.dtype
        vectors = self.vectors(symbol).movedim(-1, 2).flatten(1, 2)
        shown = [process.levels(symbol).to(dtype), (depth / process.stages).to(dtype), vectors]
        out = self.network(torch.cat(shown, 1), (1000 * t.double()).to(dtype), cond)
        out = out.unflatten(1, (symbol.shape[1], -1)).movedim(2, -1)
        return out if out.dtype == torch.float64 else out.float()


class NextSymbols(Symbols):
    """Plain autoregression: a causal network that sees the symbols before its own, and is told no time.

    Of a position beyond the first unknown one it knows nothing true; a process from left to right never asks.
    """

    def __init__(self, network: nn.Module, process: Masking):
        super().__init__(network, process)
        if process.order != "left-to-right" or process.stages > 1:
            raise UsageProblem("a causal network reads from left to right; take order left-to-right and no branching")

    def logits(self, symbol: Tensor, depth: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        before = symbol.flatten(1).roll(1, 1)
        before[:, 0] = self.process.tokens  # the mask stands for the beginning
        return super().logits(before.reshape(symbol.shape), depth, torch.zeros_like(t), cond)

    def conditionals(self, x0: Tensor, cond: Cond = None) -> Categorical:
        """p(x_i | x_0, ..., x_(i-1)) of every symbol of the data, in one call."""
        number = self.process.numbers(x0)
        t = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        return Categorical(self.logits(number, torch.ones_like(number), t, cond).log_softmax(-1))
