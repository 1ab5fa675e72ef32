"""Laws: distributions over a batch. What a process gives back, and what a denoiser guesses.

Every law can `sample(rng)` and `draw(rng)`. A draw is what stands in for clean data in a sampler: the mean of a Gaussian
guess (its best point), a sample of a categorical or implicit one (where a mean is not data).
Densities and divergences are in nats, summed over all axes but the first, shape (batch,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import UsageProblem
from .rng import Rng
from .scalars import Scalar


def sum_event(x: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def _spread(a: Scalar, like: Tensor) -> Tensor:
    return torch.as_tensor(a, dtype=torch.float64, device=like.device).expand(like.shape)


class Law:
    """A distribution over a batch of examples."""

    mean: Tensor

    def sample(self, rng: Rng) -> Tensor:
        """One sample for each example, each from its own stream."""
        raise NotImplementedError

    def draw(self, rng: Rng) -> Tensor:
        """The value that stands in for clean data in a sampler."""
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """log density at `x`, nats, shape (batch,)."""
        raise UsageProblem(f"a {type(self).__name__} law has no density, so no likelihood can be computed from it")

    def kl(self, other: Law) -> Tensor:
        """KL(self || other), nats, shape (batch,)."""
        raise UsageProblem(
            f"the divergence of a {type(self).__name__} law from a {type(other).__name__} law does not exist, "
            "so this process has no variational bound"
        )


@dataclass(frozen=True, slots=True)
class Dirac(Law):
    """All mass on one point, `mean`."""

    mean: Tensor

    def sample(self, rng: Rng) -> Tensor:
        return self.mean


@dataclass(frozen=True, slots=True)
class Implicit(Law):
    """A law of which there are samples only."""

    draws: Callable[[Rng], Tensor]

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        raise UsageProblem(
            "this model draws its guesses and knows no mean of them; sample it with the paper's own sampler"
        )

    def sample(self, rng: Rng) -> Tensor:
        return self.draws(rng)

    draw = sample


@dataclass(frozen=True, slots=True)
class Estimate(Law):
    """A denoiser's guess of x_0 given x_t: a point, and what else the denoiser knows.

    mean        E[x_0 | x_t], shape of the data.
    variance    Var[x_0 | x_t] elementwise, where it is known (oracles): the reverse step can then use its optimal variance.
    fraction    where between the smallest and the largest reverse variance to step, in the logarithm: 0 to 1
                (improved-ddpm's learned variances).
    unclipped   the mean before thresholding, for samplers that clip the guess but keep the raw noise estimate.
    pull        the guess before a classifier pulled at it, and how, for samplers that pull in their own way.
    """

    mean: Tensor
    variance: Tensor | None = None
    fraction: Tensor | None = None
    unclipped: Tensor | None = None
    pull: Pull | None = None

    def sample(self, rng: Rng) -> Tensor:
        if self.variance is None:
            return self.mean
        return self.mean + self.variance.sqrt() * rng.normal_like(self.mean)


class Pull(NamedTuple):
    """A gradient in x_t, in the coordinates of the state, and the estimate whose score it was added to."""

    estimate: Estimate
    gradient: Tensor


@dataclass(frozen=True, slots=True)
class Normal(Law):
    """N(mean, std^2), independent over elements; `std` is a number or broadcasts against `mean`."""

    mean: Tensor
    std: Scalar

    def sample(self, rng: Rng) -> Tensor:
        if not isinstance(self.std, Tensor) and self.std == 0:
            return self.mean
        return rng.disturb(self.mean, self.std)

    def log_prob(self, x: Tensor) -> Tensor:
        std = _spread(self.std, x)
        z = (x - self.mean).double() / std
        return sum_event(-0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi))

    def kl(self, other: Law) -> Tensor:
        r"""log(s_2/s_1) + (s_1^2 + (m_1 - m_2)^2) / (2 s_2^2) - 1/2, summed over elements."""
        if not isinstance(other, Normal):
            return Law.kl(self, other)
        s1, s2 = _spread(self.std, self.mean), _spread(other.std, self.mean)
        ratio = (s1 / s2) ** 2
        shift = ((self.mean - other.mean.to(self.mean.device)).double() / s2) ** 2
        return sum_event(0.5 * (ratio + shift - 1 - ratio.log()))


def mixed(matrix: Tensor, u: Tensor) -> Tensor:
    """A matrix (j, k), or one for each example, applied to the parts of u (batch, k, *event), in the type of u."""
    out = matrix.to(u) @ u.reshape(*u.shape[:2], -1)
    return out.reshape(len(u), -1, *u.shape[2:])


@dataclass(frozen=True, slots=True)
class Correlated(Law):
    """N(mean, root root^T) in the k parts of a state (batch, k, *event), independent over the event.

    `root`: lower triangular, (k, k) or (batch, k, k), float64; rows of zeros where a part is known.
    """

    mean: Tensor
    root: Tensor

    def sample(self, rng: Rng) -> Tensor:
        return self.mean + mixed(self.root, rng.normal_like(self.mean))

    def _whitened(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """root^-1 u, and log det root times the size of the event, (batch,)."""
        flat = u.double().reshape(*u.shape[:2], -1)
        log_det = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1) * flat.shape[2]
        return torch.linalg.solve_triangular(self.root, flat, upper=False), log_det.expand(len(u))

    def log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self._whitened(x - self.mean)
        return -0.5 * sum_event(z * z + math.log(2 * math.pi)) - log_det

    def kl(self, other: Law) -> Tensor:
        r"""1/2 [tr(S_2^-1 S_1) + |m_1 - m_2|^2_{S_2^-1} - k + log det S_2 / det S_1], summed over the event."""
        if not isinstance(other, Correlated):
            return Law.kl(self, other)
        z, log_det = other._whitened(self.mean - other.mean)
        ratio = torch.linalg.solve_triangular(other.root, self.root, upper=False)
        size = z.shape[2]
        trace = ratio.square().sum((-2, -1)) - self.root.shape[-1]
        return 0.5 * sum_event(z * z) + 0.5 * size * trace + log_det - self._whitened(self.mean)[1]


@dataclass(frozen=True, slots=True)
class Categorical(Law):
    """Independent categories in the last axis: `log_probs` of shape (batch, ..., categories), normalised."""

    log_probs: Tensor

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The vector of probabilities."""
        return self.log_probs.exp()

    def sample(self, rng: Rng) -> Tensor:
        """Category numbers, shape (batch, ...). By inversion in float64, which is exact to 2^-53."""
        cumulative = self.log_probs.double().exp().cumsum(-1)
        u = rng.uniform(*self.log_probs.shape[1:-1]).to(cumulative.device)[..., None] * cumulative[..., -1:]
        return (cumulative <= u).sum(-1).clamp_(max=self.log_probs.shape[-1] - 1)

    draw = sample

    def log_prob(self, x: Tensor) -> Tensor:
        return sum_event(self.log_probs.double().gather(-1, x[..., None]).squeeze(-1))

    def kl(self, other: Law) -> Tensor:
        if not isinstance(other, Categorical):
            return Law.kl(self, other)
        p = self.log_probs.double()
        q = other.log_probs.to(p)
        return sum_event(torch.where(p.isinf(), 0.0, p.exp() * (p - q)).sum(-1))


@dataclass(frozen=True, slots=True)
class Pinned(Law):
    """A guess of which a part is known: x_0 is `x` where `known` is true, both broadcasting against it."""

    guess: Law
    known: Tensor
    x: Tensor

    def sample(self, rng: Rng) -> Tensor:
        return self._joined(self.guess.sample(rng))

    def draw(self, rng: Rng) -> Tensor:
        return self._joined(self.guess.draw(rng))

    def _joined(self, x: Tensor) -> Tensor:
        return torch.where(self.known.to(x.device), self.x.to(x), x)
