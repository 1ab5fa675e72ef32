"""What a network is told beside its input: a number (time, noise level), a label, an augmentation vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from ..rng import stream

STYLE = 256  # width of what a latent vector becomes
SILU_GAIN = 1.68  # E[silu(x)^2]^-1/2 for x ~ N(0, 1)
FOURIER_SCALE = 16.0  # standard deviation of the random frequencies (Song et al. 2021, appendix H.1)


class Sinusoids(nn.Module):
    """Features of a number: sines and cosines of t f_i at `width / 2` frequencies.

    - "sin-first": sines, then cosines, `f_i = 10000^(-i / (width / 2 - 1))` (DDPM; EDM's DDPM++).
    - "cos-first": cosines, then sines, `f_i = 10000^(-i / (width / 2))` (improved-ddpm, ADM).
    - "fourier": sines, then cosines, `f_i = 2 pi 16 z_i` with fixed z ~ N(0, I) (NCSN++), for t = log(sigma).

    t: (batch,) -> (batch, width), in float64 if t is, else in float32.
    """

    frequencies: Tensor

    def __init__(self, width: int, kind: str = "sin-first"):
        super().__init__()
        if width % 2 or width < 4:
            raise UsageProblem(f"a time embedding of width {width} is not possible; choose an even width of at least 4")
        self.kind, self.pairs = kind, width // 2
        if kind == "fourier":
            random = torch.randn(self.pairs, generator=stream(int(FOURIER_SCALE), width))
            self.register_buffer("frequencies", 2 * math.pi * FOURIER_SCALE * random)

    def forward(self, t: Tensor) -> Tensor:
        dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
        if self.kind == "fourier":
            f = self.frequencies.to(dtype)
        else:
            i = torch.arange(self.pairs, dtype=dtype, device=t.device)
            f = torch.exp(i * (-math.log(10000) / (self.pairs - (self.kind == "sin-first"))))
        angle = t.to(dtype)[:, None] * f
        halves = (angle.cos(), angle.sin()) if self.kind == "cos-first" else (angle.sin(), angle.cos())
        return torch.cat(halves, dim=1)


class Waves(nn.Module):
    """A network that sees waves of its input as further channels: sin(2 pi f x), cos(2 pi f x) for each frequency f.

    `network` takes (1 + 2 len(frequencies)) times the channels. A wave as long as the step between two grey levels shows where
    within its level a nearly clean value lies (VDM, 2107.00630). Waves are computed in float32 or better.
    """

    def __init__(self, network: nn.Module, frequencies: Sequence[float]):
        super().__init__()
        self.network, self.frequencies = network, tuple(frequencies)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        exact = x if x.dtype == torch.float64 else x.float()
        angles = [2 * math.pi * f * exact for f in self.frequencies]
        return self.network(torch.cat([exact, *(wave for a in angles for wave in (a.sin(), a.cos()))], dim=1), t, cond)


class Labels(nn.Module):
    """One learned row per class, and one more of its own for "no label" (-1).

    label: (batch,) integers in [-1, classes), or None for no label at all -> (batch, width).
    Raises UsageProblem if the shape or (on the CPU, where looking costs nothing) a label is wrong.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.classes = classes
        self.rows = nn.Embedding(classes + 1, width)

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        if label is None:
            return self.rows.weight[-1].expand(batch, -1)
        if label.shape != (batch,):
            raise UsageProblem(
                f"labels of shape {tuple(label.shape)} do not fit a batch of {batch}; give one per example"
            )
        if label.device.type == "cpu" and batch and not -1 <= label.min() <= label.max() < self.classes:
            raise UsageProblem(f"a label is outside -1..{self.classes - 1}, the network has {self.classes} classes")
        return self.rows(torch.where(label < 0, self.classes, label))


class Style(nn.Sequential):
    """A random vector as what it means to the blocks: brought to unit mean square, then an MLP. (batch, n) -> (batch, 256).

    Its layers start with weights that keep the mean square: with torch's own, each would pass a third of it on, and so deep a
    stack would let the vector move the blocks by a thousandth, too little for them to learn to listen to it.
    """

    def __init__(self, latent: int, layers: int = 4):
        hidden = (m for _ in range(layers) for m in (nn.Linear(STYLE, STYLE), nn.SiLU()))
        super().__init__(nn.Linear(latent, STYLE), nn.SiLU(), *hidden)
        for i, layer in enumerate(m for m in self if isinstance(m, nn.Linear)):
            nn.init.normal_(layer.weight, std=(SILU_GAIN if i else 1.0) / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class Embedding(nn.Module):
    """Everything a network is told, as one vector: `silu(MLP(sinusoids(t)) + label)`.

    With `early_labels` (EDM's DDPM++ and NCSN++) the label joins the sinusoids before the MLP instead of its output;
    the augmentation vector always does. `cond` may hold "label" (batch,) and "augment" (batch, augment).
    With `second_time` a number `cond["toward"]` (batch,), or t where it is left out, has such a vector of its own, and the two
    stand side by side (CTM). The `Style` of a random vector `cond["latent"]` comes last (DDGAN).
    Returns (batch, width), or wider. Raises UsageProblem for a condition that the network was not built for.
    """

    def __init__(
        self,
        features: int,
        width: int,
        kind: str = "sin-first",
        classes: int | None = None,
        augment: int = 0,
        early_labels: bool = False,
        second_time: bool = False,
        latent: int = 0,
    ):
        super().__init__()
        self.style = Style(latent) if latent else None
        self.sinusoids = Sinusoids(features, kind)
        self.labels = None if classes is None else Labels(classes, features if early_labels else width)
        self.augment = nn.Linear(augment, features, bias=False) if augment else None
        self.early_labels = early_labels
        self.inner = nn.Linear(features, width)
        self.outer = nn.Linear(width, width)
        self.second = Embedding(features, width, kind) if second_time else None

    def forward(self, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        cond = cond or {}
        label, augment, toward = cond.get("label"), cond.get("augment"), cond.get("toward")
        if label is not None and self.labels is None:
            raise UsageProblem("this network takes no labels; build it with num_classes to condition on them")
        if augment is not None and self.augment is None:
            raise UsageProblem("this network takes no augmentation vector; build it with augment to condition on one")
        if toward is not None and self.second is None:
            raise UsageProblem("this network is told one time alone; build it with second_time to tell it where to go")

        z = cond.get("latent")
        if (z is None) != (self.style is None):
            raise UsageProblem("a network built with a latent vector needs one, cond['latent'], and no other takes any")

        dtype = self.inner.weight.dtype
        with _full_precision(t.device.type):  # a few thousand numbers: it costs nothing here
            h = self.sinusoids(t).to(dtype)
            labels = None if self.labels is None else self.labels(label, len(t))
            if labels is not None and self.early_labels:
                h = h + labels
            if augment is not None and self.augment is not None:
                h = h + self.augment(augment.to(dtype))
            h = self.outer(F.silu(self.inner(h)))
            if labels is not None and not self.early_labels:
                h = h + labels
            h = F.silu(h)
            parts = [h] if self.second is None else [h, self.second(t if toward is None else toward)]
            parts += [] if self.style is None or z is None else [self.style(z.to(dtype))]
        return torch.cat(parts, 1) if len(parts) > 1 else h


def _full_precision(device: str) -> AbstractContextManager:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
