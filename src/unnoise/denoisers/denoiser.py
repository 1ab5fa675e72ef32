"""The denoiser: x_t in, a law over x_0 out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic

from torch import Tensor, nn

from ..laws import Estimate, Law
from ..processes import Gaussian, Point, Process
from ..scalars import times
from ..spaces.space import Space
from .preconditioning import Preconditioning

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # knows defaults

    P = TypeVar("P", bound=Process, default=Gaussian, covariant=True)
else:
    from typing import TypeVar

    P = TypeVar("P")

Cond = Mapping[str, Tensor] | None

TOWARD = "toward"
"""The condition that tells a denoiser that jumps at which times (batch,) its jumps end."""


class Denoiser(nn.Module, Generic[P]):
    """Anything that guesses the data behind a state of `process`: a network, an oracle, a guided denoiser.

    To a type checker a `Denoiser` is one on a Gaussian process, unless it says `Denoiser[Process]` or another.
    `space` is where its process runs (spaces/): that of the data, or of an autoencoder's latents.
    """

    process: P
    space: Space
    jumps: bool = False
    """Whether it takes another time, `cond["toward"]`, as the end of a jump (see jumping.py)."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Space()

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Law:
        """The law of x_0 given states `xt` at times `t` (batch,) and conditions `cond`."""
        raise NotImplementedError


class NetworkDenoiser(Denoiser):
    r"""A network on a Gaussian process: x_0 = (F(c_in x_t, c_noise) - p x_t) / q, in float32 outside the network.

    With `learned_range` the network has twice the channels, and the second half, mapped from [-1, 1] to [0, 1], says where
    between the smallest and the largest reverse variance to step (improved-ddpm).
    Networks see data: the state is brought back from the process's basis before, and the guess is data.
    """

    def __init__(
        self, network: nn.Module, process: Gaussian, preconditioning: Preconditioning, learned_range: bool = False
    ):
        super().__init__()
        self.network, self.process = network, process
        self.preconditioning, self.learned_range = preconditioning, learned_range

    def seen(self, xt: Tensor, t: Tensor, point: Point | None = None) -> tuple[Tensor, Tensor]:
        """What a network is shown of a state and its time: c_in x_t, as data, and c_noise."""
        dtype = next((w.dtype for w in self.network.parameters()), xt.dtype)  # the state may be float64
        scaled = self.process.data(times(self.preconditioning.c_in(point or self.process.at(t, xt)), xt))
        c_noise = self.preconditioning.c_noise(t.double(), self.process.schedule.log_snr(t.double()))
        return scaled.to(dtype), c_noise.to(dtype)

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        point = self.process.with_derivatives(t, xt)
        p, q = self.preconditioning.relation(point)
        output = self.network(*self.seen(xt, t, point), cond).to(xt.dtype)
        fraction = None
        if self.learned_range:
            output, v = output.chunk(2, dim=1)
            fraction = (v + 1) / 2
        mean = self.process.data(times(1 / q, self.process.state(output)) - times(p / q, xt))
        return Estimate(mean, fraction=fraction)
