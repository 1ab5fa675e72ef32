"""A denoiser that draws its guess: a network with a random vector beside its input, so that the guess may have many modes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..laws import Dirac, Implicit, Law
from ..processes import Gaussian
from ..rng import Rng
from ..schedules import FromBetas
from .denoiser import Cond, Denoiser


class AdversarialDenoiser(Denoiser):
    r"""x_0 = tanh(G(x_t, z, i)), z ~ N(0, 1), i = t T - 1 the step walked to: a law of x_0 of which there are draws only.

    With `latent` 0 there is no z and the guess is a point. `critic(cat(x_s, x_t), i)` is the discriminator that it is trained
    against; sampling does not use it.
    """

    def __init__(self, network: nn.Module, critic: nn.Module, process: Gaussian[FromBetas], latent: int):
        super().__init__()
        self.network, self.critic, self.process, self.latent = network, critic, process, latent

    def target(self, t: Tensor) -> Tensor:
        """The index of the step that is walked to, (batch,) float32."""
        schedule: FromBetas = self.process.schedule  # type: ignore[assignment]
        return (t * schedule.steps).round().float() - 1

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Law:
        def guess(z: Tensor | None) -> Tensor:
            said = dict(cond or {}) | ({} if z is None else {"latent": z})
            output = self.network(xt.float(), self.target(t), said or None)
            return torch.tanh(output.to(xt.dtype))

        def draws(rng: Rng) -> Tensor:
            return guess(rng.normal(self.latent))

        return Implicit(draws) if self.latent else Dirac(guess(None))

    def logits(self, xs: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """How real the critic holds x_s for, of all that x_t may have come from; (batch,)."""
        return self.critic(torch.cat([xs, xt], dim=1), self.target(t))
