r"""Bridges: a diffusion pinned at both ends, data at t = 0 and other data at t = 1.

The reference is a Gaussian process; given its ends, a state between them is its posterior from t = 1 (2303.16852):

    q(x_t | x_0, x_1)      = q_ref(x_t | x_1, x_0),         Brownian motion: N((1 - t) x_0 + t x_1, std^2 t (1 - t))
    q(x_s | x_t, x_0, x_1) = q_ref(x_s | x_t, x_0),         whatever x_1: the reference is a Markov chain

So the reverse SDE of a bridge is that of its reference, with E[x_0 | x_t] under the pairs that are bridged. Its flow is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Law, Normal
from ..scalars import Scalar
from .base import Diffusion
from .gaussian import CLEAN, Gaussian, Point


class Bridge(Diffusion):
    """The bridges of a reference that looks alike from both ends, as Brownian motion and Ornstein-Uhlenbeck's do: what leads to
    x_1 is then a bridge in the time 1 - t. Nothing is known of the law of the ends, so states to start from are given."""

    dense = False
    generates = False

    def __init__(self, reference: Gaussian):
        super().__init__()
        self.reference = reference
        with torch.device("cpu"):  # whatever device the model is being made for
            alike = _same_from_both_ends(reference)
        if not alike:
            raise UsageProblem(
                f"a bridge of {type(reference.schedule).__name__} is not the same from both ends; "
                "take Brownian motion, or an Ornstein-Uhlenbeck process (LinearVP of one beta)"
            )

    def points(self, times: Sequence[Scalar]) -> list[Point]:
        return [*self.reference.points([t for t in times if t > 0]), *(CLEAN for t in times if t == 0)]

    def prior(self, shape: Sequence[int], t=None) -> Law:
        raise UsageProblem("a bridge starts from data of its other end, not from noise; give them as the start")

    def marginal(self, x0: Tensor, t: Tensor | Point, x1: Tensor | None = None) -> Normal:
        """q(x_t | x_0, x_1); of the reference, q(x_t | x_0), where x_1 is left out."""
        if x1 is None:
            return self.reference.marginal(x0, t)
        return self.reference.posterior(x1, x0, self.reference.point(1.0), t)

    def posterior(self, xt: Tensor, x0: Tensor, t, s, eta: float = 1.0) -> Normal:
        self._check(eta, "this posterior")
        return self.reference.posterior(xt, x0, t, s)

    def reverse(self, xt: Tensor, x0: Tensor, t: Tensor | Point, noise: float) -> Tensor:
        """The drift of the reverse SDE, whose noise is 1: of what flows there x_0 tells only half."""
        self._check(noise, "this drift")
        return self.reference.reverse(xt, x0, t, noise)

    def diffusion(self, t: Tensor | Point, xt: Tensor) -> Scalar:
        return self.reference.diffusion(t, xt)

    def refuse(self, step: Any) -> None:
        if not getattr(step, "bridges", False):
            self._check(getattr(step, "eta", getattr(step, "noise", None)), f"the sampler {step.name!r}")

    @staticmethod
    def _check(noise: Any, what: str) -> None:
        if noise != 1:
            raise UsageProblem(
                "a bridge is walked by its SDE with all of its noise (ancestral, euler-maruyama) or by its flow (bridge-flow), "
                f"and {what} does neither"
            )

    def anew(self, xt: Tensor, x0: Tensor, t, s) -> Law:
        raise UsageProblem("a bridge that forgets its state forgets its other end; take the sampler ancestral")


def _same_from_both_ends(reference: Gaussian) -> bool:
    """Whether the bridge from x_0 = 1 to x_1 = 0 is at t what that from 0 to 1 is at 1 - t; if so, all others are."""
    t, one, zero = (torch.tensor(v, dtype=torch.float64) for v in ([0.2, 0.8], [[1.0], [1.0]], [[0.0], [0.0]]))
    from_data, from_other = (reference.posterior(b, a, one[:, 0], t) for a, b in ((one, zero), (zero, one)))
    std = torch.as_tensor(from_data.std)
    return torch.allclose(from_data.mean, from_other.mean.flip(0)) and torch.allclose(std, std.flip(0))
