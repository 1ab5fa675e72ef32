"""Group normalisation, joined with what always follows it.

Between two convolutions of a U-Net stands `silu(norm(x + add) (1 + scale) + shift)`. Written as five operations it
takes longer than the convolutions: each one reads and writes the whole feature map. But per example and channel it is

    y = silu(a x + b),    a = r w (1 + scale),    b = (add - mean) a + bias (1 + scale) + shift,    r = 1 / std,

and the statistics of x + add follow from the sums of x and x^2: a few sweeps over the map in all, and nothing but x is
kept for the backward pass. The maps stay in the type of x, the coefficients and sums are float32 (or better). A kernel in C
(`kernels`) makes them one example after the other, whose map stays in the cache from sweep to sweep. Where it cannot be
compiled torch's operations make large sweeps, not small blocks that would fit the cache: each is one parallel region, and
a thread that waits for another at thousands of them stands still as soon as anything else runs on the machine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import kernels

RUNS = 8  # see `_sums`


def groups_for(channels: int, most: int = 32, least_channels: int = 4) -> int:
    """How many groups: at most `most`, of at least `least_channels` channels each, and a divisor of `channels`."""
    wanted = max(1, min(most, channels // least_channels))
    return next(g for g in range(wanted, 0, -1) if channels % g == 0)


class NormAct(nn.Module):
    """`silu(norm(x + add) (1 + scale) + shift)`, with `norm` a group normalisation with weight and bias.

    x: (batch, channel, height, width); add, scale, shift: (batch, channel) or None. `act=False` leaves out the silu.
    On the CPU in bfloat16 and channels_last it is computed in one piece, elsewhere by torch's own operations.
    """

    def __init__(self, channels: int, groups: int = 32, eps: float = 1e-5, act: bool = True):
        super().__init__()
        self.groups, self.eps, self.act = groups_for(channels, groups), eps, act
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Tensor, add: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        settings = self.groups, self.eps, self.act
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last):
            return FusedNormAct.apply(x, self.weight, self.bias, add, scale, shift, *settings)
        return plain_norm_act(x, self.weight, self.bias, add, scale, shift, *settings)


def plain_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    groups: int,
    eps: float,
    act: bool,
) -> Tensor:
    """What `NormAct` computes, operation by operation."""

    def spread(v: Tensor) -> Tensor:
        return v[:, :, None, None]

    if add is not None:
        x = x + spread(add)
    h = F.group_norm(x, groups, weight, bias, eps)
    if scale is not None:
        h = h * (1 + spread(scale))
    if shift is not None:
        h = h + spread(shift)
    return F.silu(h) if act else h


class FusedNormAct(torch.autograd.Function):
    """The same in five sweeps over the feature map forward and seven backward, for x in channels_last."""

    @staticmethod
    def forward(ctx, x, weight, bias, add, scale, shift, groups, eps, act):  # type: ignore[override]
        rows = _rows(x)
        ctx.groups, ctx.act = groups, act
        ctx.wants = [None if v is None else v.dtype for v in (weight, bias, add, scale, shift)]
        if _by_kernel(x):
            y, a, b, r, offset, m1 = kernels.forward(rows, weight, bias, add, scale, shift, groups, eps, act)
            told = None if scale is None else scale.float()
            ctx.save_for_backward(x, weight.float(), bias.float(), told, a, b, r, offset, m1)
            return _image(y, x)
        pixels = rows.shape[1]
        dtype = torch.promote_types(x.dtype, torch.float32)
        w, bias_ = weight.to(dtype), bias.to(dtype)
        e, s, t = (None if v is None else v.to(dtype) for v in (add, scale, shift))

        m1, m2 = _sums(rows, dtype) / pixels, _sums(rows * rows, dtype) / pixels
        moved = m1
        if e is not None:
            moved, m2 = m1 + e, m2 + e * (2 * m1 + e)
        mean = _over_groups(moved, groups)
        r = (_over_groups(m2, groups) - mean * mean).clamp_(min=0).add_(eps).rsqrt_()
        a = r * (w if s is None else w * (1 + s))
        offset = mean if e is None else mean - e
        b = (bias_ if s is None else bias_ * (1 + s)) - offset * a
        if t is not None:
            b = b + t

        y = _affine(rows, a, b)
        ctx.save_for_backward(x, w, bias_, s, a, b, r, offset, m1)
        return _image(F.silu(y, inplace=True) if act else y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # type: ignore[override]
        x, w, bias, s, a, b, r, offset, m1 = ctx.saved_tensors
        rows, g = _rows(x), _rows(dy.contiguous(memory_format=torch.channels_last))
        dtype, groups, pixels = a.dtype, ctx.groups, rows.shape[1]

        # g = dL/d(a x + b), and its sums against 1 and x; z = r (x - offset) is the normalised x
        # dx = a g - r mean(gain g) - r z mean(gain g z), means over each group
        gain = w if s is None else w * (1 + s)
        if _by_kernel(x):
            dx, s0, s1, k0, k1 = kernels.backward(rows, g.to(x.dtype), a, b, r, offset, gain, groups, ctx.act)
            gz = r * (s1 - offset * s0)
        else:
            if ctx.act:
                u = _affine(rows, a, b)
                g = torch.ops.aten.silu_backward.grad_input(g, u, grad_input=u)
            s0, s1 = _sums(g, dtype), _sums(g * rows, dtype)
            gz = r * (s1 - offset * s0)
            k1 = -r * r * _over_groups(gain * gz, groups) / pixels
            k0 = -r * _over_groups(gain * s0, groups) / pixels - k1 * offset
            dx = _affine(rows, k1, k0).addcmul_(g, a[:, None].to(g.dtype))

        told = 1 if s is None else 1 + s
        grads = (
            (told * gz).sum(0),
            (told * s0).sum(0),
            a * s0 + pixels * (k1 * m1 + k0),
            None if s is None else w * gz + bias * s0,
            s0,
        )
        told_grads = (None if v is None or t is None else v.to(t) for v, t in zip(grads, ctx.wants, strict=True))
        return _image(dx, x), *told_grads, None, None, None


def _by_kernel(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and kernels.library() is not None


def _affine(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a x + b, (n, c) coefficients for all pixels."""
    return torch.addcmul(b[:, None].to(rows.dtype), rows, a[:, None].to(rows.dtype))


def _sums(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums over pixels, (n, p, c) -> (n, c): torch adds in float32 but rounds what it returns to bfloat16, so ask it for
    `RUNS` sums of a part of the pixels each, whose rounding errors average out, and add those."""
    runs = next(k for k in range(min(RUNS, rows.shape[1]), 0, -1) if rows.shape[1] % k == 0)
    return rows.unflatten(1, (runs, -1)).sum(2).sum(1, dtype=dtype)


def _rows(x: Tensor) -> Tensor:
    """(n, c, h, w) in channels_last -> a view (n, h w, c)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """And back."""
    n, c, h, w = like.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


def _over_groups(v: Tensor, groups: int) -> Tensor:
    """The mean over each group's channels, for each of its channels: (n, c) -> (n, c)."""
    parts = v.unflatten(1, (groups, -1))
    return parts.mean(2, keepdim=True).expand_as(parts).flatten(1)
