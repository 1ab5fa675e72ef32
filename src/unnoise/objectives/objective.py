"""What a training loop needs to know of an objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..processes import Process
from ..rng import Rng
from .times import Times


@dataclass(frozen=True, slots=True)
class Loss:
    """One number per example, (batch,), to be averaged; `terms` are parts or companions worth a line in the metrics.

    `t` are the times drawn, `unweighted` the losses before importance weights, for distributions of t that adapt.
    """

    per_example: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    t: Tensor | None = None
    unweighted: Tensor | None = None


class Objective(nn.Module):
    """forward(denoiser, x0, cond, rng, turn) -> Loss.

    `turns` names the optimisers that move in turn at every step (one, unless several networks are trained against each
    other), and `parameters_of` what each of them moves.
    """

    turns: tuple[str, ...] = ("denoiser",)

    def parameters_of(self, denoiser: Denoiser, turn: str) -> Iterable[nn.Parameter]:
        """The parameters that `turn` moves: all of the denoiser's and the objective's own, by default."""
        yield from denoiser.parameters()
        yield from self.parameters()

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        raise NotImplementedError

    def prepare(self, step: int, shown: Callable[[], AbstractContextManager[Denoiser]]) -> Sequence[str]:
        """Called before each step, from 0; says which turns it takes. Inside `with shown() as denoiser`, the denoiser has its
        averaged weights: for those who learn from its samples."""
        return self.turns

    def observe(self, loss: Loss) -> None:
        """Called after each step with the losses of the global batch; adaptive distributions of t learn from it."""

    def follow(self, denoiser: Denoiser) -> None:
        """Called after each step with the denoiser, whose weights have moved; targets that average them take them in."""

    def on_eps(self, on: Denoiser | Process, t: Tensor) -> tuple[Tensor, Times]:
        """u(t), float64 (n,), and the distribution of t, where the loss is E_t[u(t) mean_d (eps_guess - eps)^2].

        Raises UsageProblem for objectives that compare something else.
        """
        raise UsageProblem(
            f"a {type(self).__name__} objective compares no noise, so it implies no weighting of log-SNR"
        )


class Around(Objective):
    """An objective on examples that are changed first: everything but `forward` is the inner one's."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective, self.turns = objective, objective.turns
        if hasattr(objective, "turn_options"):
            self.turn_options = objective.turn_options

    def parameters_of(self, denoiser: Denoiser, turn: str) -> Iterable[nn.Parameter]:
        return self.objective.parameters_of(denoiser, turn)

    def prepare(self, step: int, shown: Callable[[], AbstractContextManager[Denoiser]]) -> Sequence[str]:
        return self.objective.prepare(step, shown)

    def observe(self, loss: Loss) -> None:
        self.objective.observe(loss)

    def follow(self, denoiser: Denoiser) -> None:
        self.objective.follow(denoiser)

    def on_eps(self, on: Denoiser | Process, t: Tensor) -> tuple[Tensor, Times]:
        return self.objective.on_eps(on, t)
