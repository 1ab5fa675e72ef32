r"""A mixture of Gaussians with diagonal covariances, exactly: one component is a Gaussian, zero variances a finite set.

Under x_t = alpha x_0 + sigma eps, component k becomes N(alpha m_k, alpha^2 v_k + sigma^2), so with responsibilities
w_k(x_t) everything is closed:

    E[x_0 | x_t, k]   = m_k + alpha v_k / (alpha^2 v_k + sigma^2) (x_t - alpha m_k)
    Var[x_0 | x_t, k] = v_k sigma^2 / (alpha^2 v_k + sigma^2)
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..laws import Estimate
from ..processes import Gaussian, LinearSDE
from ..rng import Rng
from ..scalars import column

if TYPE_CHECKING:
    from .linear import LinearMixtureDenoiser


class Mixture(nn.Module):
    """weights (K,), means (K, *event), variances (K, *event) or broadcasting to it, all float64.

    `labels` (K,): the class of each component; a label then conditions on the components of its class.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor
    labels: Tensor | None

    def __init__(
        self, means: Tensor, variances: Tensor | float, weights: Tensor | None = None, labels: Tensor | None = None
    ):
        super().__init__()
        means = means.double()
        variances = torch.as_tensor(variances, dtype=torch.float64)
        if variances.ndim == 1 and means.ndim > 1 and len(variances) == len(means):
            variances = column(variances, means)
        weights = torch.ones(len(means)) if weights is None else weights
        self.register_buffer("means", means)
        self.register_buffer("variances", variances.expand_as(means))
        self.register_buffer("log_weights", (weights.double() / weights.sum()).log())
        self.register_buffer("labels", labels)
        if labels is not None and len(labels) != len(means):
            raise UsageProblem(f"a mixture of {len(means)} components was given {len(labels)} labels")

    @property
    def event(self) -> torch.Size:
        return self.means.shape[1:]

    @property
    def mean(self) -> Tensor:
        """E[x_0]."""
        return torch.einsum("k,k...->...", self.log_weights.exp(), self.means)

    @property
    def covariance(self) -> Tensor:
        """Cov[x_0] of the flattened event."""
        w, m = self.log_weights.exp(), (self.means - self.mean).flatten(1)
        within = torch.diag(torch.einsum("k,kd->d", w, self.variances.flatten(1)))
        return torch.einsum("k,ki,kj->ij", w, m, m) + within

    def sample(self, rng: Rng, dtype: torch.dtype = torch.float64) -> Tensor:
        """Samples of x_0, (len(rng), *event)."""
        u = rng.uniform()
        k = torch.searchsorted(self.log_weights.exp().cumsum(0), u).clamp(max=len(self.means) - 1)
        noise = rng.normal(*self.event, dtype=torch.float64)
        return (self.means[k] + self.variances[k].sqrt() * noise).to(dtype)

    def _parts(self, xt: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None):
        x = xt.double()[:, None]  # (batch, 1, *event) against (1, K, *event)
        alpha, sigma = alpha[:, None], sigma[:, None]
        variance = alpha**2 * self.variances + sigma**2
        offset = x - alpha * self.means
        log_density = -0.5 * (offset**2 / variance + variance.log() + math.log(2 * math.pi)).flatten(2).sum(2)
        log_joint = log_density + self.log_weights
        if label is not None:
            if self.labels is None:
                raise UsageProblem("this mixture has no classes, so it takes no labels")
            inside = (label[:, None] == self.labels) | (label[:, None] < 0)
            log_joint = log_joint.masked_fill(~inside, -math.inf)
            prior = self.log_weights.expand_as(log_joint).masked_fill(~inside, -math.inf)
            log_joint = log_joint - torch.logsumexp(prior, 1, keepdim=True)
        return variance, offset, log_joint

    def log_prob(self, xt: Tensor, process: Gaussian, t, label: Tensor | None = None) -> Tensor:
        """log p_t(x_t), nats (batch,)."""
        point = process.at(t, xt)
        alpha, sigma = (_coefficient(c, xt) for c in (point.alpha, point.sigma))
        return self.evidence(xt, alpha, sigma, label)

    def evidence(self, xt: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """log density of alpha x_0 + sigma eps at x_t, nats (batch,)."""
        return torch.logsumexp(self._parts(xt, alpha, sigma, label)[2], 1)

    def estimate(self, xt: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None = None) -> Estimate:
        """E[x_0 | x_t] and Var[x_0 | x_t]."""
        variance, offset, log_joint = self._parts(xt, alpha, sigma, label)
        w = torch.softmax(log_joint, 1)
        gain = alpha[:, None] * self.variances / variance
        means = self.means + gain * offset
        mean = torch.einsum("bk,bk...->b...", w, means)
        within = self.variances * sigma[:, None] ** 2 / variance
        second = torch.einsum("bk,bk...->b...", w, within + (means - mean[:, None]) ** 2)
        return Estimate(mean.to(xt.dtype), second.to(xt.dtype))

    @overload
    def denoiser(self, process: Gaussian) -> MixtureDenoiser: ...
    @overload
    def denoiser(self, process: LinearSDE) -> LinearMixtureDenoiser: ...
    def denoiser(self, process: Gaussian | LinearSDE) -> MixtureDenoiser | LinearMixtureDenoiser:
        """The exact denoiser of this data under a process."""
        if isinstance(process, LinearSDE):
            from .linear import LinearMixtureDenoiser

            return LinearMixtureDenoiser(self, process)
        return MixtureDenoiser(self, process)


def _coefficient(c, like: Tensor) -> Tensor:
    c = torch.as_tensor(c, dtype=torch.float64, device=like.device)
    return c.expand(len(like), *[1] * (like.ndim - 1)) if c.ndim == 0 else c


class MixtureDenoiser(Denoiser):
    """The denoiser that no network beats: E[x_0 | x_t] itself.

    In a process with a basis, the mixture is a law of the data's coordinates in that basis: that is where the noise is
    independent, and a diagonal covariance stays diagonal.
    """

    def __init__(self, mixture: Mixture, process: Gaussian):
        super().__init__()
        self.mixture, self.process = mixture, process

    def _estimate(self, xt: Tensor, t: Tensor, cond: Cond) -> Estimate:
        point = self.process.at(t, xt)
        label = None if cond is None else cond.get("label")
        return self.mixture.estimate(xt, _coefficient(point.alpha, xt), _coefficient(point.sigma, xt), label)

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        estimate = self._estimate(xt, t, cond)
        return replace(estimate, mean=self.process.data(estimate.mean))

    def score(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """grad log p_t(x_t) = -(x_t - alpha E[x_0 | x_t]) / sigma^2."""
        point = self.process.at(t, xt)
        x0 = self._estimate(xt, t, cond).mean
        return (_coefficient(point.alpha, xt) * x0 - xt) / _coefficient(point.sigma, xt) ** 2


def gaussian(mean: Tensor, variance: Tensor | float) -> Mixture:
    """N(mean, variance), independent over the elements of the event."""
    return Mixture(mean[None], torch.as_tensor(variance, dtype=torch.float64).expand_as(mean)[None])


def finite_set(data: Tensor, labels: Tensor | None = None) -> Mixture:
    """The data themselves, each with equal weight: the optimum every model of a finite training set tends to."""
    return Mixture(data, 0.0, labels=labels)
