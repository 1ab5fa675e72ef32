"""Guess, and destroy again: the step that forgets where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..processes import Process
from ..rng import Rng
from .loop import Denoise, Step


@dataclass(frozen=True)
class Naive(Step):
    """x_s ~ q(x_s | x_0_guess), x_t forgotten but for what it carries: cold diffusion's algorithm 1 (2208.09392).

    On a Gaussian process noise is added to the guess anew. Every error of the guess stays, so more steps need not help: it
    has no order.
    """

    name: ClassVar[str] = "naive"
    needs: ClassVar[type[Process]] = Process

    def step(self, denoise: Denoise, x: Tensor, t, s, state, rng: Rng) -> tuple[Tensor, None]:
        process = denoise.process
        x0 = denoise(x, t).draw(rng)
        return process.anew(x, x0, t, s).sample(rng), None
