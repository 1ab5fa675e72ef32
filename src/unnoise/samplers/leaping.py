"""Steps of tokens that jump. The analytic one is the house's own `Ancestral`: its law is the process's (`Jump.leap`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..processes import Jump, JumpPoint, Process
from ..rng import Rng
from .loop import Denoise, Step


@dataclass(frozen=True)
class TauLeaping(Step):
    r"""x -> y with probability (t - s) sigma(t) Q[x, y] s_y, all tokens at once: Euler's step (2310.16834).

    The step to clean data is the analytic one, which leaves no token masked.
    """

    name: ClassVar[str] = "tau-leaping"
    needs: ClassVar[type[Process]] = Jump
    weak_order: int | None = 1

    def step(
        self, denoise: Denoise[Jump], x: Tensor, t: JumpPoint, s: JumpPoint, state, rng: Rng
    ) -> tuple[Tensor, None]:
        process, guess = denoise.process, denoise(x, t)  # type: ignore[arg-type]
        law = process.leap(guess, x, t, s) if s.is_clean else process.tau_leap(guess, x, t, s)
        return law.sample(rng), None
