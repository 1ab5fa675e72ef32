"""The RefineNets of NCSN (1907.05600) and NCSNv2 (2006.09011): dilated residual stages, and a cascade that refines back up.

A stage makes features, each from the last; the cascade starts at the deepest and joins one stage after another:

    f_k = stage_k(f_{k-1}),     r_K = refine(f_K),     r_k = refine(f_k, r_{k+1}),     output = conv(elu(norm(r_1)))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from .options import Options
from .resample import even, halve

EPS = 1e-5


@dataclass(frozen=True)
class RefineNetOptions(Options):
    """What kind of RefineNet; the defaults are NCSN's for CIFAR-10. `networks.published` has the papers'."""

    channels: int = 128
    """Width at multiplier 1."""
    mult: tuple[int, ...] = (1, 2, 2, 2)
    """Width of each stage, in multiples of `channels`; the last two alike."""
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    """Of each stage's convolutions. After the first, a stage of dilation 1 halves the image; a dilated one keeps its size."""
    levels: int | None = 10
    """Noise levels: each has a row of scales and shifts in every normalisation (NCSN, which pools by averages and normalises
    throughout). None: the network is told nothing (NCSNv2, which pools by maxima and refines without normalisation)."""

    def build(self, in_channels: int, out_channels: int | None = None, num_classes: int | None = None) -> RefineNet:
        """The network, freshly initialised; `out_channels` is `in_channels` if left out."""
        if num_classes is not None:
            raise UsageProblem("a RefineNet takes no labels; train without them (--no-conditional), or take a U-Net")
        return RefineNet(self, in_channels, out_channels or in_channels)


class InstanceNormPlus(nn.Module):
    r"""gamma (z + alpha (mu - m) / v) + beta: instance normalisation z that restores how the channels' means differ.

    mu are the means over pixels, m and v their mean and deviation over channels. gamma, alpha, beta: a row for each level,
    or one in all. x (batch, channel, height, width); level (batch,) int64 or None.
    """

    def __init__(self, channels: int, levels: int | None):
        super().__init__()
        self.rows = nn.Embedding(levels or 1, 3 * channels)
        nn.init.normal_(self.rows.weight[:, : 2 * channels], 1.0, 0.02)
        nn.init.zeros_(self.rows.weight[:, 2 * channels :])

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        gamma, alpha, beta = (self.rows.weight if level is None else self.rows(level)).chunk(3, dim=1)
        variance, mean = torch.var_mean(x.float() if x.dtype == torch.bfloat16 else x, (2, 3), correction=0)
        scale = gamma * torch.rsqrt(variance + EPS)
        apart = (mean - mean.mean(1, keepdim=True)) * torch.rsqrt(mean.var(1, keepdim=True) + EPS)
        shift = gamma * alpha * apart + beta - scale * mean
        return torch.addcmul(shift[..., None, None].to(x), x, scale[..., None, None].to(x))


class Bare(nn.Module):
    """No normalisation, where others have one."""

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        return x


class Residual(nn.Module):
    """`skip(x) + conv1(elu(norm1(conv0(elu(norm0(x))))))`, halved at its end or not; a skip that changes nothing is none."""

    def __init__(self, inputs: int, outputs: int, dilation: int, first: bool, halves: bool, levels: int | None):
        super().__init__()
        inner = outputs if not first else inputs  # a stage widens last in its first block
        self.halves = halves
        self.norm0, self.norm1 = InstanceNormPlus(inputs, levels), InstanceNormPlus(inner, levels)
        self.conv0 = nn.Conv2d(inputs, inner, 3, padding=dilation, dilation=dilation)
        self.conv1 = nn.Conv2d(inner, outputs, 3, padding=dilation, dilation=dilation)
        self.skip = None
        if halves:
            self.skip = nn.Conv2d(inputs, outputs, 1)
        elif first:
            self.skip = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        h = self.conv0(F.elu(self.norm0(x, level)))
        h = self.conv1(F.elu(self.norm1(h, level)))
        h = h + (x if self.skip is None else self.skip(x))
        return halve(even(h)) if self.halves else h


class Units(nn.Module):
    """`count` residual units of two convolutions each, `x + conv(elu(norm(conv(elu(norm(x))))))`."""

    def __init__(self, channels: int, count: int, levels: int | None):
        super().__init__()
        self.norms = nn.ModuleList(_refining_norm(channels, levels) for _ in range(2 * count))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2 * count))

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        h = x
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = conv(F.elu(norm(h, level)))
            if i % 2:
                h = x = h + x
        return h


