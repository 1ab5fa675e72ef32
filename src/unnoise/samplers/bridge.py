"""The flow of a bridge: any solver of ODEs, between two sets of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ..denoisers import Bridged
from ..errors import UsageProblem
from ..processes import Bridge, Process
from ..processes.gaussian import Point
from ..rng import Rng
from .adaptive import Adaptive
from .loop import Denoise, Step
from .ode import Heun


@dataclass(frozen=True)
class BridgeFlow(Step):
    """dx/dt = (v_f - v_b) / 2 by the deterministic step `inner`: the marginals of the bridge, other pairs (2303.16852).

    Each guess asks both networks. The step to clean data is the guess, exact where data have no density; grids that come near
    t = 0 before it (`end`) keep the order of `inner` where they have one.
    """

    name: ClassVar[str] = "bridge-flow"
    needs: ClassVar[type[Process]] = Bridge
    bridges: ClassVar[bool] = True
    inner: Step = field(default_factory=Heun)

    def __post_init__(self) -> None:
        if self.inner.order is None and not isinstance(self.inner, Adaptive):
            raise UsageProblem(
                f"the flow of a bridge needs a deterministic solver, and {self.inner.name!r} is none; take heun or euler"
            )

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return self.inner.order

    @property
    def least_steps(self) -> int:  # type: ignore[override]
        return self.inner.least_steps

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.inner.remembers

    def evaluations(self, steps: int) -> int | None:  # type: ignore[override]
        return self.inner.evaluations(steps)

    def check(self, process: Process) -> None:
        super().check(process)
        self.inner.check(process.reference)  # type: ignore[attr-defined]

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> Any:
        if not isinstance(denoise.denoiser, Bridged):
            raise UsageProblem(
                "the flow of a bridge needs the guesses of both its ends as they are; leave guidance and thresholds out"
            )
        flow = Denoise(denoise.denoiser.flow, denoise.batch, denoise.cond, denoise.device)
        return flow, self.inner.init(flow, x, points)

    def step(self, denoise: Denoise, x: Tensor, t: Point, s: Point, state: Any, rng: Rng) -> tuple[Tensor, Any]:
        flow, inner = state
        x, inner = self.inner.step(flow, x, t, s, inner, rng)
        denoise.calls = flow.calls
        return x, (flow, inner)
