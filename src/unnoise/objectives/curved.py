r"""Score matching on a manifold (2202.02763): by the heat kernel, by Varadhan's limit of it, or without it.

    denoising   E_t w(t) |s(x_t, t) - grad log q(x_t | x_0)|^2
    by a step   E_t w(t) |s(x_t, t) - log_{x_t}(x_s) / (tau_t - tau_s)|^2, x_s the point before x_t of a random walk
    implicit    E_t w(t) {|s|^2 + 2 div s}, the same but for a constant, since a compact manifold has no border

with w(t) = 1 - exp(-tau), which makes the first of order one at all times, or beta(t), which makes it a likelihood's. One gradient
is the mean of all three, but not with one variance. That of the second's target is as many times larger as the walk has steps. The
divergence varies as the slopes of the network do: of the field sin(k a) on a circle 2 div s has the variance 2 k^2, at late times
as at early ones, so what is smooth learns by it, and what sees waves of high frequency does not.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem, unknown
from ..laws import sum_event
from ..manifolds import Heat, divergence
from ..manifolds.base import TERMS, THRESHOLD
from ..processes.curved import Curved, Scored
from ..rng import Rng
from .objective import Loss, Objective
from .times import Times

Weight = Literal["std", "likelihood"]
Kernel = Literal["switch", "series", "varadhan"]
Divergence = Literal["exact", "rademacher", "gaussian"]


class _Curved(Objective):
    """times: the distribution of t; weight: "std" or "likelihood", see above."""

    def __init__(self, times: Times, weight: Weight = "std"):
        super().__init__()
        if weight not in ("std", "likelihood"):
            raise unknown("weight", weight, ["std", "likelihood"])
        self.times, self.weight = times, weight

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        if not isinstance(process, Curved):
            raise UsageProblem(
                f"this objective is for Brownian motion on a manifold, not a {type(process).__name__} process"
            )
        t, importance = self.times.sample(process, rng)
        xt, known = self.noised(process, x0, t, rng)
        w = process.beta(t) if self.weight == "likelihood" else process.std(process.tau(t, xt)).square()
        unweighted = w.to(x0.dtype) * self.error(denoiser, process, known, xt, t, cond, rng)
        return Loss(importance.to(x0.dtype) * unweighted, t=t, unweighted=unweighted.detach())

    def noised(self, process: Curved, x0: Tensor, t: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """x_t, and the point before it by which its score is told."""
        return process.corrupt(x0, t, rng), x0

    def error(self, denoiser, process: Curved, known: Tensor, xt: Tensor, t: Tensor, cond: Cond, rng: Rng) -> Tensor:
        """What w(t) weights, (batch,)."""
        raise NotImplementedError


class HeatMatching(_Curved):
    """Denoising by the heat kernel.

    kernel   "switch": the series above the time `threshold`, Varadhan's limit below; or one of the two at all times. On a torus
             "switch" is the wrapped normal, exact.
    terms    of the series.
    """

    def __init__(
        self,
        times: Times,
        weight: Weight = "std",
        kernel: Kernel = "switch",
        threshold: float = THRESHOLD,
        terms: int = TERMS,
    ):
        super().__init__(times, weight)
        if kernel not in ("switch", "series", "varadhan"):
            raise unknown("kernel", kernel, ["switch", "series", "varadhan"])
        if not threshold >= 0 or terms < 2:
            raise UsageProblem(
                f"a heat kernel needs a threshold of 0 or more and 2 terms or more, not {threshold}, {terms}"
            )
        self.kernel, self.threshold, self.terms = kernel, threshold, terms

    def heat(self, process: Curved, xt: Tensor, x0: Tensor, tau: Tensor) -> Heat:
        """The kernel that is matched."""
        if self.kernel == "varadhan":
            return process.manifold.varadhan(xt, x0, tau)
        if self.kernel == "series":
            return process.manifold.series(xt, x0, tau, self.terms)
        return process.manifold.heat(xt, x0, tau, self.threshold, self.terms)

    def error(self, denoiser, process: Curved, known: Tensor, xt: Tensor, t: Tensor, cond: Cond, rng: Rng) -> Tensor:
        target = self.heat(process, xt, known, process.tau(t, xt)).score
        guess: Scored = denoiser(xt, t, cond)
        return sum_event((guess.score - target.to(xt.dtype)).square())


class StepMatching(_Curved):
    """Denoising by the last step of the walk that noises: Varadhan's limit is good there, and no series is needed."""

    def noised(self, process: Curved, x0: Tensor, t: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        where, last = process.manifold, process.tau(t, x0) / process.walk
        before = where.walk(x0, last * (process.walk - 1), rng, process.walk - 1)
        return where.walk(before, last, rng, 1), before

    def error(self, denoiser, process: Curved, known: Tensor, xt: Tensor, t: Tensor, cond: Cond, rng: Rng) -> Tensor:
        target = process.manifold.varadhan(xt, known, process.tau(t, xt) / process.walk).score
        guess: Scored = denoiser(xt, t, cond)
        return sum_event((guess.score - target.to(xt.dtype)).square())


class ImplicitMatching(_Curved):
    """Without a kernel: by the divergence of the score, exact or along `probes` random directions.

    The network is differentiated twice, in full precision: two to four times the work.
    """

    full_precision = True

    def __init__(self, times: Times, weight: Weight = "std", divergence: Divergence = "exact", probes: int = 1):
        super().__init__(times, weight)
        if divergence not in ("exact", "rademacher", "gaussian"):
            raise unknown("divergence", divergence, ["exact", "rademacher", "gaussian"])
        if probes < 1:
            raise UsageProblem(f"probes is {probes}, but the divergence needs at least 1")
        self.divergence, self.probes = divergence, probes

    def directions(self, process: Curved, x: Tensor, rng: Rng) -> Tensor:
        """What the divergence is measured along, (count, batch, ambient)."""
        if self.divergence == "exact":
            return process.manifold.frame(x)
        if self.divergence == "gaussian":
            return rng.normal(self.probes, x.shape[1], dtype=x.dtype).to(x.device).transpose(0, 1)
        return (2 * rng.integers(2, self.probes, x.shape[1]) - 1).to(x).transpose(0, 1)

    def error(self, denoiser, process: Curved, known: Tensor, xt: Tensor, t: Tensor, cond: Cond, rng: Rng) -> Tensor:
        along = self.directions(process, xt, rng)
        with torch.autocast(xt.device.type, enabled=False):
            score, spread = divergence(
                process.manifold, lambda x: denoiser(x, t, cond).score, xt, along, create_graph=True
            )
        return sum_event(score.square()) + 2 * spread / (1 if self.divergence == "exact" else self.probes)
