"""ADM's way to follow a classifier down the reverse chain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..errors import UsageProblem
from ..laws import Estimate, Law
from ..processes import Gaussian, Process
from ..rng import Rng
from ..scalars import times
from .ancestral import Ancestral


@dataclass(frozen=True)
class GuidedAncestral(Ancestral):
    r"""x_s ~ N(mu + std^2 weight grad log p(y | x_t), std^2): the unguided step, its mean shifted (2105.05233, alg. 1).

    mu and std are those of the guess before a classifier pulled at it (`classifier_guidance`); the gradient is that at
    x_t, not at mu. Where the variance is beta, the steps between two levels are those of a pulled guess but for a factor
    sqrt(1 - beta) on the shift. Without a classifier it is `ancestral`.
    """

    name: ClassVar[str] = "guided-ancestral"
    needs: ClassVar[type[Process]] = Gaussian

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta == 0:
            raise UsageProblem("a step without variance cannot be shifted by it; with eta=0 take ddim")

    def law(self, process: Process, guess: Law, xt: Tensor, t, s, before=None, rng: Rng | None = None) -> Law:
        if not isinstance(guess, Estimate) or guess.pull is None:
            return super().law(process, guess, xt, t, s, before, rng)
        law = super().law(process, guess.pull.estimate, xt, t, s, before, rng)
        if self.variance in ("small", "learned") and process.at(s, xt).is_clean:  # type: ignore[attr-defined]
            return law  # there is no variance in the step to clean data, though a fraction above 1 makes it 0^-x
        return replace(law, mean=law.mean + times(law.std**2, guess.pull.gradient))  # type: ignore[attr-defined]
