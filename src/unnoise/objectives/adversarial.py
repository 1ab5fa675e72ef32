r"""Denoising against a critic: for each step of a short chain, fake (x_s, x_t) must look like true ones (2112.07804).

true: x_s ~ q(x_s | x_0), x_t ~ q(x_t | x_s);    fake: x_0' = G(x_t, z), x_s' ~ q(x_s | x_t, x_0')
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoisers.adversarial import AdversarialDenoiser
from ..denoisers.denoiser import Cond
from ..errors import UsageProblem
from ..laws import sum_event
from ..rng import Rng
from .objective import Loss, Objective
from .times import UniformSteps


class Adversarial(Objective):
    r"""L_D = softplus(-D(x_s, x_t)) + softplus(D(x_s', x_t)) + gamma/2 |grad_{x_s} D(x_s, x_t)|^2,
    L_G = softplus(-D(x_s', x_t)).

    steps    T of the chain; each example draws its own step.
    gamma    weight of the penalty on the critic's gradient at true pairs.
    lazy     the penalty is computed for one in `lazy` examples of each batch, and not multiplied by that: what the authors do
             at one in `lazy` batches.
    critic   AdamW's options for the critic, in place of the run's own.
    """

    turns = ("critic", "denoiser")

    def __init__(self, steps: int, gamma: float, lazy: int, critic: dict):
        super().__init__()
        if gamma < 0 or lazy < 1:
            raise UsageProblem(f"gamma is {gamma} and lazy {lazy}, but gamma must be 0 or more, lazy 1 or more")
        self.times, self.gamma, self.lazy = UniformSteps(steps), gamma, lazy
        self.turn_options = {"critic": critic}

    def parameters_of(self, denoiser: Any, turn: str) -> Iterable[nn.Parameter]:
        return denoiser.critic.parameters() if turn == "critic" else denoiser.network.parameters()

    def forward(self, denoiser: AdversarialDenoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        t, _ = self.times.sample(process, rng)
        s = t - 1 / self.times.steps
        xs = process.corrupt(x0, s, rng)
        xt = process.transition(xs, s, t).sample(rng).to(x0.dtype)
        fake = partial(self._fake, denoiser, x0, xs, xt, t, s, cond, rng)
        if turn == "denoiser":
            return Loss(F.softplus(-denoiser.logits(fake(), xt, t)))
        with torch.no_grad():
            fake = fake()
        real, false = denoiser.logits(xs, xt, t), denoiser.logits(fake, xt, t)
        loss = F.softplus(-real) + F.softplus(false)
        right = ((real > 0).float() + (false < 0).float()) / 2
        if not self.gamma:
            return Loss(loss, {"right": right})
        penalty = self._penalty(denoiser, xs, xt, t)
        return Loss(loss + penalty, {"right": right, "penalty": penalty})

    def _fake(self, denoiser: AdversarialDenoiser, x0, xs, xt, t, s, cond: Cond, rng: Rng) -> Tensor:
        """x_s' ~ q(x_s | x_t, x_0'), with the noise that x_s itself has beside the mean of q(x_s | x_t, x_0)."""
        guess, posterior = denoiser(xt, t, cond).draw(rng), denoiser.process.posterior
        return (xs + posterior(xt, guess, t, s).mean - posterior(xt, x0, t, s).mean).to(xt.dtype)

    def _penalty(self, denoiser: AdversarialDenoiser, xs: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """gamma/2 |grad D|^2 for the first of the examples, 0 for the others; in full precision, as it is differentiated again."""
        some = max(1, len(xs) // self.lazy)
        with torch.autocast(xs.device.type, enabled=False), torch.enable_grad():
            x = xs[:some].detach().float().requires_grad_()
            logits = denoiser.logits(x, xt[:some].float(), t[:some])
            (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        own = self.gamma / 2 * sum_event(gradient.square())
        return torch.cat([own, own.new_zeros(len(xs) - some)])
