"""Grey levels and the interval [-1, 1]: the level k of K is the number x = 2k/(K - 1) - 1."""

from __future__ import annotations

import torch
from torch import Tensor


def from_levels(k: Tensor, levels: int = 256) -> Tensor:
    """x = 2k/(K - 1) - 1, float32 of the same shape, from integer levels k in 0..K-1.

    Computed as (2k - (K - 1))/(K - 1), which is exactly symmetric about 0 and exactly 1 at k = K - 1.
    """
    top = levels - 1
    return k.to(torch.float32).mul_(2).sub_(top).div_(top) if k.dtype != torch.float32 else (2 * k - top) / top


def to_levels(x: Tensor, levels: int = 256) -> Tensor:
    """The nearest level k = round((x + 1)(K - 1)/2), clamped to 0..K-1, int64 of the same shape; NaN becomes 0."""
    top = levels - 1
    return ((x.to(torch.float32) + 1) * (top / 2)).nan_to_num_(0.0).round_().clamp_(0, top).to(torch.int64)


def to_uint8(x: Tensor, levels: int = 256) -> Tensor:
    """Pixels 0..255 as uint8, from floats in [-1, 1], or from integer levels 0..K-1 (by default already 0..255)."""
    if x.is_floating_point():
        return to_levels(x, 256).to(torch.uint8)
    if levels == 256:
        return x.to(torch.uint8)
    return (x.to(torch.float32) * (255 / (levels - 1))).round_().to(torch.uint8)