class Pooling(nn.Module):
    """Chained pooling: `x + p_1 + p_2`, `p_i = conv(pool5(norm(p_{i-1})))`, `p_0 = x = elu(input)`."""

    def __init__(self, channels: int, levels: int | None):
        super().__init__()
        self.average = levels is not None
        self.norms = nn.ModuleList(_refining_norm(channels, levels) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        x = path = F.elu(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = norm(path, level)
            pooled = F.avg_pool2d(h, 5, 1, 2) if self.average else F.max_pool2d(h, 5, 1, 2)
            path = conv(pooled)
            x = x + path
        return x


class Refine(nn.Module):
    """Adapt each input by two units, sum them at the size of the first, pool in chains, and finish by `last` units."""

    def __init__(self, inputs: Sequence[int], outputs: int, last: int, levels: int | None):
        super().__init__()
        self.adapt = nn.ModuleList(Units(c, 2, levels) for c in inputs)
        joined = inputs if len(inputs) > 1 else ()  # the deepest block has one input, and nothing to join
        self.norms = nn.ModuleList(_refining_norm(c, levels) for c in joined)
        self.convs = nn.ModuleList(nn.Conv2d(c, outputs, 3, padding=1) for c in joined)
        self.pooling = Pooling(outputs, levels)
        self.finish = Units(outputs, last, levels)

    def forward(self, inputs: Sequence[Tensor], level: Tensor | None) -> Tensor:
        adapted = [adapt(x, level) for adapt, x in zip(self.adapt, inputs, strict=True)]
        h, size = adapted[0], adapted[0].shape[2:]
        if len(adapted) > 1:
            parts = (conv(norm(x, level)) for conv, norm, x in zip(self.convs, self.norms, adapted, strict=True))
            h = sum(part if part.shape[2:] == size else _enlarged(part, size) for part in parts)
        return self.finish(self.pooling(h, level), level)


def _enlarged(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _refining_norm(channels: int, levels: int | None) -> nn.Module:
    return Bare() if levels is None else InstanceNormPlus(channels, levels)


class RefineNet(nn.Module):
    """`network(x, t, cond) -> (batch, out_channels, height, width)`, of any height and width.

    x: (batch, in_channels, height, width), data of [-1, 1] with noise at its scale; t: (batch,) the number of the level, 0 to
    levels - 1, rounded to the nearest; ignored where there are none. Raises UsageProblem for conditions.
    """

    def __init__(self, options: RefineNetOptions, in_channels: int, out_channels: int):
        super().__init__()
        o = self.options = options
        if len(o.mult) != len(o.dilations) or len(o.mult) < 2 or o.mult[-1] != o.mult[-2]:
            raise UsageProblem(
                f"a RefineNet needs a dilation for each of two stages or more, the last two of one width; "
                f"not mult {o.mult} and dilations {o.dilations}"
            )
        if o.channels < 2 or (o.levels is not None and o.levels < 1):
            raise UsageProblem(f"a RefineNet needs 2 channels and 1 level at least, not {o.channels} and {o.levels}")
        widths = [o.channels * m for m in o.mult]
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList()
        for k, (before, width) in enumerate(pairwise([widths[0], *widths])):
            halves, dilation = k > 0 and o.dilations[k] == 1, o.dilations[k]
            blocks = (
                Residual(before, width, dilation, k > 0, halves, o.levels),
                Residual(width, width, dilation, False, False, o.levels),
            )
            self.stages.append(nn.ModuleList(blocks))
        self.refine = nn.ModuleList()  # deepest first
        above = None
        for k in reversed(range(len(widths))):
            inputs = [widths[k]] if above is None else [widths[k], above]
            above = widths[max(k - 1, 0)]
            self.refine.append(Refine(inputs, above, 1 if k else 3, o.levels))
        self.norm = InstanceNormPlus(widths[0], o.levels)
        self.head = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        if cond:
            raise UsageProblem(f"a RefineNet takes no conditions, and was given {', '.join(sorted(cond))}")
        levels = self.options.levels
        level = None if levels is None else t.round().long().clamp(0, levels - 1)
        h, features = self.stem(x), []
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, level)
            features.append(h)
        refined: list[Tensor] = []
        for block, feature in zip(self.refine, reversed(features), strict=True):
            refined = [block([feature, *refined], level)]
        return self.head(F.elu(self.norm(refined[0], level)))
