"""What every process offers. Further faces (a flow, an SDE, jump rates) are asked for by type, when a sampler is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..laws import Law
from ..rng import Rng
from ..scalars import Scalar


@dataclass(frozen=True, slots=True)
class Moment:
    """A time, of a process of which solvers need to know no more."""

    t: float

    @property
    def is_clean(self) -> bool:
        return self.t == 0

    def over(self, x: Tensor) -> Tensor:
        """The time, once for each example of x: (batch,), float64."""
        return torch.full((len(x),), float(self.t), dtype=torch.float64, device=x.device)


class Process(nn.Module):
    r"""A way to destroy data, x_0 at t = 0 becoming noise at t = 1.

    *Data* is what the network guesses; the *state* x_t is what a sampler moves. They are the same tensor for most
    processes; not where the state lives in another basis (blurring) or carries a velocity (critically damped Langevin).
    Times are given as a `Tensor` of shape (batch,), or as a point: one time for the whole batch with its coefficients.
    """

    dense: bool = True
    """Whether its laws have densities, and its chains a variational bound."""
    generates: bool = True
    """Whether there is a law to start from (`prior`); otherwise states are given, and restored."""
    likelihood: str = "flow"
    """The method of likelihoods that is its own (`unnoise.likelihood.METHODS`)."""

    def point(self, t: Scalar):
        """The point of time t: whatever solvers need to know of it, computed once."""
        return self.points([t])[0]

    def points(self, times: Sequence[Scalar]) -> list:
        return [Moment(float(t)) for t in times]

    def state(self, x0: Tensor) -> Tensor:
        """Data in the coordinates of the state."""
        return x0

    def data(self, xt: Tensor) -> Tensor:
        """The data part of a state, in the coordinates of data."""
        return xt

    def prior(self, shape: Sequence[int], t=None) -> Law:
        """The law of the state that sampling starts from, for a batch of data of `shape`."""
        raise NotImplementedError

    def marginal(self, x0: Tensor, t) -> Law:
        """q(x_t | x_0), a law of the state."""
        raise NotImplementedError

    def posterior(self, xt: Tensor, x0: Tensor, t, s, eta: float = 1.0) -> Law:
        """q(x_s | x_t, x_0) for s < t. eta = 1 is the Markov chain's, eta = 0 the deterministic one of the same marginals."""
        raise NotImplementedError

    def anew(self, xt: Tensor, x0: Tensor, t, s) -> Law:
        """q(x_s | x_0), x_t forgotten but for what it carries beside the data."""
        return self.marginal(x0, s)

    def refuse(self, step: Any) -> None:
        """Raises UsageProblem for a sampler's step that means nothing here, though it is for processes of this kind."""

    def corrupt(self, x0: Tensor, t, rng: Rng) -> Tensor:
        """A sample of q(x_t | x_0)."""
        return self.marginal(x0, t).sample(rng)

    def reverse_law(self, guess: Law, xt: Tensor, t, s, eta: float = 1.0, rng: Rng | None = None) -> Law:
        """p(x_s | x_t) for a guess of x_0: the posterior of one draw of it, unless a process knows its mean over the guess."""
        return self.posterior(xt, guess.draw(rng), t, s, eta)  # type: ignore[arg-type]


class Diffusion(Process):
    r"""A process that solves an SDE, dx = f dt + g dw: data can be walked back along its flow, and along its reverse SDEs.

        dx = [f - (1 + lambda^2)/2 g^2 score] dt + lambda g dw

    lambda = 0 is the probability flow, 1 the reverse SDE; all have the same marginals (2011.13456).
    """

    def reverse(self, xt: Tensor, x0: Tensor, t, noise: float) -> Tensor:
        """The drift of the process with `noise` lambda, for the guess x_0 of what is behind x_t."""
        raise NotImplementedError

    def velocity(self, xt: Tensor, x0: Tensor, t) -> Tensor:
        """dx/dt of the probability flow."""
        return self.reverse(xt, x0, t, 0.0)

    def diffusion(self, t, xt: Tensor) -> Scalar:
        """g, which broadcasts against the state."""
        raise NotImplementedError

    def stirred(self, xt: Tensor) -> Tensor:
        """1 where noise enters a state, 0 elsewhere: the guess moves these numbers alone."""
        return torch.ones_like(xt[:1])

    def expansion(self, t, xt: Tensor) -> Tensor:
        """The divergence of `velocity` in x_t, where the guess is held: (batch,)."""
        raise NotImplementedError

    def opening(self, x: Tensor, t, rng: Rng) -> tuple[Tensor, Tensor]:
        """A state at t (near data) that says x of the data, and log of the density by which it is divided: -log p(x) is at most
        the mean of log_q - log p(state), (batch,)."""
        raise NotImplementedError
