r"""Mel spectrograms: how strong a sound is in each of some bands that are as wide as the ear's, many times a second.

    M[b, k] = sum_f W[b, f] |STFT(x)[f, k]|,   frame k centred on sample k hop

Two conventions are about, and models of one do not understand the other:

log       Tacotron 2's, which the authors of DiffWave use: Slaney's scale (linear to 1 kHz, then logarithmic), triangles of
          area 1 Hz, log max(M, 1e-5).
decibel   the widespread third-party DiffWave's: HTK's scale, 2595 log10(1 + f/700), triangles of height 1, the window of
          norm 1, then 20 log10 max(M, 1e-5) - 20 brought from [-100, 0] to [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .errors import UsageProblem

Scale = Literal["log", "decibel"]
QUIET = 1e-5
KNEE, STEP = 15.0, math.log(6.4) / 27  # Slaney's scale: 15 mel at 1 kHz, and 27 more to 6.4 kHz


@dataclass(frozen=True)
class Mel:
    """How a sound is heard. Raises UsageProblem for what cannot be."""

    bands: int = 80
    """Number of bands."""
    window: int = 1024
    """Samples of the (Hann) window, and of the Fourier transform."""
    hop: int = 256
    """Samples from one frame to the next."""
    low: float = 0.0
    """Lower end of the lowest band, Hz."""
    high: float = 8000.0
    """Upper end of the highest band, Hz; half the rate, where that is less."""
    scale: Scale = "log"
    """Which convention."""
    rate: int = 0
    """Samples a second; those of the data, if 0."""

    def __post_init__(self) -> None:
        if min(self.bands, self.hop) < 1 or self.window < max(4, self.hop):
            raise UsageProblem(
                f"a mel spectrogram needs bands and a hop of 1 or more, and a window no shorter than the hop; not "
                f"{self.bands}, {self.hop} and {self.window}"
            )
        if not 0 <= self.low < self.top:
            raise UsageProblem(f"mel bands cannot go from {self.low:g} to {self.top:g} Hz; lower `low`")

    @property
    def top(self) -> float:
        """Upper end of the highest band, Hz."""
        return min(self.high, self.rate / 2) if self.rate else self.high

    def frames(self, samples: int) -> int:
        """Frames of a sound of so many samples."""
        return samples // self.hop + 1

    def __call__(self, x: Tensor) -> Tensor:
        """(..., 1, samples) in [-1, 1] -> (..., bands, frames), float32."""
        if not self.rate:
            raise UsageProblem("a mel spectrogram depends on the rate of the sound; give `rate`, in Hz")
        if x.ndim < 2 or x.shape[-2] != 1:
            raise UsageProblem(f"a mel spectrogram is that of one channel, (..., 1, samples), not of {tuple(x.shape)}")
        if x.shape[-1] <= self.window // 2:
            raise UsageProblem(f"a sound of {x.shape[-1]} samples is shorter than half a window of {self.window}")
        window = torch.hann_window(self.window, device=x.device)
        if self.scale == "decibel":
            window = window / window.square().sum().sqrt()
        flat = x.reshape(-1, x.shape[-1]).float()
        size = torch.stft(flat, self.window, self.hop, window=window, pad_mode="reflect", return_complex=True).abs()
        heard = (filters(self).to(x.device) @ size).clamp(min=QUIET)
        heard = heard.log() if self.scale == "log" else ((20 * heard.log10() + 80) / 100).clamp(0, 1)
        return heard.reshape(*x.shape[:-2], *heard.shape[1:])


def to_mel(hertz: Tensor, scale: Scale) -> Tensor:
    """Hz on the scale of a convention."""
    if scale == "decibel":
        return 2595 * torch.log10(1 + hertz / 700)
    return torch.where(hertz < 1000, hertz * 3 / 200, KNEE + (hertz.clamp(min=1000) / 1000).log() / STEP)


def from_mel(mel: Tensor, scale: Scale) -> Tensor:
    """Back to Hz."""
    if scale == "decibel":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < KNEE, mel * 200 / 3, 1000 * ((mel.clamp(min=KNEE) - KNEE) * STEP).exp())


@lru_cache
def filters(mel: Mel) -> Tensor:
    """W: triangles (bands, window // 2 + 1), float32, whose corners are evenly spaced in mel."""
    low, high = to_mel(torch.tensor([mel.low, mel.top], dtype=torch.float64), mel.scale).tolist()
    corners = from_mel(torch.linspace(low, high, mel.bands + 2, dtype=torch.float64), mel.scale)[:, None]
    f = torch.linspace(0, mel.rate / 2, mel.window // 2 + 1, dtype=torch.float64)
    rise = (f - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - f) / (corners[2:] - corners[1:-1])
    height = 2 / (corners[2:] - corners[:-2]) if mel.scale == "log" else 1.0
    return (torch.minimum(rise, fall).clamp(min=0) * height).float()


SPEECH = Mel(bands=40, window=256, hop=64, high=4000.0, rate=8000)
"""How speech of 8 kHz is heard here: vocoded, measured and recognised."""
QUIETEST, LOUDEST = math.log(1e-3), 0.0
"""The range of a picture, for `log`: 60 dB, which is more than speech has."""


def picture(heard: Tensor) -> Tensor:
    """Mel spectrograms of the scale `log`, (count, bands, frames), as grey images (count, 1, bands, frames) in [-1, 1], the high
    bands above."""
    shade = (heard - QUIETEST) / (LOUDEST - QUIETEST)
    return (2 * shade.clamp(0, 1) - 1).flip(1)[:, None]
