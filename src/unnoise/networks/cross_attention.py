"""Pixels that attend to tokens: latent diffusion's spatial transformer (2112.10752)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend
from .norm import NormAct

Told = tuple[Tensor, Tensor | None] | None
"""Tokens (batch, tokens, width), and which of them there are (batch, tokens) bool, None for all; None for no tokens at all."""


class CrossAttention(nn.Module):
    """`out(softmax(q k^T / sqrt(d)) v)`, q from x (batch, n, width), k and v from `context` (batch, m, context), or from x
    itself where there is none, in `heads` parts of width d (`width / heads`, if left out)."""

    def __init__(self, width: int, heads: int, context: int | None = None, d: int | None = None):
        super().__init__()
        inner = heads * (d or width // heads)
        self.heads = heads
        self.q = nn.Linear(width, inner, bias=False)
        self.kv = nn.Linear(context or width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, context: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        k, v = self.kv(x if context is None else context).chunk(2, dim=-1)
        there = None if there is None else there.repeat_interleave(self.heads, 0)
        return self.out(self._whole(attend(self._parts(self.q(x)), self._parts(k), self._parts(v), there=there)))

    def _parts(self, x: Tensor) -> Tensor:
        """(b, n, heads d) -> (b heads, n, d)."""
        b, n, c = x.shape
        return x.view(b, n, self.heads, c // self.heads).transpose(1, 2).reshape(b * self.heads, n, c // self.heads)

    def _whole(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """Self-attention, cross-attention where there is a `context` width, and a perceptron, `gated` (GEGLU) or not, each
    `x + f(norm(x))`."""

    def __init__(self, width: int, heads: int, context: int = 0, d: int | None = None, gated: bool = True):
        super().__init__()
        self.norm0, self.own = nn.LayerNorm(width), CrossAttention(width, heads, d=d)
        self.norm1 = nn.LayerNorm(width) if context else None
        self.cross = CrossAttention(width, heads, context, d) if context else None
        self.norm2, self.gated = nn.LayerNorm(width), gated
        self.inner, self.outer = nn.Linear(width, (8 if gated else 4) * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, told: Told = None, own: Tensor | None = None) -> Tensor:
        """`own`: which of x's own tokens there are."""
        x = x + self.own(self.norm0(x), there=own)
        if self.cross is not None and self.norm1 is not None:
            context, there = (None, None) if told is None else told
            x = x + self.cross(self.norm1(x), context, there)
        h = self.inner(self.norm2(x))
        if self.gated:
            h, gate = h.chunk(2, dim=-1)
            return x + self.outer(h * F.gelu(gate))
        return x + self.outer(F.gelu(h))


class SpatialTransformer(nn.Module):
    """`x + out(layers(proj(norm(x))))` over the pixels of a feature map, each a token; `out` starts at 0."""

    def __init__(self, channels: int, heads: int, depth: int, context: int = 0, groups: int = 32):
        super().__init__()
        self.norm = NormAct(channels, groups, 1e-6, act=False)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.layers = nn.ModuleList(Layer(channels, heads, context) for _ in range(depth))
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, told: Told = None) -> Tensor:
        height, width = x.shape[-2:]
        h = self.proj(self.norm(x)).flatten(2).mT
        for layer in self.layers:
            h = layer(h, told)
        return x + self.out(h.mT.unflatten(2, (height, width)))
