"""A network that is told captions: tokens read by a small transformer, which its pixels attend to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from .cross_attention import Layer
from .options import Options


@dataclass(frozen=True)
class ReaderOptions(Options):
    """What kind of reader."""

    width: int = 64
    """Of the tokens it gives."""
    layers: int = 1
    """Of its transformer; 0 for an embedding alone."""
    heads: int = 4
    channels_per_head: int | None = None
    """Width / heads, if none."""


class Reader(nn.Module):
    """Tokens to what pixels attend to: (batch, 1 + length, width), and which of them there are.

    Either numbers, int64 (batch, length), below `rows`, -1 for none: an embedding of them is learned. Or vectors of
    `features` numbers (batch, length, features), NaN for none. The first token given is always there, and learned: it is all that
    an empty caption says.
    """

    def __init__(self, options: ReaderOptions, length: int, rows: int | None = None, features: int = 0):
        super().__init__()
        o = self.options = options
        if rows is None:
            self.embedding: nn.Module = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, o.width))
        else:
            self.embedding = nn.Embedding(max(rows, 1), o.width)
        self.numbers = rows is not None
        self.start = nn.Parameter(torch.randn(o.width))
        self.places = nn.Parameter(0.1 * torch.randn(length, o.width))
        self.layers = nn.ModuleList(
            Layer(o.width, o.heads, d=o.channels_per_head, gated=False) for _ in range(o.layers)
        )
        self.norm = nn.LayerNorm(o.width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if tokens.is_floating_point() == self.numbers or tokens.shape[1] > len(self.places):
            raise UsageProblem(
                f"tokens {tuple(tokens.shape)} of {tokens.dtype} are not what this network reads: "
                f"{'numbers' if self.numbers else 'vectors'}, {len(self.places)} at most"
            )
        there = tokens >= 0 if self.numbers else ~tokens[..., 0].isnan()
        x = self.embedding(tokens.clamp(min=0) if self.numbers else tokens.nan_to_num().to(self.start.dtype))
        x = torch.cat([self.start.expand(len(x), 1, -1), x + self.places[: x.shape[1]]], 1)
        there = torch.cat([there.new_ones(len(x), 1), there], 1)
        for layer in self.layers:
            x = layer(x, own=there)
        return self.norm(x), there


class Captioned(nn.Module):
    """`network(x, t, cond)` that attends to the tokens which `reader` makes of `cond[name]`: "text", or "label" (batch,), a
    caption of one word. Without it, of an empty caption."""

    def __init__(self, network: nn.Module, reader: Reader, name: str = "text"):
        super().__init__()
        self.network, self.reader, self.name = network, reader, name

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        rest = dict(cond or {})
        tokens = rest.pop(self.name, None)
        if tokens is None:
            tokens = self.nothing(len(x), x.device)
        elif tokens.ndim == 1:
            tokens = tokens[:, None]
        context, there = self.reader(tokens)
        return self.network(x, t, {**rest, "context": context.to(x.dtype), "there": there})

    def nothing(self, batch: int, device: torch.device) -> Tensor:
        if self.reader.numbers:
            return torch.full((batch, 1), -1, device=device)
        features = self.reader.embedding[0].normalized_shape[0]  # type: ignore[index]
        return torch.full((batch, 1, features), torch.nan, device=device)
