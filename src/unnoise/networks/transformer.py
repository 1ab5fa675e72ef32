"""A transformer over a sequence of tokens or vectors, told a number and a label in every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from .attention import attend
from .embeddings import Embedding
from .options import Options


@dataclass(frozen=True)
class TransformerOptions(Options):
    """What kind of transformer: `depth` blocks of `width`, each attention and a perceptron, with rotary positions."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    mlp_mult: int = 4
    """Width of the perceptron's middle, in multiples of `width`."""
    features: int = 64
    """Width of the features of t."""
    told: int = 128
    """Width of what a block is told: the embedding of t and the label."""
    embedding: Literal["sin-first", "cos-first", "fourier"] = "cos-first"
    """Features of t: see `Sinusoids`."""
    causal: bool = False
    """Whether a position attends to itself and those before it only."""
    dropout: float = 0.0
    places: int = 0
    """Places that have a learned vector each, as pixels need; 0 for none, where only distances count."""

    def build(
        self, inputs: int, outputs: int | None = None, num_classes: int | None = None, vectors: bool = False
    ) -> Transformer:
        """The network, freshly initialised: of sequences of `inputs` symbols, or of `vectors` that long; `outputs` is
        `inputs` if left out."""
        return Transformer(self, inputs, outputs or inputs, num_classes, vectors)


class Transformer(nn.Module):
    """`network(x, t, cond) -> (batch, length, outputs)`, which starts at 0.

    x: (batch, length) int64 symbols, or (batch, length, inputs) vectors, of any length; t: (batch,) any number; cond:
    {"label": (batch,) int64, -1 for none}. Symbols have an embedding apart from the last layer's weights (2310.16834);
    blocks start as the identity (adaLN-zero, 2212.09748). Raises UsageProblem for options that do not fit together.
    """

    def __init__(
        self,
        options: TransformerOptions,
        inputs: int,
        outputs: int,
        num_classes: int | None = None,
        vectors: bool = False,
    ):
        super().__init__()
        o = self.options = options
        if o.depth < 1 or o.heads < 1 or o.width % (2 * o.heads):
            raise UsageProblem(
                f"a transformer of depth {o.depth}, width {o.width} and {o.heads} heads is not possible; choose a depth "
                "and heads of at least 1, and a width that is a multiple of twice the heads"
            )
        self.embedding = Embedding(o.features, o.told, o.embedding, num_classes)
        self.stem = nn.Linear(inputs, o.width) if vectors else nn.Embedding(inputs, o.width)
        self.blocks = nn.ModuleList(Block(o) for _ in range(o.depth))
        self.affine = _zero(nn.Linear(o.told, 2 * o.width))
        self.head = _zero(nn.Linear(o.width, outputs))
        self.places = nn.Parameter(torch.zeros(o.places, o.width)) if o.places else None
        if not vectors:
            nn.init.normal_(self.stem.weight, std=o.width**-0.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        emb = self.embedding(t, cond)
        h = self.stem(x)
        if self.places is not None:
            h = h + self.places
        turns = rotations(h.shape[1], self.options.width // self.options.heads, h.device)
        for block in self.blocks:
            h = block(h, emb, turns)
        scale, shift = self.affine(emb)[:, None].chunk(2, dim=-1)
        return self.head(_normed(h, scale, shift))


class Block(nn.Module):
    """`x + gate attention(norm(x) (1 + scale) + shift)`, then the same with a perceptron; all six from what it is told."""

    def __init__(self, o: TransformerOptions):
        super().__init__()
        self.heads, self.causal, self.p = o.heads, o.causal, o.dropout
        self.affine = _zero(nn.Linear(o.told, 6 * o.width))
        self.qkv = nn.Linear(o.width, 3 * o.width, bias=False)
        self.proj = nn.Linear(o.width, o.width, bias=False)
        self.inner = nn.Linear(o.width, o.mlp_mult * o.width)
        self.outer = nn.Linear(o.mlp_mult * o.width, o.width)

    def forward(self, x: Tensor, emb: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        scale, shift, gate, scale2, shift2, gate2 = self.affine(emb)[:, None].chunk(6, dim=-1)
        h = self.proj(self._attention(self.qkv(_normed(x, scale, shift)), turns))
        x = torch.addcmul(x, gate, self._dropped(h))
        h = self.outer(F.gelu(self.inner(_normed(x, scale2, shift2)), approximate="tanh"))
        return torch.addcmul(x, gate2, self._dropped(h))

    def _attention(self, qkv: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        b, n, c = qkv.shape
        d = c // (3 * self.heads)
        q, k, v = qkv.view(b, n, 3, self.heads, d).permute(2, 0, 3, 1, 4).reshape(3, b * self.heads, n, d).unbind(0)
        a = attend(rotate(q, turns), rotate(k, turns), v, self.causal)
        return a.view(b, self.heads, n, d).transpose(1, 2).reshape(b, n, c // 3)

    def _dropped(self, h: Tensor) -> Tensor:
        return F.dropout(h, self.p, self.training)


def rotations(length: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles n f_i, f_i = 10000^(-2 i / width), each (length, width / 2) in float32 (2104.09864)."""
    i = torch.arange(width // 2, device=device, dtype=torch.float64)
    angles = torch.arange(length, device=device, dtype=torch.float64)[:, None] * 10000 ** (-2 * i / width)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Each pair (x_i, x_(i + width/2)) of the last axis turned by the angle of its place: scalar products of two such
    vectors depend on how far they are apart, not on where they stand."""
    cos, sin = (turn.to(x.dtype) for turn in turns)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
