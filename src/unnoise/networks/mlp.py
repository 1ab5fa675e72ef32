"""Multilayer perceptrons for points in the plane, on manifolds, and other vectors: a residual one, and a plain one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from .embeddings import Embedding, Waves
from .options import Options


@dataclass(frozen=True)
class MLPOptions(Options):
    """What kind of MLP: `depth` residual layers of `width`, told t and the label in each."""

    width: int = 128
    depth: int = 4
    embedding: Literal["sin-first", "cos-first", "fourier"] = "cos-first"
    dropout: float = 0.0
    waves: tuple[float, ...] | None = ()
    """Frequencies f of sin(2 pi f x) and cos(2 pi f x), which it sees beside x: the finer, the finer what it can learn. None is
    for the recipe to choose."""
    plain: bool = False
    """Layers of sines on x and t joined, without labels, in place of residual ones."""

    def build(self, in_channels: int, out_channels: int | None = None, num_classes: int | None = None) -> nn.Module:
        """The network, freshly initialised; `in_channels` is the length of the last axis."""
        if self.depth < 1:
            raise UsageProblem(f"an MLP of depth {self.depth} is not possible; choose at least 1")
        seen, outputs = in_channels * (1 + 2 * len(self.waves or ())), out_channels or in_channels
        if self.plain and (num_classes is not None or self.dropout):
            raise UsageProblem("a plain MLP takes no labels and no dropout; leave plain out")
        network = PlainMLP(self, seen, outputs) if self.plain else MLP(self, seen, outputs, num_classes)
        return Waves(network, self.waves) if self.waves else network


class MLP(nn.Module):
    """`network(x, t, cond) -> (batch, ..., out_channels)` for x: (batch, ..., in_channels), t: (batch,).

    Each layer is `h + second(silu(first(norm(h)) (1 + scale) + shift))`, scale and shift from t and the label; the last
    layer starts at 0. All but the last axis are treated alike.
    """

    def __init__(self, options: MLPOptions, in_channels: int, out_channels: int, num_classes: int | None = None):
        super().__init__()
        o = self.options = options
        self.embedding = Embedding(o.width, o.width, o.embedding, num_classes)
        self.stem = nn.Linear(in_channels, o.width)
        self.layers = nn.ModuleList(Layer(o) for _ in range(o.depth))
        self.norm = nn.LayerNorm(o.width)
        self.head = nn.Linear(o.width, out_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        emb = self.embedding(t, cond)
        emb = emb.view(len(emb), *[1] * (x.ndim - 2), emb.shape[1])
        h = self.stem(x)
        for layer in self.layers:
            h = layer(h, emb)
        return self.head(F.silu(self.norm(h)))


class Layer(nn.Module):
    """One residual layer of the MLP."""

    def __init__(self, o: MLPOptions):
        super().__init__()
        self.p = o.dropout
        self.norm = nn.LayerNorm(o.width)
        self.first = nn.Linear(o.width, o.width)
        self.affine = nn.Linear(o.width, 2 * o.width)
        self.second = nn.Linear(o.width, o.width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.affine(emb).chunk(2, dim=-1)
        h = F.silu(self.first(self.norm(x)) * (1 + scale) + shift)
        return x + self.second(F.dropout(h, self.p, self.training))


class PlainMLP(nn.Module):
    """`network(x, t) -> (batch, out_channels)` for x: (batch, in_channels): `depth` layers of sines on x and t joined, then a
    linear one that starts at 0 (the network of 2202.02763)."""

    def __init__(self, options: MLPOptions, in_channels: int, out_channels: int):
        super().__init__()
        o = self.options = options
        widths = [in_channels + 1, *[o.width] * o.depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.head = nn.Linear(o.width, out_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        if cond:
            raise UsageProblem("a plain MLP takes no conditions; leave plain out")
        h = torch.cat([x, t[:, None].to(x)], 1)
        for layer in self.layers:
            h = layer(h).sin()
        return self.head(h)
