r"""Data on a manifold whose density and score are known at every time of Brownian motion.

A mixture of heat kernels stays one: a component that is Brownian motion after tau_k from m_k is so after tau_k + tau(t). On a
sphere, or among rotations, any function of the cosine to a centre does: of its series sum_n a_n m_n Z_n(c) / volume, Brownian
motion multiplies a_n with exp(-lambda_n tau / 2). Von Mises and Fisher's law, density ~ exp(kappa c), has

    a_n = I_{n + v}(kappa) / I_v(kappa),     v = (d - 1)/2,      I Bessel's functions.

The wrapped normal law of m, x = exp_m(v) with v normal of deviation s, is another, and of its distance r to m

    log p(x) = -r^2 / (2 s^2) - (d/2) log(2 pi s^2) - log(S(r) / r^{d-1}),    S(r) the area of the points at a distance r.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..manifolds import Heat, Manifold, Rotations, Sphere, Zonal
from ..processes.curved import Curved, Scored
from ..rng import Rng

TERMS, THRESHOLD = 60, 0.02
WIDEST = 0.5
"""The largest deviation of a wrapped normal law: e^-20 of it is further than half the way round."""


class HeatMixture(nn.Module):
    """centres (K, ambient), times taus (K,) and weights (K,), all float64.

    terms    of the kernels' series, which are taken for times above `threshold`: 60 are exact from 0.02 on, 20 from 0.1.
    """

    centres: Tensor
    taus: Tensor
    log_weights: Tensor

    def __init__(
        self,
        manifold: Manifold,
        centres: Tensor,
        taus: Tensor | float,
        weights: Tensor | None = None,
        terms: int = TERMS,
        threshold: float = THRESHOLD,
    ):
        super().__init__()
        self.manifold, self.terms, self.threshold = manifold, terms, threshold
        self.register_buffer("centres", centres.double())
        self.register_buffer("taus", torch.as_tensor(taus, dtype=torch.float64).expand(len(centres)).clone())
        weights = torch.ones(len(centres), dtype=torch.float64) if weights is None else weights.double()
        self.register_buffer("log_weights", (weights / weights.sum()).log())

    def component(self, k: int, x: Tensor, tau: Tensor) -> Heat:
        """The density of component k, and its score, after Brownian motion for tau (batch,)."""
        centre = self.centres[k].expand(len(x), -1)
        return self.manifold.heat(x.double(), centre, self.taus[k] + tau, self.threshold, self.terms)

    def drawn(self, k: Tensor, rng: Rng) -> Tensor:
        """Points of the components k (batch,)."""
        return self.manifold.walk(self.centres[k], self.taus[k], rng, steps=200)

    def heat(self, x: Tensor, tau: Tensor | float = 0.0) -> Heat:
        """log p after Brownian motion for tau, nats (batch,), and its gradient (batch, ambient)."""
        times = torch.as_tensor(tau, dtype=torch.float64, device=x.device).expand(len(x))
        parts = [self.component(k, x, times) for k in range(len(self.centres))]
        joint = torch.stack([part.log_prob for part in parts], 1) + self.log_weights
        shares = torch.softmax(joint, 1)[..., None]
        return Heat(torch.logsumexp(joint, 1), (shares * torch.stack([part.score for part in parts], 1)).sum(1))

    def log_prob(self, x: Tensor, tau: Tensor | float = 0.0) -> Tensor:
        return self.heat(x, tau).log_prob

    def sample(self, rng: Rng) -> Tensor:
        """Points x_0, float64 (len(rng), ambient)."""
        u = rng.uniform()
        k = torch.searchsorted(self.log_weights.exp().cumsum(0), u).clamp(max=len(self.centres) - 1)
        return self.drawn(k, rng)

    def denoiser(self, process: Curved) -> ExactScore:
        """The exact score of these data under a process."""
        return ExactScore(self, process)


class ZonalMixture(HeatMixture):
    """spectra (K, terms): a_n of each component, a_0 = 1. Sampled by the inverse of the distribution of the distance."""

    spectra: Tensor
    manifold: Zonal

    def __init__(self, manifold: Zonal, centres: Tensor, spectra: Tensor, weights: Tensor | None = None):
        super().__init__(manifold, centres, 0.0, weights)
        self.register_buffer("spectra", spectra.double().expand(len(centres), -1).clone())

    def component(self, k: int, x: Tensor, tau: Tensor) -> Heat:
        centre = self.centres[k].expand(len(x), -1)
        spectrum = self.spectra[k] * self.manifold.spectrum(tau, self.spectra.shape[1])
        value, slope = self.manifold.sum(self.manifold.cosine(x, centre), spectrum)
        value = value.clamp(min=1e-15)  # the series has lost its digits there
        score = (slope / value)[:, None] * self.manifold.tangent(x.double(), centre)
        return Heat(value.log() - self.manifold.log_volume, score)

    def drawn(self, k: Tensor, rng: Rng) -> Tensor:
        u, r = rng.uniform(), torch.zeros(len(k), dtype=torch.float64)
        for i in k.unique():
            r[k == i] = self.manifold.quantile(self.spectra[i], u[k == i])
        return self.manifold.at_distance(self.centres[k], r, rng)


class WrappedMixture(nn.Module):
    """A mixture of wrapped normal laws: centres (K, ambient) and deviations (K,), all as likely. Its density is known, not that of
    what Brownian motion makes of it. Raises UsageProblem where they are so wide that they meet themselves on the other side.
    """

    centres: Tensor
    deviations: Tensor

    def __init__(self, manifold: Zonal, centres: Tensor, deviations: Tensor):
        super().__init__()
        if not bool(((deviations > 0) & (deviations <= WIDEST)).all()):
            raise UsageProblem(
                f"deviations of wrapped normal laws lie above 0 and up to {WIDEST:g}, not at {deviations.tolist()}"
            )
        self.manifold = manifold
        self.register_buffer("centres", centres.double())
        self.register_buffer("deviations", deviations.double())

    def sample(self, rng: Rng) -> Tensor:
        """Points, float64 (len(rng), ambient)."""
        k = rng.integers(len(self.centres))
        centre = self.centres[k]
        v = self.manifold.frame(centre) * rng.normal(self.manifold.dim, dtype=torch.float64).T[..., None]
        return self.manifold.exp(centre, self.deviations[k, None] * v.sum(0))

    def log_prob(self, x: Tensor) -> Tensor:
        """Nats, (n,), by the Riemannian measure."""
        d, s, found = self.manifold.dim, self.deviations, []
        height = -d / 2 * torch.log(2 * math.pi * s * s) - math.log(len(s))
        for part in x.double().split(256):
            r = (part @ self.centres.T + self.manifold.shift).clamp(-1, 1).acos().clamp(min=1e-7)
            spread = (self.manifold.sphere_at(r) / r ** (d - 1)).log()
            found.append(torch.logsumexp(height - r.square() / (2 * s * s) - spread, 1))
        return torch.cat(found)


def wrapped_normals(count: int = 16, precision: int = 100, seed: int = 0) -> WrappedMixture:
    """The law of the published experiment among rotations: evenly drawn centres, and precisions of Gamma(precision, 1).

    A precision is that of the nine numbers around a rotation: of its angle twice as much, so the deviation is near 0.07.
    """
    so3, rng = Rotations(), Rng.from_seeds(range(seed, seed + count))
    centres = so3.uniform(rng)
    precisions = -rng.uniform(precision).log().sum(1)  # a sum of exponentials
    return WrappedMixture(so3, centres, (2 * precisions).rsqrt())


def von_mises_fisher(
    sphere: Sphere, centres: Tensor, kappa: float, weights: Tensor | None = None, terms: int = TERMS
) -> ZonalMixture:
    """A mixture of von Mises-Fisher laws, density ~ exp(kappa <x, m_k>) each. Raises UsageProblem for kappa of 0 or less."""
    if not kappa > 0:
        raise UsageProblem(f"kappa is {kappa}, but must be above 0; `uniform` is the law of kappa 0")
    from scipy.special import ive

    order = sphere.order
    spectrum = torch.tensor([ive(n + order, kappa) / ive(order, kappa) for n in range(terms)], dtype=torch.float64)
    return ZonalMixture(sphere, centres, spectrum, weights)


def uniform(manifold: Zonal) -> ZonalMixture:
    """The uniform law: the score is 0."""
    centre = manifold.project(torch.eye(manifold.ambient, dtype=torch.float64)[:1] + 1e-9)
    return ZonalMixture(manifold, centre, torch.tensor([[1.0, 0.0]]))


class ExactScore(Denoiser[Curved]):
    """The score that no network betters."""

    def __init__(self, mixture: HeatMixture, process: Curved):
        super().__init__()
        if process.manifold.name != mixture.manifold.name:
            raise UsageProblem(f"data on {mixture.manifold.name} do not fit a process on {process.manifold.name}")
        self.mixture, self.process = mixture, process

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Scored:
        tau = self.process.tau(t, xt)
        return Scored(self.mixture.heat(xt, tau).score.to(xt.dtype), xt, tau, self.mixture.manifold)
