"""The sampling loop. There is one: steps differ, their state is explicit, and everything else happens here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor

from ..denoisers.denoiser import TOWARD, Cond, Denoiser, P
from ..errors import UsageProblem
from ..laws import Estimate, Law
from ..processes import Gaussian, Process
from ..processes.gaussian import Point
from ..rng import Rng

SAMPLERS: dict[str, type[Step]] = {}
"""Every step that has a name, by that name; a new step registers itself by being defined."""

State = Any


class Denoise(Generic[P]):
    """A denoiser at work on one batch: called with a state and a point, it gives the law of x_0."""

    __slots__ = ("batch", "calls", "cond", "denoiser", "device", "process")

    def __init__(self, denoiser: Denoiser[P], batch: int, cond: Cond, device: torch.device):
        self.denoiser, self.process = denoiser, denoiser.process
        self.batch, self.cond, self.device, self.calls = batch, cond, device, 0

    def __call__(self, x: Tensor, point: Point, toward: Point | None = None) -> Law | Estimate:
        """The guess at a point; of denoisers that jump, the one that leads to the point `toward`."""
        self.calls += 1
        cond = self.cond
        if toward is not None and self.denoiser.jumps:
            cond = {**(cond or {}), TOWARD: self._times(toward)}
        return self.denoiser(x, self._times(point), cond)

    def _times(self, point: Point) -> Tensor:
        if isinstance(point.t, Tensor):  # one for each example
            return point.t.reshape(self.batch)
        return torch.full((self.batch,), float(point.t), dtype=torch.float64, device=self.device)


class Step:
    """One step of a sampler, from t to s < t. Frozen dataclasses: their fields are the sampler's options.

    order        global order of convergence of the deterministic part in the step size; None where there is no such limit.
    weak_order   order in law, for steps that draw noise.
    strong_order order along one Brownian path, for steps that can draw their noise from one (`brownian`).
    needs        the kind of process it runs on.
    least_steps  shorter walks are refused: they would end before the sampler is itself.
    remembers    whether a step uses the guesses of the steps before.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[type[Process]] = Gaussian
    order: int | None = None
    weak_order: int | None = None
    strong_order: int | float | None = None
    least_steps: int = 1
    remembers: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.__dict__.get("name"):
            SAMPLERS[cls.name] = cls

    def evaluations(self, steps: int) -> int:
        """Calls of the denoiser in a walk of `steps` steps that ends at clean data."""
        return steps

    def check(self, process: Process) -> None:
        """Refuses, with a sentence, a process that this step cannot run on."""
        if not isinstance(process, self.needs):
            raise UsageProblem(
                f"the sampler {self.name or type(self).__name__!r} needs a {self.needs.__name__} process, "
                f"and this model's is {type(process).__name__}; choose the paper's own sampler"
            )
        process.refuse(self)

    def fits(self, steps: int) -> None:
        """Refuses, with a sentence, a walk of too few steps; `init` calls it."""
        if steps < self.least_steps:
            raise UsageProblem(
                f"the sampler {self.name!r} as set needs a longer walk than {steps} step{'s' * (steps != 1)}; "
                f"take {self.least_steps} steps or more, or a sampler of lower order"
            )

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> State:
        """The state before the first step: history of multistep methods, or None."""
        self.fits(len(points) - 1)
        return None

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: State, rng: Rng) -> tuple[Tensor, State]:
        """The state at s, and the solver's own state."""
        raise NotImplementedError


Watch = Callable[[int, Point, Tensor], None]


@torch.no_grad()
def sample(
    denoiser: Denoiser[Any],
    step: Step,
    grid: Callable[[Process], Sequence[Point]],
    shape: Sequence[int],
    *,
    cond: Cond = None,
    rng: Rng | None = None,
    start: Tensor | None = None,
    watch: Watch | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Walk from noise to data: shape (batch, *event), example i from stream i of `rng` (seeds 0, 1, ... by default).

    `start` replaces the prior sample (a state at the first point of the grid); `watch(i, point, x)` sees every state,
    the first one included. Raises UsageProblem where step, grid and process do not fit.
    """
    process = denoiser.process
    step.check(process)
    points = grid(process)
    rng = Rng.from_seeds(range(shape[0])) if rng is None else rng
    x = (process.prior(shape, points[0]).sample(rng) if start is None else start).to(rng.device)
    x = x.to(dtype) if x.is_floating_point() else x  # tokens stay numbers of tokens
    denoise = Denoise(denoiser, shape[0], cond, x.device)
    state = step.init(denoise, x, points)
    if watch is not None:
        watch(0, points[0], process.data(x))
    for i, (t, s) in enumerate(pairwise(points)):
        x, state = step.step(denoise, x, t, s, state, rng)
        if watch is not None:
            watch(i + 1, s, process.data(x))
    return process.data(x)
