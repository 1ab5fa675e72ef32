"""Guess, and destroy again: the step that forgets where it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..errors import UsageProblem
from ..laws import Law, Normal
from ..processes import Gaussian, Process
from ..rng import Rng
from .loop import Denoise, Step


@dataclass(frozen=True)
class Naive(Step):
    """x_s ~ q(x_s | x_0_guess), x_t forgotten but for what it carries: cold diffusion's algorithm 1 (2208.09392).

    On a Gaussian process noise is added to the guess anew. Every error of the guess stays, so more steps need not help: it
    has no order. `spread` multiplies that noise (inverse heat dissipation, 2206.13397, takes 1.25).
    """

    name: ClassVar[str] = "naive"
    needs: ClassVar[type[Process]] = Process
    spread: float = 1.0

    def check(self, process: Process) -> None:
        super().check(process)
        if self.spread != 1 and not isinstance(process, Gaussian):
            raise UsageProblem(
                f"spread is {self.spread}, but a {type(process).__name__} process adds no noise; leave it 1"
            )

    def law(self, anew: Law) -> Law:
        """The law of x_s, of q(x_s | x_0_guess)."""
        return replace(anew, std=self.spread * anew.std) if isinstance(anew, Normal) and self.spread != 1 else anew

    def step(self, denoise: Denoise, x: Tensor, t, s, state, rng: Rng) -> tuple[Tensor, None]:
        process = denoise.process
        x0 = denoise(x, t).draw(rng)
        return self.law(process.anew(x, x0, t, s)).sample(rng), None
