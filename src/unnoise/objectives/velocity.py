r"""Score matching where noise enters the velocity alone (2112.07068).

    E_t mean_d (eps_v - eps_guess)^2,    u_t = mean + L eps,    eps_guess = -score_v(u_t, x_0 guess) / ell,    1/ell = L_vv

*Hybrid*: the velocity's beginning is integrated out of mean and L, so that the score does not run away as t -> 0. *Denoising*:
v_0 is drawn, and both are given it; of the same minimiser, the true score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..denoisers.guidance import drop
from ..errors import UsageProblem
from ..laws import mixed
from ..processes import CriticallyDamped
from ..rng import Rng
from ..scalars import column
from .matching import mean_event
from .objective import Loss, Objective
from .times import Times


class VelocityMatching(Objective):
    """See the head of the file.

    times       the distribution of t.
    hybrid      whether v_0 is integrated out (HSM) or drawn (DSM).
    likelihood  whether errors are weighted by Gamma beta ell^2, which bounds the likelihood, in place of 1.
    drop        the probability with which an example loses its condition, for classifier-free guidance.
    """

    def __init__(self, times: Times, hybrid: bool = True, likelihood: bool = False, drop: float = 0.0):
        super().__init__()
        self.times, self.hybrid, self.likelihood, self.drop = times, hybrid, likelihood, drop

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        if not isinstance(process, CriticallyDamped):
            raise UsageProblem(f"a {type(process).__name__} process has no velocity whose score could be matched")
        t, importance = self.times.sample(process, rng)
        if self.drop > 0:
            cond = drop(cond, rng.bernoulli(self.drop))
        unweighted = self.at(denoiser, x0, t, cond, rng)
        return Loss(importance.to(x0.dtype) * unweighted, t=t, unweighted=unweighted.detach())

    def at(self, denoiser: Denoiser, x0: Tensor, t: Tensor, cond: Cond, rng: Rng) -> Tensor:
        """The loss (batch,) at given times."""
        process: CriticallyDamped = denoiser.process  # type: ignore[assignment]
        point = process.at(t)
        if self.hybrid:
            law = process.marginal(x0, point)
        else:
            v0 = (process.gamma * process.mass) ** 0.5 * rng.normal_like(x0)
            law = process.given(x0, v0, point)
        eps = rng.normal_like(law.mean)
        u = law.mean + mixed(law.root, eps)
        score = process.score(u, denoiser(u, t, cond).mean, point)[:, 1]
        narrow = law.root[:, 1, 1]  # 1/ell
        error = eps[:, 1] + column(narrow.to(u), score) * score
        weight = process.friction * point.beta / narrow**2 if self.likelihood else torch.ones_like(t)
        return weight.to(x0.dtype) * mean_event(error.square())

    def observe(self, loss: Loss) -> None:
        if loss.t is not None and loss.unweighted is not None:
            self.times.observe(loss.t, loss.unweighted)
