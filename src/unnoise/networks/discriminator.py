"""A critic of pairs: the way down of residual blocks, told a time, to one number (DDGAN's discriminator, 2112.07804)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import Sinusoids
from .options import Options
from .resample import BOX, halve

SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True)
class DiscriminatorOptions(Options):
    """What kind of discriminator. The defaults are small; `networks.published` has the paper's."""

    channels: int = 32
    """Width at multiplier 1, before the first block."""
    mult: tuple[int, ...] = (2, 4)
    """Width of each block's output, in multiples of `channels`."""
    whole: int = 1
    """The first so many blocks keep the size; every further one halves it."""
    taps: tuple[int, ...] = BOX
    """The filter of the halving: (1, 1) the box, (1, 3, 3, 1) the paper's."""
    group: int = 4
    """Images of a batch whose common deviation is a further feature; 0 for none."""

    def build(self, in_channels: int) -> Discriminator:
        """The network for pairs of images that have `in_channels` together, freshly initialised."""
        return Discriminator(self, in_channels)


class CriticBlock(nn.Module):
    """(skip(x) + conv1(act(conv0(act(x)) + time))) / sqrt(2), halved between."""

    def __init__(self, inputs: int, outputs: int, told: int, taps: tuple[int, ...] | None):
        super().__init__()
        self.taps = taps
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(told, outputs)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.leaky_relu(x, SLOPE)) + self.time(emb)[:, :, None, None]
        h = F.leaky_relu(h, SLOPE)
        if self.taps is not None:
            h, x = halve(h, self.taps), halve(x, self.taps)
        return (self.skip(x) + self.conv1(h)) * sqrt(0.5)


class Discriminator(nn.Module):
    """`critic(x, t) -> (batch,)` logits: above 0 where the pair in x, (batch, in_channels, height, width), looks real.

    t: (batch,) any number. Every operation can be differentiated twice, as a penalty on the gradient needs.
    """

    def __init__(self, options: DiscriminatorOptions, in_channels: int):
        super().__init__()
        o, c = options, options.channels
        told = 4 * c
        self.group = o.group
        self.sinusoids = Sinusoids(2 * c, "cos-first")
        self.inner, self.outer = nn.Linear(2 * c, told), nn.Linear(told, told)
        self.stem = nn.Conv2d(in_channels, c, 1)
        self.blocks = nn.ModuleList()
        for i, m in enumerate(o.mult):
            self.blocks.append(CriticBlock(c, m * o.channels, told, None if i < o.whole else o.taps))
            c = m * o.channels
        self.last = nn.Conv2d(c + (o.group > 0), c, 3, padding=1)
        self.head = nn.Linear(c, 1)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def _initialise(self) -> None:
        """As published: Xavier's bounds and no biases; the last layers of residuals, and that before the head, nearly nothing,
        so that the critic starts without an opinion."""
        faint = {self.last, *(block.conv1 for block in self.blocks)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight, 1e-5 if module in faint else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = F.leaky_relu(self.inner(self.sinusoids(t).to(self.inner.weight.dtype)), SLOPE)
        emb = F.leaky_relu(self.outer(emb), SLOPE)
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h, emb)
        if self.group:
            h = torch.cat([h, deviation(h, self.group)], dim=1)
        h = F.leaky_relu(self.last(h), SLOPE)
        return self.head(h.sum((2, 3)))[:, 0].float()


def deviation(h: Tensor, group: int) -> Tensor:
    """The standard deviation over each group of the batch, averaged over features and pixels, as one more feature map: a batch
    whose images are all alike betrays itself. (n, c, h, w) -> (n, 1, h, w)."""
    n = len(h)
    size = next(g for g in range(min(group, n), 0, -1) if n % g == 0)
    parts = h.float().unflatten(0, (size, -1))
    std = (parts.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3), keepdim=True)
    return std.repeat(size, 1, 1, 1).expand(n, 1, *h.shape[2:]).to(h.dtype)
