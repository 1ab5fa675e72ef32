"""Noise, where the flow takes it, and how far from there a sampler of few evaluations ends."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..recipe import Sampling
from ..samplers import Adams, Karras, sample
from ..samplers.loop import Denoise

BATCH = 64

Heard = Callable[[int], object]


class Latents:
    """`noise` (count, *event) of unit variance, its conditions, and `end`: what the probability flow makes of each.

    Samplers start from that noise at the first point of their own grid, as `Model.sample` does. `heard` is told how many guesses
    were made, each time some were.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        cond: Cond = None,
        end: Tensor | None = None,
        heard: Heard = lambda n: None,
    ):
        self.denoiser, self.noise, self.cond, self.heard = denoiser, noise, cond, heard
        self._end = end

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def end(self) -> Tensor:
        if self._end is None:
            raise RuntimeError("call `follow` first")
        return self._end

    def rows(self, rows: slice) -> Latents:
        """Some of them."""
        cond = self.cond and {name: value[rows] for name, value in self.cond.items()}
        return Latents(
            self.denoiser, self.noise[rows], cond, None if self._end is None else self._end[rows], self.heard
        )

    def start(self, points) -> Tensor:
        """The noise as the state at the first point."""
        return self.noise * self.denoiser.process.prior(self.noise.shape[:1], points[0]).std

    def follow(self, evaluations: int, scale: float) -> None:
        """Find `end` by a third-order walk of so many evaluations."""
        self._end = self.walk(Sampling(Adams(3, "v", scale=scale), Karras(evaluations)))

    def walk(self, sampling: Sampling) -> Tensor:
        """Where a sampler ends."""
        grid, steps, ends = sampling.grid(self.denoiser.process), sampling.grid.steps, []
        for first in range(0, len(self), BATCH):
            part = self.rows(slice(first, first + BATCH))
            x = part.start(grid)
            ends.append(
                sample(self.denoiser, sampling.step, lambda _: grid, x.shape, cond=part.cond, start=x, dtype=x.dtype)
            )
            self.heard(len(part) * sampling.step.evaluations(steps))
        return torch.cat(ends)

    def error(self, sampling: Sampling) -> float:
        """Mean over the examples of the root mean square difference from `end`; infinite where a sampler is refused or diverges."""
        try:
            return self.distance(self.walk(sampling))
        except UsageProblem:
            return math.inf

    def distance(self, ends: Tensor) -> float:
        found = float(rms(ends - self.end).mean())
        return found if math.isfinite(found) else math.inf

    def guesses(self) -> Denoise:
        """The denoiser at work on all of them."""
        return Denoise(self.denoiser, len(self), self.cond, self.noise.device)


def rms(x: Tensor) -> Tensor:
    """Root mean square of each example, float64 (batch,)."""
    return x.double().flatten(1).square().mean(1).sqrt()
