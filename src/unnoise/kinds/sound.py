"""Sound: one channel, int16 on disk, [-1, 1] to a model, `rate` samples a second."""

from __future__ import annotations

import math
import wave
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..disk import write_whole
from ..figures import draw
from .kind import About, Kind

SHOWN = 5  # sounds on the sheet


class Sound(Kind):
    """(1, samples)."""

    name: ClassVar[str] = "sound"
    one: ClassVar[str] = "sound"
    suffix: ClassVar[str] = "wav"
    looks: ClassVar[str] = "mel"

    def decode(self, stored: Tensor, about: About) -> Tensor:
        return stored.to(torch.float32) / 32768

    def finish(self, x: Tensor, about: About) -> Tensor:
        return (x.float() * 32768).round().clamp(-32768, 32767).to(torch.int16)

    def numbers(self, stored: Tensor, about: About) -> Tensor:
        """The mean and the deviation over time of each of 40 bands of the log-mel spectrogram: when it is made is not heard."""
        from ..mel import Mel

        rate = about.rate or 16_000
        window = max(64, 1 << round(math.log2(rate / 32)))
        mel = Mel(bands=40, window=window, hop=window // 4, rate=rate)
        heard = torch.cat([mel(self.decode(part, about)) for part in stored.split(256)]).double()
        return torch.cat([heard.mean(2), heard.std(2)], 1)

    def save(self, stored: Tensor, path: Path, about: About) -> Path:
        with write_whole(path) as aside, wave.open(str(aside), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(about.rate or 16_000)
            file.writeframes(stored.flatten().numpy().astype("<i2").tobytes())
        return path

    def read(self, path: Path, about: About) -> Tensor:
        with wave.open(str(path), "rb") as file:
            frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return torch.from_numpy(frames.astype(np.int16))[None]

    def sheet(self, stored: Tensor, folder: Path, about: About, columns: int | None = None, name: str = "") -> Path:
        shown, rate = stored[:SHOWN].numpy() / 32768, about.rate or 16_000

        def paint(*axes):
            for axis, sound in zip(axes, shown, strict=True):
                axis.specgram(sound[0] + 1e-6, NFFT=256, Fs=rate, noverlap=192, cmap="magma")
                axis.set_xlabel("seconds")
                axis.grid(False)
                above = axis.inset_axes((0, 1.03, 1, 0.25))
                above.plot(sound[0], linewidth=0.4)
                above.set_axis_off()
            axes[0].set_ylabel("Hz")

        path = self.where(folder, name)
        draw(path, paint, panels=len(shown))
        return path

    def describe(self, about: About) -> str:
        return f"{about.shape[-1] / (about.rate or 16_000):.3g} s at {about.rate} Hz"
