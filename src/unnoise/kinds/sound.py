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

SHOWN, MOST, LINES = 5, 10, 2  # sounds on a line of the sheet, at most so many; lines


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

    def heard(self, stored: Tensor, about: About) -> Tensor:
        """Log-mel spectrograms of 40 bands, (count, 40, frames), by windows of about a thirtieth of a second."""
        from ..mel import Mel

        rate = about.rate or 16_000
        window = min(1 << round(math.log2(rate / 32)), 1 << (about.shape[-1].bit_length() - 1))
        mel = Mel(bands=40, window=max(64, window), hop=max(64, window) // 4, rate=rate)
        return torch.cat([mel(self.decode(part, about)) for part in stored.split(256)])

    def numbers(self, stored: Tensor, about: About) -> Tensor:
        """The mean and the deviation over time of each band of the log-mel spectrogram: when it is made is not heard."""
        heard = self.heard(stored, about).double()
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
        """Two lines of wave forms above their mel spectrograms, of which 60 dB are shown, high above low."""
        columns = max(1, min(columns or SHOWN, len(stored), MOST))
        shown = stored[: LINES * columns]
        heard, waves = self.heard(shown, about).numpy(), shown[:, 0].numpy() / 32768
        lines, loud = -(-len(shown) // columns), heard.max()

        def paint(*axes):
            for i in range(len(shown)):
                panel, foot = axes[i % columns], 1 - (i // columns + 1) / lines
                below = panel.inset_axes((0, foot, 1, 0.64 / lines))
                below.imshow(heard[i], aspect="auto", origin="lower", cmap="magma", vmin=loud - 6.9, vmax=loud)
                above = panel.inset_axes((0, foot + 0.66 / lines, 1, 0.24 / lines))
                above.plot(waves[i], linewidth=0.4)
                above.set_ylim(-1, 1)
                above.set_xlim(0, len(waves[i]))
                for axis in (above, below):
                    axis.set_axis_off()
            for panel in axes:
                panel.set_axis_off()

        path = self.where(folder, name)
        draw(path, paint, panels=columns, size=(max(4, 1.6 * columns), 2.4 * lines))
        return path

    def describe(self, about: About) -> str:
        return f"{about.shape[-1] / (about.rate or 16_000):.3g} s at {about.rate} Hz"
