r"""Denoising: compare the guess with the truth in some kind of prediction, weight the error, choose the times.

For any kind F = p x_t + q x_0 (see denoisers/preconditioning.py) the two sides share x_t, so

    F_guess - F_true = q (x_0_guess - x_0).

What is compared is therefore a weighting of the error in x_0, and one formula serves eps, v, x_0, score and EDM's F.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..couplings import Coupling
from ..denoisers.denoiser import Cond, Denoiser, NetworkDenoiser
from ..denoisers.guidance import drop
from ..denoisers.preconditioning import KINDS, relation
from ..errors import UsageProblem, unknown
from ..processes import Process
from ..processes.gaussian import Point
from ..rng import Rng
from ..scalars import Scalar, plus, times
from .objective import Loss, Objective
from .times import Times
from .weightings import NAMED, Weighting

WEIGHTINGS: dict[str, Callable[[Point], Scalar]] = {"constant": lambda c: 1.0, **NAMED}
"""By name: "constant" weights what is compared; the others weight the error in eps, whatever is compared."""


def mean_event(x: Tensor) -> Tensor:
    """Mean over all axes but the first."""
    return x.flatten(1).mean(1)


class Matching(Objective):
    r"""E_t weight(t) mean_d (F_guess - F_true)^2, or |F_guess - F_true|, with F the kind that is compared.

    compare   "eps", "x0", "v", "score", "velocity", or "F": the output of the denoiser's own network.
    weighting a name of WEIGHTINGS, a `Weighting` with its parameters, or any function of the point (its log_snr, alpha, sigma).
    times     the distribution of t.
    drop      the probability with which an example loses its condition, for classifier-free guidance.
    coupling  which noise goes with which data; drawn independently, if left out.
    norm      "l2" the square of the error, "l1" its absolute value, which is least at the median instead of the mean.
    """

    def __init__(
        self,
        compare: str,
        times: Times,
        weighting: str | Callable[[Point], Scalar] = "constant",
        drop: float = 0.0,
        coupling: Coupling | None = None,
        norm: Literal["l1", "l2"] = "l2",
    ):
        super().__init__()
        if isinstance(weighting, str) and weighting not in WEIGHTINGS:
            raise unknown("weighting", weighting, WEIGHTINGS)
        if not 0 <= drop <= 1:
            raise UsageProblem(f"the probability of dropping the condition is {drop}, but must lie in [0, 1]")
        if compare not in (*KINDS, "F"):
            raise unknown("kind of prediction", compare, [*KINDS, "F"])
        if norm not in ("l1", "l2"):
            raise unknown("norm", norm, ("l1", "l2"))
        self.compare, self.times, self.drop, self.coupling, self.norm = compare, times, drop, coupling, norm
        self.weighting = WEIGHTINGS[weighting] if isinstance(weighting, str) else weighting

    def relation(self, denoiser: Denoiser | Process, point: Point) -> tuple[Scalar, Scalar]:
        """(p, q) of what is compared."""
        if self.compare == "F":
            if not isinstance(denoiser, NetworkDenoiser):
                raise UsageProblem(
                    f"a {type(denoiser).__name__} has no network output F to compare; compare eps, x0 or v instead"
                )
            return denoiser.preconditioning.relation(point)
        return relation(self.compare, point)

    def weight(self, point: Point, q: Scalar, density: Tensor) -> Scalar:
        """The factor on the squared error of what is compared, for times drawn with `density` over t."""
        if isinstance(self.weighting, Weighting):
            return self.weighting.on(point, q, density)
        return self.weighting(point)

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        t, importance = self.times.sample(process, rng)
        eps = None
        if self.coupling is not None:
            x0, cond, eps = self.coupling(x0, cond, rng)
        if self.drop > 0:
            cond = drop(cond, rng.bernoulli(self.drop))
        law = process.marginal(x0, t)
        xt = law.sample(rng) if eps is None else plus(law.mean, law.std, eps)  # type: ignore[attr-defined]
        return self.compare_at(denoiser, x0, xt, t, cond, importance)

    def compare_at(self, denoiser: Denoiser, x0: Tensor, xt: Tensor, t: Tensor, cond: Cond, importance: Tensor) -> Loss:
        """The loss at given times and states."""
        point = denoiser.process.with_derivatives(t, xt)
        _, q = self.relation(denoiser, point)
        error = denoiser.process.state(denoiser(xt, t, cond).mean - x0)
        weight = self.weight(point, q, self.times.density(denoiser.process, t))
        weight = torch.as_tensor(weight, dtype=torch.float64, device=x0.device).reshape(-1)
        compared = times(q, error)
        unweighted = weight.to(x0.dtype) * mean_event(compared.abs() if self.norm == "l1" else compared.square())
        return Loss(importance.to(x0.dtype) * unweighted, t=t, unweighted=unweighted.detach())

    def on_eps(self, on: Denoiser | Process, t: Tensor) -> tuple[Tensor, Times]:
        if self.norm != "l2":
            raise UsageProblem("this loss is of absolute errors, so it implies no weighting of squared ones")
        process = on if isinstance(on, Process) else on.process
        point = process.with_derivatives(t, torch.zeros(len(t), 1, 1, 1, dtype=torch.float64))  # type: ignore[attr-defined]
        _, q = self.relation(on, point)
        compared = self.weight(point, q, self.times.density(process, t))
        on_eps = torch.as_tensor(compared * (torch.as_tensor(q) / relation("eps", point)[1]) ** 2)
        rows = on_eps.double().expand(len(t), *on_eps.shape[1:] or (1,)).flatten(1)
        if not torch.allclose(rows, rows[:, :1]):
            raise UsageProblem(
                "this loss weights each frequency of the noise in its own way, so it implies no one weighting of log-SNR"
            )
        return rows[:, 0], self.times

    def observe(self, loss: Loss) -> None:
        if loss.t is not None and loss.unweighted is not None:
            self.times.observe(loss.t, loss.unweighted)
