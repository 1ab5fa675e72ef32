"""Halving and doubling of images, with a box filter (average, nearest neighbour) or a longer one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BOX = (1, 1)


class Mean(torch.autograd.Function):
    """The mean of each 2 x 2 square. Its transpose is a quarter of `Repeat`, which is quicker than torch's own."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:  # type: ignore[override]
        return Repeat.apply(dy) * 0.25


class Repeat(torch.autograd.Function):
    """Each pixel as a 2 x 2 square. Its transpose is four times `Mean`."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.interpolate(x, scale_factor=2, mode="nearest")

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:  # type: ignore[override]
        return Mean.apply(dy) * 4


def _kernel(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    f = torch.tensor(taps, dtype=x.dtype, device=x.device)
    return (f.outer(f) / f.sum() ** 2).expand(x.shape[1], 1, -1, -1)


def even(x: Tensor) -> Tensor:
    """Repeats the last row or column of an odd side, so that the sides halve evenly."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, w % 2, 0, h % 2), mode="replicate") if h % 2 or w % 2 else x


def halve(x: Tensor, taps: tuple[int, ...] = BOX, padding: int | None = None) -> Tensor:
    """Low-pass and keep every second pixel: (b, c, h, w) -> (b, c, ceil(h/2), ceil(w/2)).

    `padding` (default: half the filter, after making the sides even) is for a caller that has already padded.
    """
    if padding is None:
        x, padding = even(x), (len(taps) - 1) // 2
    if taps == BOX:
        return Mean.apply(x)
    return F.conv2d(x, _kernel(x, taps), stride=2, padding=padding, groups=x.shape[1])


def double(x: Tensor, taps: tuple[int, ...] = BOX) -> Tensor:
    """Insert zeros and low-pass, keeping the mean: (b, c, h, w) -> (b, c, 2h, 2w); the box repeats each pixel."""
    if taps == BOX:
        return Repeat.apply(x)
    return F.conv_transpose2d(x, 4 * _kernel(x, taps), stride=2, padding=(len(taps) - 1) // 2, groups=x.shape[1])
