"""Group normalisation, joined with what always follows it.

Between two convolutions of a U-Net stands `silu(norm(x + add) (1 + scale) + shift)`. Written as five operations it
takes longer than the convolutions: each one reads and writes the whole feature map. But per example and channel it is

    y = silu(a x + b),    a = r w (1 + scale),    b = (add - mean) a + bias (1 + scale) + shift,    r = 1 / std,

and the statistics of x + add follow from the sums of x and x^2. So `NormAct` reads x once for the sums and once for y,
a few examples at a time so that the float32 intermediates stay in the cache, and keeps nothing but x for the backward
pass. All arithmetic is in float32 (or better), whatever x is stored in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK = 1 << 16  # numbers worked on at a time: some float32 buffers of this length fit a core's second-level cache


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
    """The same in two passes forward and two backward, for x in channels_last."""

    @staticmethod
    def forward(ctx, x, weight, bias, add, scale, shift, groups, eps, act):  # type: ignore[override]
        rows = _rows(x)
        n, pixels, c = rows.shape
        dtype = torch.promote_types(x.dtype, torch.float32)
        w, bias_, e, s, t = (None if v is None else v.to(dtype) for v in (weight, bias, add, scale, shift))

        m1, m2 = torch.empty(2, n, c, dtype=dtype).unbind(0)
        for i in _chunks(rows):
            f = rows[i].to(dtype, copy=True)
            torch.sum(f, 1, out=m1[i])
            torch.sum(f.square_(), 1, out=m2[i])
        m1, m2 = m1 / pixels, m2 / pixels
        if e is not None:
            m2, m1 = m2 + 2 * e * m1 + e * e, m1 + e
        mean = _over_groups(m1, groups)
        r = (_over_groups(m2, groups) - mean * mean).clamp_(min=0).add_(eps).rsqrt_()

        gain = w if s is None else w * (1 + s)
        a = r * gain
        offset = mean if e is None else mean - e
        b = (bias_ if s is None else bias_ * (1 + s)) - offset * a
        if t is not None:
            b = b + t

        y = torch.empty_like(x)
        out = _rows(y)
        for i in _chunks(rows):
            u = torch.addcmul(b[i, None], rows[i].to(dtype), a[i, None])
            out[i] = F.silu(u, inplace=True) if act else u
        ctx.save_for_backward(x, w, bias_, s, a, b, r, offset, m1 if e is None else m1 - e)
        ctx.groups, ctx.act = groups, act
        ctx.wants = [None if v is None else v.dtype for v in (weight, bias, add, scale, shift)]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # type: ignore[override]
        x, w, bias, s, a, b, r, offset, m1 = ctx.saved_tensors
        rows = _rows(x)
        n, pixels, c = rows.shape
        dtype, groups = a.dtype, ctx.groups
        dy = _rows(dy.contiguous(memory_format=torch.channels_last))

        # g = dL/d(a x + b), and its sums against 1 and x
        g = torch.empty_like(rows) if ctx.act else dy
        s0, s1 = torch.empty(2, n, c, dtype=dtype).unbind(0)
        for i in _chunks(rows):
            f, d = rows[i].to(dtype), dy[i].to(dtype, copy=True)
            if ctx.act:
                u = torch.addcmul(b[i, None], f, a[i, None])
                torch.ops.aten.silu_backward.grad_input(d, u, grad_input=d)
                g[i] = d
            torch.sum(d, 1, out=s0[i])
            torch.sum(d.mul_(f), 1, out=s1[i])

        # z = r (x - offset) is the normalised x; dx = a g - r mean(gain g) - r z mean(gain g z), means over the group
        gz = r * (s1 - offset * s0)
        gain = w if s is None else w * (1 + s)
        k1 = -r * r * _over_groups(gain * gz, groups) / pixels
        k0 = -r * _over_groups(gain * s0, groups) / pixels - k1 * offset
        dx = torch.empty_like(x)
        out = _rows(dx)
        for i in _chunks(rows):
            h = torch.addcmul(k0[i, None], rows[i].to(dtype), k1[i, None])
            out[i] = h.addcmul_(g[i].to(dtype), a[i, None])

        told = 1 if s is None else 1 + s
        grads = (
            (told * gz).sum(0),
            (told * s0).sum(0),
            a * s0 + pixels * (k1 * m1 + k0),
            None if s is None else w * gz + bias * s0,
            s0,
        )
        return dx, *(None if t is None else v.to(t) for v, t in zip(grads, ctx.wants, strict=True)), None, None, None


def _rows(x: Tensor) -> Tensor:
    """(n, c, h, w) in channels_last -> a view (n, h w, c)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _chunks(rows: Tensor) -> list[slice]:
    step = max(1, CHUNK // (rows.shape[1] * rows.shape[2]))
    return [slice(i, i + step) for i in range(0, len(rows), step)]


def _over_groups(v: Tensor, groups: int) -> Tensor:
    """The mean over each group's channels, for each of its channels: (n, c) -> (n, c)."""
    parts = v.unflatten(1, (groups, -1))
    return parts.mean(2, keepdim=True).expand_as(parts).flatten(1)
