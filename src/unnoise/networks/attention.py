"""Self-attention between the pixels of a feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import NormAct

FEW = 1024


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, there: Tensor | None = None) -> Tensor:
    """`softmax(q k^T / sqrt(d)) v` for (batch, token, d); `causal`: of the tokens up to and with its own only; `there`
    (batch, token) bool: of these tokens only.

    On the CPU up to `FEW` tokens by plain matrix products, which are quicker there than the fused kernel, bfloat16 above
    all. The softmax keeps the type of its input and works in float32 inside; autocast would make it store float32.
    """
    if q.device.type != "cpu" or q.shape[1] > FEW:
        return F.scaled_dot_product_attention(q, k, v, None if there is None else there[:, None], is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        scores = torch.bmm(q * q.shape[-1] ** -0.5, k.mT)
        if causal:
            scores = scores + torch.full(scores.shape[1:], -torch.inf, dtype=scores.dtype).triu(1)
        if there is not None:
            scores = scores.masked_fill(~there[:, None], -torch.inf)
        return torch.bmm(scores.softmax(-1), v)


class Attention(nn.Module):
    """`(x + proj(attend(q, k, v))) skip_scale` with `q, k, v = qkv(norm(x))`, over all pixels, in `heads` parts."""

    def __init__(self, channels: int, heads: int, groups: int = 32, eps: float = 1e-5, skip_scale: float = 1.0):
        super().__init__()
        self.heads, self.skip_scale = heads, skip_scale
        self.norm = NormAct(channels, groups, eps, act=False)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.permute(1, 0, 2, 4, 3).reshape(3, b * self.heads, h * w, c // self.heads).unbind(0)
        a = attend(q, k, v).view(b, self.heads, h * w, c // self.heads).permute(0, 1, 3, 2).reshape(b, c, h, w)
        out = x + self.proj(a)
        return out if self.skip_scale == 1 else out * self.skip_scale


class AttentionPool(nn.Module):
    """One vector from a feature map: what the mean pixel finds, asking all `places` pixels and itself (CLIP's pooling).

    (batch, channels, height, width) with height x width = places -> (batch, outputs). Every place has a learned position.
    """

    def __init__(self, channels: int, outputs: int, places: int, heads: int):
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(channels, places + 1) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = torch.cat([x.mean(2, keepdim=True), x], 2) + self.positions.to(x.dtype)
        b, c, n = x.shape
        qkv = self.qkv(x.mT).view(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, b * self.heads, n, c // self.heads).unbind(0)
        return self.proj(attend(q[:, :1], k, v).reshape(b, c))
