"""Self-attention between the pixels of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unnoise.networks.norm import NormAct


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`softmax(q k^T / sqrt(d)) v` for (batch, token, d), in plain matrix products: quicker than the fused kernel on
    the few hundred tokens of a small image, and the softmax is taken in float32 whatever the inputs are."""
    logits = torch.bmm(q * q.shape[-1] ** -0.5, k.mT)
    return torch.bmm(logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype), v)


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
