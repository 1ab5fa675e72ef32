r"""Score matching that never looks at the noise, and data with their grey levels spread.

Denoising score matching is `Matching`: comparing "score" is it, comparing "eps" is it weighted by sigma^2 (1907.05600). Both want
the noise that was added. Integration by parts leaves an expression in x_t alone,

    E |sigma s + eps|^2 = D + 2 sigma^2 E[div s + |s|^2 / 2],        div s = E_v[v^T (ds/dx) v],

whose divergence is measured along random v with E[v v^T] = 1: sliced score matching, in its form of smaller variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..denoisers.guidance import drop
from ..errors import UsageProblem
from ..likelihood.dequantise import Uniform
from ..processes import Gaussian
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import Scalar
from ..scalars import times as multiplied
from .matching import Matching, mean_event
from .objective import Around, Loss
from .times import Times


class Sliced(Matching):
    r"""E_t u(t) {1 + 2 sigma^2 mean_d [v (ds/dx) v + s^2 / 2]}: in expectation the loss of `Matching("eps")`.

    projections  vectors v for each example, "rademacher" or "gaussian".

    The network is differentiated twice, in full precision: about three times the work.
    """

    full_precision = True

    def __init__(
        self,
        times: Times,
        weighting: str | Callable[[Point], Scalar] = "constant",
        drop: float = 0.0,
        projections: int = 1,
        vectors: Literal["rademacher", "gaussian"] = "rademacher",
    ):
        super().__init__("eps", times, weighting, drop)
        if projections < 1:
            raise UsageProblem(f"projections is {projections}, but sliced score matching needs at least 1")
        if vectors not in ("rademacher", "gaussian"):
            raise UsageProblem(f"vectors is {vectors!r}, but takes rademacher or gaussian")
        self.projections, self.vectors = projections, vectors

    def directions(self, x: Tensor, rng: Rng) -> list[Tensor]:
        """v, each of the shape of x."""
        if self.vectors == "gaussian":
            return [rng.normal_like(x) for _ in range(self.projections)]
        return [(2 * rng.integers(2, *x.shape[1:]) - 1).to(x) for _ in range(self.projections)]

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        if not isinstance(process, Gaussian):
            raise UsageProblem(f"a {type(process).__name__} process has no score of noisy data to match")
        t, importance = self.times.sample(process, rng)
        if self.drop > 0:
            cond = drop(cond, rng.bernoulli(self.drop))
        xt = process.corrupt(x0, t, rng)
        unweighted = self.estimate(denoiser, xt, t, cond, self.directions(xt, rng))
        return Loss(importance.to(x0.dtype) * unweighted, t=t, unweighted=unweighted.detach())

    def estimate(self, denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond, directions: Sequence[Tensor]) -> Tensor:
        """The loss (batch,) at given states, times and directions."""
        process: Gaussian = denoiser.process  # type: ignore[assignment]
        point = process.with_derivatives(t, xt)
        with torch.enable_grad(), torch.autocast(xt.device.type, enabled=False):
            x = xt.detach().requires_grad_()
            scaled = -process.noise(x, denoiser(x, t, cond).mean, point)  # sigma s
            pulled = [torch.autograd.grad((scaled * v).sum(), x, create_graph=True)[0] * v for v in directions]
        divergence = multiplied(point.sigma, torch.stack(pulled).mean(0))
        weight = self.weight(point, self.relation(denoiser, point)[1], self.times.density(process, t))
        weight = torch.as_tensor(weight, dtype=torch.float64, device=xt.device).reshape(-1).to(xt.dtype)
        return weight * (1 + mean_event(2 * divergence + scaled.square()))


class Dequantised(Around):
    """An objective on data whose grey levels, `levels` of them in [-1, 1], are spread evenly over their bins."""

    def __init__(self, objective, levels: int):
        super().__init__(objective)
        self.levels, self.spread = levels, Uniform()

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        return self.objective(denoiser, self.spread(x0, self.levels, rng)[0].to(x0.dtype), cond, rng, turn)
