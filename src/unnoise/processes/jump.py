r"""Jump processes: a Markov chain in continuous time for each token of a sequence (2310.16834).

    dp/dt = sigma(t) Q p,      p(x_t | x_0) = exp(sbar(t) Q)[x_t, x_0],      sbar(t) = int_0^t sigma

Backwards a token jumps x -> y at the rate sigma(t) Q[x, y] s_y, with s_y = p_t(x with y in its place) / p_t(x) the ratios that
are learned. Ratios and the law q of a token of x_0 given all of x_t are two forms of one thing,

    s = exp(sbar Q) w,     q_z = exp(sbar Q)[x, z] w_z,

so whatever denoiser there is, both are at hand; and so is the law of x_s for s < t, if positions are independent:

    p(x_s = y | x_t) = (exp(-(sbar_t - sbar_s) Q) s)_y exp((sbar_t - sbar_s) Q)[x, y]

which is the mean of the posterior over q, and the paper's analytic step ("Tweedie tau-leaping").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Categorical, Law, Pinned
from ..rng import Rng
from ..scalars import Scalar, column
from .base import Process
from .graphs import Graph


class TotalNoise:
    """sbar(t) and its rate sigma(t) for t > 0, float64; t = 0 is clean data by definition."""

    def total(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def rate(self, t: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class LogLinear(TotalNoise):
    """sbar = -log(1 - (1 - eps) t): the fraction (1 - eps) t of the tokens is struck at t."""

    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise UsageProblem(f"the fraction of tokens left at t = 1 is {self.eps}, but must lie between 0 and 1")

    def total(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.eps) * t)

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.eps) / (1 - (1 - self.eps) * t)


@dataclass(frozen=True)
class GeometricTotal(TotalNoise):
    """sbar = low^(1 - t) high^t."""

    low: float = 1e-4
    high: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UsageProblem(
                f"a total noise from {self.low} to {self.high} does not rise from above 0; choose others"
            )

    def total(self, t: Tensor) -> Tensor:
        return self.low * (self.high / self.low) ** t

    def rate(self, t: Tensor) -> Tensor:
        return self.total(t) * math.log(self.high / self.low)


@dataclass(frozen=True, slots=True)
class JumpPoint:
    """A time, the total noise until then and its rate: floats, or tensors that broadcast against vectors of states."""

    t: Scalar
    total: Scalar
    rate: Scalar

    @property
    def is_clean(self) -> bool:
        return bool((self.total == 0).all()) if isinstance(self.total, Tensor) else self.total == 0

    def over(self, x: Tensor) -> Tensor:
        """The time of a point that all share, once for each example of x: (batch,), float64."""
        return torch.full((len(x),), float(self.t), dtype=torch.float64, device=x.device)


@dataclass(frozen=True, slots=True)
class Ratios(Law):
    """A law of x_0 told by the ratios of x_t: log p_t(y)/p_t(x_t) of every state y, 0 for x_t itself.

    Guessed ratios need not be those of any law; `law` is the nearest by the formula: what is negative is 0, and all sums to 1.
    """

    graph: Graph
    total: Scalar
    xt: Tensor
    log_ratios: Tensor

    @property
    def law(self) -> Categorical:
        """Of the tokens."""
        weights = self.graph.apply(-self.total, self.log_ratios.double().exp()) * self.graph.row(self.total, self.xt)
        return _law(weights[..., : self.graph.tokens].clamp(min=0))

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.law.mean

    def sample(self, rng: Rng) -> Tensor:
        return self.law.sample(rng)

    draw = sample

    def log_prob(self, x: Tensor) -> Tensor:
        return self.law.log_prob(x)


class Jump(Process):
    """Tokens (batch, *event), int64, that jump along a `graph` as the `noise` grows, each by itself."""

    likelihood = "continuous"

    def __init__(self, graph: Graph, noise: TotalNoise):
        super().__init__()
        self.graph, self.noise = graph, noise

    @property
    def tokens(self) -> int:
        """How many symbols there are, MASK not counted."""
        return self.graph.tokens

    def points(self, times: Sequence[Scalar] | Tensor) -> list[JumpPoint]:
        t = torch.as_tensor(times, dtype=torch.float64)
        totals, rates = self._totals(t), self.noise.rate(t)
        return [JumpPoint(*row) for row in zip(t.tolist(), totals.tolist(), rates.tolist(), strict=True)]

    def _totals(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, self.noise.total(t), 0.0)

    def at(self, t: Tensor | JumpPoint, x: Tensor) -> JumpPoint:
        """The noise at times t, (batch,), shaped to broadcast against vectors of states of x. A point is passed through."""
        if isinstance(t, JumpPoint):
            return t
        t = t.double()
        return JumpPoint(t, column(self._totals(t), x[..., None]), column(self.noise.rate(t), x[..., None]))

    def prior(self, shape: Sequence[int], t=None) -> Categorical:
        """What evenly drawn tokens become at t = 1, or t: so the bound is finite where a MASK is not yet certain."""
        point = self.point(1.0) if t is None else t
        even = torch.zeros(self.graph.states, dtype=torch.float64)
        even[: self.graph.tokens] = 1 / self.graph.tokens
        return Categorical(self.graph.apply(point.total, even).log().expand(*shape, -1))

    def marginal(self, x0: Tensor, t) -> Categorical:
        return Categorical(self.graph.column(self.at(t, x0).total, x0).log())

    def corrupt(self, x0: Tensor, t, rng: Rng) -> Tensor:
        """A sample of q(x_t | x_0): each token is struck with probability 1 - exp(-sbar), by itself."""
        total = self.at(t, x0).total
        total = total.squeeze(-1) if isinstance(total, Tensor) else torch.tensor(total, dtype=torch.float64)
        struck = rng.uniform(*x0.shape[1:]).to(x0.device) < -torch.expm1(-total)
        return torch.where(struck, self.graph.struck(x0, rng), x0)

    def log_evidence(self, xt: Tensor, t: Tensor | JumpPoint) -> Tensor:
        """log p(x_t^i | x_0^i = k) for every token k."""
        return self.graph.row(self.at(t, xt).total, xt)[..., : self.tokens].log()

    def transition(self, xs: Tensor, s, t) -> Categorical:
        """q(x_t | x_s) for s < t."""
        return Categorical(self.graph.column(self.at(t, xs).total - self.at(s, xs).total, xs).log())

    def posterior(self, xt: Tensor, x0: Tensor, t, s, eta: float = 1.0) -> Categorical:
        """q(x_s | x_t, x_0) of the chain itself. Raises UsageProblem for eta below 1: no other chain is known here."""
        if eta != 1:
            raise UsageProblem(f"eta is {eta}, but tokens that jump have one chain only: leave eta at 1")
        return self.leap(Categorical(self.graph.one_hot(x0).log()[..., : self.graph.tokens]), xt, t, s)

    def reverse_law(self, guess: Law, xt: Tensor, t, s, eta: float = 1.0, rng: Rng | None = None) -> Law:
        """p(x_s | x_t): the mean of the posterior over the guess, where that is a law of the tokens (`leap`)."""
        if eta == 1 and isinstance(guess, (Categorical, Ratios, Pinned)):
            return self.leap(guess, xt, t, s)
        return super().reverse_law(guess, xt, t, s, eta, rng)

    def log_ratios(self, guess: Law, xt: Tensor, t) -> Tensor:
        """log p_t(y)/p_t(x_t) for every state y: (*x.shape, states)."""
        if isinstance(guess, Ratios):
            return guess.log_ratios
        point = self.at(t, xt)
        return self.graph.apply(point.total, self._weights(self._probabilities(guess), xt, point)).log()

    def rates(self, guess: Law, xt: Tensor, t) -> Tensor:
        """Backward rates sigma(t) Q[x, y] s_y of the jumps x -> y, 0 for x itself: float64 (*x.shape, states)."""
        return self.at(t, xt).rate * self.graph.edges(xt) * self.log_ratios(guess, xt, t).double().exp()

    def leap(self, guess: Law, xt: Tensor, t, s) -> Categorical:
        """The analytic step. At clean data it is the law of the tokens. Of ratios that are those of no law it is what the paper
        samples from: negative probabilities are 0. A state that the guess excludes is forgotten."""
        t, s = self.at(t, xt), self.at(s, xt)
        if isinstance(guess, Pinned):
            return self._joined(guess, self.leap(guess.guess, xt, t, s), xt, t, s)
        back, q = t.total - s.total, None
        if isinstance(guess, Ratios):
            before = self.graph.apply(-back, guess.log_ratios.double().exp())
        else:
            q = self._probabilities(guess)
            before = self.graph.apply(s.total, self._weights(q, xt, t))
        weights = (before * self.graph.row(back, xt)).clamp(min=0)
        if q is not None:
            weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, self.graph.apply(s.total, q))
        return _law(weights[..., : self.graph.tokens] if s.is_clean else weights)

    def tau_leap(self, guess: Law, xt: Tensor, t, s) -> Categorical:
        """The step that holds the rates of t until s, and lets a token jump once at the most."""
        t, s = self.at(t, xt), self.at(s, xt)
        if isinstance(guess, Pinned):
            return self._joined(guess, self.tau_leap(guess.guess, xt, t, s), xt, t, s)
        jumps = (t.t - s.t) * self.rates(guess, xt, t)
        stays = (1 - jumps.sum(-1, keepdim=True)).clamp(min=0) * self.graph.one_hot(xt)
        return _law(jumps + stays)

    def _joined(self, guess: Pinned, free: Categorical, xt: Tensor, t: JumpPoint, s: JumpPoint) -> Categorical:
        """The law of a step, where tokens are known the exact one."""
        known = self.posterior(xt, guess.x.to(xt).expand_as(xt), t, s)
        return Categorical(torch.where(guess.known.to(xt.device)[..., None], known.log_probs, free.log_probs))

    def _probabilities(self, guess: Law) -> Tensor:
        """Of x_0, with a place for each state."""
        if isinstance(guess, Ratios):
            guess = guess.law
        if not isinstance(guess, Categorical):
            raise UsageProblem(
                f"tokens that jump need a guess of their probabilities, and this model's is a {type(guess).__name__} law"
            )
        q = guess.log_probs.double().exp()
        return F.pad(q, (0, self.graph.states - q.shape[-1]))

    def _weights(self, q: Tensor, xt: Tensor, point: JumpPoint) -> Tensor:
        """w of the opening formulas."""
        row = self.graph.row(point.total, xt)
        return torch.where(row > 0, q / row.clamp(min=1e-300), 0.0)


def _law(weights: Tensor) -> Categorical:
    """Weights of 0 or more, as a law."""
    return Categorical((weights / weights.sum(-1, keepdim=True)).log())
