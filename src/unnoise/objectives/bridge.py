r"""Bridge matching, and iterative Markovian fitting on top of it (2303.16852).

    Markovian projection    v_b(x, t) = E[drift of the bridge to x_0 | x_t], by regression on bridges between pairs
    reciprocal projection   new pairs: the ends of paths that the fitted network walks; bridges are put between them anew

The two directions take turns of many steps, each taught by pairs that the other has made, always from true data: so the ends
keep their laws, and the pairs come to be those of the Schroedinger bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..couplings import Coupling, drawn, places
from ..denoisers import Bridged
from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..processes import Process
from ..processes.gaussian import Point
from ..rng import Rng
from ..samplers import Step, sample
from .matching import Matching
from .objective import Loss, Objective


@dataclass(frozen=True)
class HalfSteps:
    """How long each direction learns: `first` steps on the coupling that was given, `then` on each coupling made since.

    Of these, `count` pairs are simulated at a time, by `walk` on `grid`, anew every `refresh` steps; `seed` names their draws.
    """

    first: int
    then: int
    count: int
    refresh: int
    walk: Step
    grid: Callable[[Process], Sequence[Point]]
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("first", "then", "count", "refresh"):
            if getattr(self, name) < 1:
                raise UsageProblem(f"{name} is {getattr(self, name)}, but must be 1 or more")

    def at(self, step: int) -> tuple[int, int]:
        """Which half-step a step is of, and its number within."""
        if step < self.first:
            return 0, step
        half, within = divmod(step - self.first, self.then)
        return half + 1, within


class BridgeMatching(Objective):
    """`matching` compares guesses of an end with the end, at states of bridges between pairs; its times are those of either
    direction, 0 at the end that is guessed. Each half-step moves one turn; the first, "backward", guesses data.

    The pairs at hand are kept with the run, for those who made them have learned since. `shape` is that of data.
    """

    turns = ("backward", "forward")

    data: Tensor
    others: Tensor

    def __init__(self, matching: Matching, half_steps: HalfSteps, shape: Sequence[int]):
        super().__init__()
        self.matching, self.half_steps, self.half_step = matching, half_steps, 0
        self.ends: tuple[Any, Any] | None = None
        self.coupling: Coupling | None = None
        for name in ("data", "others"):
            self.register_buffer(name, torch.zeros(half_steps.count, *shape))

    def receive(self, data: Any, others: Any, coupling: Coupling) -> None:
        """The two data sets, and the pairs of the first half-step."""
        self.ends, self.coupling = (data, others), coupling

    def parameters_of(self, denoiser: Denoiser, turn: str):
        return _side(denoiser, turn).parameters()

    def prepare(self, step: int, shown: Callable[[], AbstractContextManager[Denoiser]]) -> Sequence[str]:
        self.half_step, within = self.half_steps.at(step)
        turn = self.turns[self.half_step % 2]
        if self.half_step and within % self.half_steps.refresh == 0:
            with shown() as denoiser:
                self._simulate(denoiser, turn, within)
        return (turn,)

    def observe(self, loss: Loss) -> None:
        self.matching.observe(loss)

    def _simulate(self, denoiser: Denoiser, turn: str, within: int) -> None:
        """Pairs for `turn` to learn from: data of the end that it guesses, and where the other network takes them."""
        plan, near, far = self.half_steps, *self._ends(turn)
        data = self.ends[turn == "forward"]  # type: ignore[index]
        walker: Any = denoiser.mirrored if turn == "backward" else denoiser  # type: ignore[attr-defined]
        for first in range(0, plan.count, CHUNK):
            rows = slice(first, min(first + CHUNK, plan.count))
            keys = [(plan.seed, self.half_step, within, i) for i in range(rows.start, rows.stop)]
            rng = Rng(keys, (plan.seed, self.half_step, within), near.device).spawn(PAIRS)
            start = drawn(data, rng).to(near)
            near[rows] = start
            far[rows] = sample(walker, plan.walk, plan.grid, start.shape, start=start, rng=rng, dtype=start.dtype)

    def _ends(self, turn: str) -> tuple[Tensor, Tensor]:
        """What is kept of the end that a turn guesses, and of the other."""
        return (self.data, self.others) if turn == "backward" else (self.others, self.data)

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "backward") -> Loss:
        if self.half_step:
            rows = places(len(self.data), rng)
            near, far = (kept[rows.to(kept.device)].to(x0) for kept in self._ends(turn))
        else:
            if self.coupling is None:
                raise UsageProblem("bridge matching needs the data of the other end; give both sets to `receive`")
            x0, _, x1 = self.coupling(x0, cond, rng)
            near, far = (x0, x1) if turn == "backward" else (x1, x0)
        side = _side(denoiser, turn)
        t, importance = self.matching.times.sample(side.process, rng)
        xt = denoiser.process.marginal(near, t, far).sample(rng)  # type: ignore[call-arg]
        return self.matching.compare_at(side, near, xt, t, None, importance)


CHUNK = 256
"""Pairs simulated together."""
PAIRS = 11
"""The purpose of their random numbers."""


def _side(denoiser: Denoiser, turn: str) -> Denoiser:
    if not isinstance(denoiser, Bridged):
        raise UsageProblem(
            f"bridge matching teaches the two networks of a bridge, and a {type(denoiser).__name__} is none"
        )
    return denoiser.towards_data if turn == "backward" else denoiser.towards_other
