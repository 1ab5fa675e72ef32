r"""The cold process: a degradation in place of noise (2208.09392).

What a step back keeps of its state is not the noise but whatever the guess of x_0 does not explain:

    x_s = D(x_0, s) + (x_t - D(x_0, t))

(the improved sampler, its algorithm 2), a law without a density. Where D(x, s) = x + s e, it ends at x_0 whatever is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..laws import Dirac, Implicit, Law
from .base import Moment, Process
from .degradation import Degradation


class Cold(Process):
    """x_t = D(x_0, t steps). The state is x_t; of degradations that carry what is random in them, x_t and that, on one more
    axis: (batch, 2, channel, height, width). None of its laws has a density, so there is no bound and no likelihood."""

    dense = False

    def __init__(self, degradation: Degradation):
        super().__init__()
        self.degradation, self.steps = degradation, degradation.steps

    @property
    def generates(self) -> bool:  # type: ignore[override]
        return self.degradation.generates

    def level(self, t: Tensor | Moment, batch: int) -> Tensor:
        """How many steps of the degradation, int64 (batch,)."""
        times = t if isinstance(t, Tensor) else torch.full((batch,), t.t, dtype=torch.float64)
        return (times * self.steps).round().long()

    def parts(self, xt: Tensor) -> tuple[Tensor, Tensor | None]:
        """x_t, and what the state carries beside it."""
        return (xt[:, 0], xt[:, 1]) if self.degradation.carries else (xt, None)

    def join(self, x: Tensor, along: Tensor | None) -> Tensor:
        return torch.stack([x, along.to(x)], 1) if self.degradation.carries and along is not None else x

    def data(self, xt: Tensor) -> Tensor:
        return self.parts(xt)[0]

    def prior(self, shape: Sequence[int], t=None) -> Law:
        """The law of D(x, T), where it does not depend on x."""
        if not self.generates:
            self.degradation.end(shape, None)  # type: ignore[arg-type]  # which says why not
        return Implicit(lambda rng: self.join(*self.degradation.end(shape, rng)))

    def marginal(self, x0: Tensor, t: Tensor | Moment) -> Law:
        k = self.level(t, len(x0))

        def sample(rng):
            along = self.degradation.draw(x0, rng)
            return self.join(self.degradation(x0, k, along), along)

        return Implicit(sample)

    def posterior(self, xt: Tensor, x0: Tensor, t, s, eta: float = 1.0) -> Dirac:
        """D(x_0, s) + (x_t - D(x_0, t)). There is no noise of which eta could be a share."""
        x, carried = self.parts(xt)
        k = self.level(t, len(xt))
        along = self.degradation.reread(x, x0, k, carried)
        kept = x - self.degradation(x0, k, along)
        return Dirac(self.join(self.degradation(x0, self.level(s, len(xt)), along) + kept, carried))

    def anew(self, xt: Tensor, x0: Tensor, t, s) -> Dirac:
        """D(x_0, s), with what x_t carries."""
        x, carried = self.parts(xt)
        along = self.degradation.reread(x, x0, self.level(t, len(xt)), carried)
        return Dirac(self.join(self.degradation(x0, self.level(s, len(xt)), along), carried))
