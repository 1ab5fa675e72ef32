r"""DiffWave's network (2009.09761): a WaveNet that hears both ways, dilated convolutions whose outputs are all summed.

    h = conv_3(x + time; dilation 2^(i mod cycle)) + conv_1(mel) + conv_1(label),     g = tanh(h_1) sigmoid(h_2)
    x <- (x + conv_1(g)) / sqrt(2),     output = conv_1(relu(conv_1(sum_i conv_1(g_i) / sqrt(layers))))

It hears `receptive_field` samples at once, 2 sum_i dilation_i + 1; of places that hold `fold` samples each, that many times more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from .embeddings import Labels, Sinusoids, _full_precision
from .options import Options

TIME, WIDTH = 128, 512
"""Sinusoids of the time, and the width of its two layers."""
LABEL = 128


@dataclass(frozen=True)
class WaveNetOptions(Options):
    """What kind of WaveNet; the defaults train in minutes on two cores."""

    channels: int = 32
    """Residual channels."""
    layers: int = 12
    """Number of residual layers."""
    cycle: int = 6
    """Dilations are 1, 2, 4, ..., 2^(cycle - 1), and again from 1."""
    fold: int = 1
    """Samples that share a place, side by side as channels, 1 as published. More make a network of as many channels that many
    times quicker, and the samples it hears as many times more."""
    embedding: Literal["decaying", "growing"] = "decaying"
    """Frequencies of the time: 10000^(-i/63), as the authors' code has them; or 10^(4i/63) as the paper, on straight lines between
    whole times."""
    carry: Literal["with-time", "input"] = "with-time"
    """What a layer's sum goes on from: x + time, as in the authors' code, or x."""
    upsample: tuple[int, ...] = (8, 8)
    """Factors, even, by which a mel spectrogram is stretched to the rate of the sound; their product is its hop."""
    upsamplers: Literal["one", "each"] = "one"
    """One for all layers, or one in each, as in the authors' code."""
    stretch: Literal["published", "linear"] = "linear"
    """How a spectrogram is stretched before anything is learned: by random kernels, as published, or on straight lines, by which
    short trainings follow it sooner."""
    weight_norm: bool = True
    """Whether kernels are g v / |v|, with a learned g for each output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.channels, self.layers, self.cycle, self.fold) < 1:
            raise UsageProblem(
                "a WaveNet needs 1 or more channels, layers, dilations in its cycle and samples to a place"
            )
        if any(factor < 2 or factor % 2 for factor in self.upsample):
            raise UsageProblem(f"mel spectrograms are stretched by even factors, not {self.upsample}")

    @property
    def dilations(self) -> list[int]:
        """Of each layer."""
        return [2 ** (i % self.cycle) for i in range(self.layers)]

    @property
    def receptive_field(self) -> int:
        """Samples that one output depends on."""
        return self.fold * (2 * sum(self.dilations) + 1)

    @property
    def hop(self) -> int:
        """Samples to a frame of the mel spectrogram."""
        return self.fold * math.prod(self.upsample)

    def build(
        self,
        in_channels: int = 1,
        out_channels: int | None = None,
        num_classes: int | None = None,
        bands: int | None = None,
    ) -> WaveNet:
        """The network, freshly initialised; `bands` of the mel spectrograms that it is told, if any."""
        return WaveNet(self, in_channels, out_channels or in_channels, num_classes, bands)


class WaveNet(nn.Module):
    """`network(x, t, cond) -> (batch, out_channels, samples)`, for x: (batch, in_channels, samples), t: (batch,).

    cond["label"] (batch,), -1 for none; cond["mel"] (batch, bands, frames), frame k for the samples from k hop on; without
    either, that term is left out (of labels: their "none"). Raises UsageProblem for a condition that it was not built for, and
    for a mel spectrogram that is too short.
    """

    def __init__(
        self, options: WaveNetOptions, in_channels: int, out_channels: int, num_classes: int | None, bands: int | None
    ):
        super().__init__()
        o = self.options = options
        self.bands = bands
        self.sinusoids = Sinusoids(TIME) if o.embedding == "decaying" else Growing(TIME)
        self.inner, self.outer = nn.Linear(TIME, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.labels = None if num_classes is None else Labels(num_classes, LABEL)
        shared = bands is not None and o.upsamplers == "one"
        self.upsampler = Upsampler(o) if shared else None
        self.stem = Conv(o.fold * in_channels, o.channels, norm=o.weight_norm)
        self.layers = nn.ModuleList(Layer(o, d, num_classes is not None, bands) for d in o.dilations)
        self.last = Conv(o.channels, o.channels, norm=o.weight_norm)
        self.head = Conv(o.channels, o.fold * out_channels, norm=False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        time, label, mel = self.told(x, t, cond or {})
        h = F.relu(lined(self.stem(self.folded(x)[:, :, None])))
        total: Tensor | float = 0.0
        for layer in self.layers:
            h, skip = layer(h, time, label, mel)
            total = total + skip
        h = F.relu(self.last(total * len(self.layers) ** -0.5))
        return self.unfolded(self.head(h)[:, :, 0], x.shape[2])

    def folded(self, x: Tensor) -> Tensor:
        """(batch, channels, samples) -> (batch, channels fold, places), silence after the last sample."""
        fold = self.options.fold
        x = F.pad(x, (0, -x.shape[2] % fold))
        return x.unflatten(2, (-1, fold)).transpose(2, 3).flatten(1, 2)

    def unfolded(self, x: Tensor, samples: int) -> Tensor:
        """The way back."""
        return x.unflatten(1, (-1, self.options.fold)).transpose(2, 3).flatten(2)[:, :, :samples]

    def told(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Vectors of the time and the label, and the mel spectrogram, stretched if one serves all layers."""
        label, mel = cond.get("label"), cond.get("mel")
        if label is not None and self.labels is None:
            raise UsageProblem("this network takes no labels; build it with num_classes to condition on them")
        if mel is not None and mel.shape[1] != self.bands:
            raise UsageProblem(f"this network is told {self.bands or 'no'} mel bands, not {mel.shape[1]}")
        if mel is not None and mel.shape[2] * self.options.hop < x.shape[2]:
            raise UsageProblem(
                f"a mel spectrogram of {mel.shape[2]} frames of {self.options.hop} samples is too short for "
                f"{x.shape[2]} samples"
            )
        with _full_precision(t.device.type):
            h = self.sinusoids(t).to(self.inner.weight.dtype)
            h = F.silu(self.outer(F.silu(self.inner(h))))
            vector = None if self.labels is None else self.labels(label, len(t))
        if mel is not None and self.upsampler is not None:
            mel = lined(self.upsampler(mel, -(-x.shape[2] // self.options.fold))[:, :, None])
        return h, vector, mel


class Layer(nn.Module):
    """One residual layer: what goes on, and what is summed."""

    def __init__(self, o: WaveNetOptions, dilation: int, labels: bool, bands: int | None):
        super().__init__()
        c, norm = o.channels, o.weight_norm
        self.with_time = o.carry == "with-time"
        self.time = nn.Linear(WIDTH, c)
        self.dilated = Conv(c, 2 * c, 3, dilation, norm)
        self.label = Conv(LABEL, 2 * c, norm=norm) if labels else None
        self.mel = Conv(bands, 2 * c, norm=norm) if bands is not None else None
        self.upsampler = Upsampler(o) if bands is not None and o.upsamplers == "each" else None
        self.residual, self.skip = Conv(c, c, norm=norm), Conv(c, c, norm=norm)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None, mel: Tensor | None) -> tuple[Tensor, Tensor]:
        seen = x + self.time(time)[:, :, None, None].to(x.dtype)
        h = self.dilated(seen)
        if self.label is not None and label is not None:
            h = h + self.label(label[:, :, None, None])
        if self.mel is not None and mel is not None:
            if self.upsampler is not None:
                mel = lined(self.upsampler(mel, x.shape[3])[:, :, None])
            h = h + self.mel(mel)
        up, gate = h.chunk(2, dim=1)
        g = up.tanh() * gate.sigmoid()
        kept = seen if self.with_time else x
        return (kept + self.residual(g)) * 0.5**0.5, self.skip(g)


class Conv(nn.Module):
    """A convolution along time that keeps the length, of 1 tap or 3, with weight normalisation or without.

    Sounds are images of height 1 here, (batch, channels, 1, samples), in `channels_last`: on a CPU that is a third quicker than
    convolutions of one dimension.
    """

    def __init__(self, inputs: int, outputs: int, taps: int = 1, dilation: int = 1, norm: bool = True):
        super().__init__()
        self.dilation, self.reach = dilation, dilation * (taps // 2)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, taps))
        nn.init.kaiming_normal_(self.weight)
        bound = (inputs * taps) ** -0.5
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.size = nn.Parameter(self.weight.detach().flatten(1).norm(dim=1)) if norm else None

    def kernel(self) -> Tensor:
        """(outputs, inputs, taps)."""
        return normed(self.weight, self.size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel()[:, :, None], self.bias, padding=(0, self.reach), dilation=(1, self.dilation))


class Upsampler(nn.Module):
    """A spectrogram (batch, bands, frames) stretched to (batch, bands, samples): transposed convolutions, over three bands and
    twice the factor in time each, and leaky rectifiers of slope 0.4; what is longer than `samples` is cut off."""

    def __init__(self, o: WaveNetOptions):
        super().__init__()
        self.factors = o.upsample
        linear = o.stretch == "linear"
        self.weights = nn.ParameterList(_line(s) if linear else _random(s) for s in o.upsample)
        bounds = [0.0 if linear else (6 * s) ** -0.5 for s in o.upsample]
        self.biases = nn.ParameterList(torch.empty(1).uniform_(-b, b) for b in bounds)
        sizes = [w.detach().flatten(1).norm(dim=1) for w in self.weights]
        self.sizes = nn.ParameterList(sizes) if o.weight_norm else [None] * len(sizes)

    def forward(self, mel: Tensor, samples: int | None = None) -> Tensor:
        h = mel[:, None]
        for factor, weight, size, bias in zip(self.factors, self.weights, self.sizes, self.biases, strict=True):
            h = F.conv_transpose2d(h, normed(weight, size), bias, stride=(1, factor), padding=(1, factor // 2))
            h = F.leaky_relu(h, 0.4)
        return h[:, 0, :, :samples]


def _random(factor: int) -> Tensor:
    return nn.init.kaiming_normal_(torch.empty(1, 1, 3, 2 * factor))


def _line(factor: int) -> Tensor:
    """A triangle over time, and nothing from the bands beside."""
    kernel = torch.zeros(1, 1, 3, 2 * factor)
    kernel[0, 0, 1] = 1 - ((torch.arange(2 * factor) + 0.5) / factor - 1).abs()
    return kernel


class Growing(nn.Module):
    """Sines, then cosines, of frequencies 10^(4 i / (width / 2 - 1)): aliased at whole times, of which this is the table, and on
    straight lines between them. t: (batch,) -> (batch, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.pairs = width // 2

    def forward(self, t: Tensor) -> Tensor:
        f = 10.0 ** (torch.arange(self.pairs, device=t.device) * 4.0 / (self.pairs - 1)).to(t.dtype)
        rows = [torch.cat([(at * f).sin(), (at * f).cos()], 1) for at in (t.floor()[:, None], t.ceil()[:, None])]
        return torch.lerp(rows[0], rows[1], (t - t.floor())[:, None])


def lined(x: Tensor) -> Tensor:
    """The same numbers, the channels of a sample side by side."""
    return x.contiguous(memory_format=torch.channels_last)


def normed(weight: Tensor, size: Tensor | None) -> Tensor:
    """g v / |v| for each row of the first axis; v itself without g."""
    return weight if size is None else torch._weight_norm(weight, size.reshape(-1, *[1] * (weight.ndim - 1)), 0)


BASE = WaveNetOptions(channels=64, layers=30, cycle=10, upsample=(16, 16), upsamplers="each", stretch="published")
"""The vocoder for 22.05 kHz: 2.64 M parameters."""
LARGE = WaveNetOptions(channels=128, layers=30, cycle=10, upsample=(16, 16), upsamplers="each", stretch="published")
"""6.91 M parameters."""
SC09 = WaveNetOptions(channels=256, layers=36, cycle=12)
"""Spoken digits of one second at 16 kHz."""
