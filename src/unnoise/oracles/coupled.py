r"""Pairs of data whose bridges are known exactly: mixtures of Gaussians, jointly of both ends.

Component k has means m_0, m_1, variances v_0, v_1 and the covariance c of the ends, independent over the elements of the event.
At a bridge's state x_t = A x_0 + B x_1 + S z it is N(mu, V), mu = A m_0 + B m_1, V = A^2 v_0 + B^2 v_1 + 2 A B c + S^2, and

    E[x_0 | x_t, k] = m_0 + (A v_0 + B c) / V (x_t - mu),    E[x_1 | x_t, k] = m_1 + (A c + B v_1) / V (x_t - mu).

The Schroedinger bridge between two Gaussians is among them: entropic optimal transport (2106.01357, 2303.16852).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ..denoisers import Bridged, Denoiser
from ..denoisers.denoiser import Cond
from ..errors import UsageProblem
from ..laws import Estimate
from ..processes import Bridge, Gaussian
from ..rng import Rng


@dataclass(frozen=True)
class Coupled:
    """means (K, *event) of data and of the other end, variances and covariance broadcasting to them, weights (K,); float64."""

    data: Tensor
    other: Tensor
    data_variance: Tensor
    other_variance: Tensor
    covariance: Tensor
    weights: Tensor

    @property
    def mirrored(self) -> Coupled:
        """The same pairs, the other end being data."""
        return replace(
            self,
            data=self.other,
            other=self.data,
            data_variance=self.other_variance,
            other_variance=self.data_variance,
        )

    def sample(self, rng: Rng) -> tuple[Tensor, Tensor]:
        """Pairs (x_0, x_1)."""
        k = torch.searchsorted(self.weights.cumsum(0) / self.weights.sum(), rng.uniform())
        k = k.clamp(max=len(self.weights) - 1)
        v0, v1, c = (v.expand_as(self.data)[k] for v in (self.data_variance, self.other_variance, self.covariance))
        z0, z1 = (rng.normal(*self.data.shape[1:], dtype=torch.float64) for _ in range(2))
        slope = torch.where(v0 > 0, c / v0, 0.0)
        return self.data[k] + v0.sqrt() * z0, self.other[k] + slope * v0.sqrt() * z0 + (v1 - slope * c).sqrt() * z1

    def _parts(self, process: Bridge, xt: Tensor, t: Tensor):
        """Means and variances of the components at x_t, the offsets from them, and A, B; (batch, K, *event)."""
        one = torch.ones(len(xt), *[1] * xt.ndim, dtype=torch.float64)
        law = process.marginal(one, t, 0 * one)
        a, b = law.mean, process.marginal(0 * one, t, one).mean
        std = torch.as_tensor(law.std, dtype=torch.float64)
        v = a**2 * self.data_variance + b**2 * self.other_variance + 2 * a * b * self.covariance + std**2
        mean = a * self.data + b * self.other
        return v.expand_as(mean), xt.double()[:, None] - mean, a, b

    def log_prob(self, process: Bridge, xt: Tensor, t: Tensor) -> Tensor:
        """log p_t(x_t), nats (batch,)."""
        variance, offset, *_ = self._parts(process, xt, t)
        return torch.logsumexp(self._joint(variance, offset), 1)

    def _joint(self, variance: Tensor, offset: Tensor) -> Tensor:
        density = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi)).flatten(2).sum(2)
        return density + (self.weights / self.weights.sum()).log()

    def guess(self, process: Bridge, xt: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t]."""
        variance, offset, a, b = self._parts(process, xt, t)
        share = torch.softmax(self._joint(variance, offset), 1)
        gain = (a * self.data_variance + b * self.covariance) / variance
        return torch.einsum("bk,bk...->b...", share, self.data + gain * offset)

    def denoiser(self, process: Bridge) -> Bridged:
        """The exact guesses of both ends."""
        return Bridged(process, _Guess(self, process), _Guess(self.mirrored, process))


class _Guess(Denoiser[Gaussian]):
    """E[x_0 | x_t]."""

    def __init__(self, pairs: Coupled, bridge: Bridge):
        super().__init__()
        self.pairs, self.bridge, self.process = pairs, bridge, bridge.reference

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        return Estimate(self.pairs.guess(self.bridge, xt, t).to(xt.dtype))


def joined(
    data: Tensor,
    other: Tensor,
    data_variance: float | Tensor,
    other_variance: float | Tensor,
    covariance: float | Tensor = 0.0,
) -> Coupled:
    """One Gaussian at each end, of means (*event,)."""
    v0, v1, c = (torch.as_tensor(v, dtype=torch.float64) for v in (data_variance, other_variance, covariance))
    return Coupled(data.double()[None], other.double()[None], v0, v1, c, torch.ones(1, dtype=torch.float64))


def independent(data: Tensor, other: Tensor, data_variance: float, other_variance: float) -> Coupled:
    """Two mixtures of equal weights, of means (K, *event) and (L, *event), drawn each for itself."""
    k, n = len(data), len(other)
    v0, v1, c = (torch.as_tensor(v, dtype=torch.float64) for v in (data_variance, other_variance, 0.0))
    means = data.double().repeat_interleave(n, 0), other.double().repeat(k, *[1] * (other.ndim - 1))
    return Coupled(*means, v0, v1, c, torch.ones(k * n, dtype=torch.float64))


def schroedinger(data: Tensor, other: Tensor, data_variance: float, other_variance: float, process: Bridge) -> Coupled:
    r"""The Schroedinger bridge between N(data, data_variance) and N(other, other_variance): c = (sqrt(e^2 + 4 v_0 v_1) - e) / 2.

    e is the regularisation of |x_0 - x_1|^2 / 2: sigma_1^2 / alpha_1, for the kernel of the reference is that to a factor in x_0
    and one in x_1.
    """
    end = process.reference.point(1.0)
    e = cast(float, end.sigma**2 / end.alpha)
    c = (math.sqrt(e * e + 4 * data_variance * other_variance) - e) / 2
    return joined(data, other, data_variance, other_variance, c)


def refitted(pairs: Coupled, process: Bridge, nodes: int = 64) -> Coupled:
    r"""One iteration of Markovian fitting, exactly: the ends of the diffusion whose drift is the bridges' mean drift at each state.

    Of one Gaussian that drift is linear in x, of slope a(t), and Cov(x_0, x_1) = v_0 exp(int_0^1 a dt).
    """
    if len(pairs.weights) != 1:
        raise UsageProblem("only between Gaussians the fitted diffusion is known; give one component")
    from numpy.polynomial.legendre import leggauss

    where, weight = (torch.from_numpy(v) for v in leggauss(nodes))
    t = (where + 1) / 2
    one = torch.ones(nodes, 1, dtype=torch.float64)
    reference = process.reference
    flat = joined(*(torch.zeros(1),) * 2, *(float(v) for v in _numbers(pairs)))
    # the drift of the state 1 where all means are 0: -f + g^2 (alpha E[x_1 | x_t] - x_t) / sigma^2, in the time from x_1
    there = reference.at(1 - t, one)
    pull = (there.alpha * flat.mirrored.guess(process, one, 1 - t) - one) / there.sigma**2
    slope = reference.diffusion(1 - t, one) ** 2 * pull - reference.drift(one, 1 - t)
    grown = (slope[:, 0] @ weight / 2).exp()
    return replace(pairs, covariance=pairs.data_variance * grown)


def _numbers(pairs: Coupled) -> tuple[Tensor, Tensor, Tensor]:
    return pairs.data_variance, pairs.other_variance, pairs.covariance
