r"""DDIM: DDPM's network, sampled on few of its steps, deterministically.

    x_s = alpha_s x_0_guess + sqrt(sigma_s^2 - c^2) eps_guess + c z,   c = eta sigma_s sqrt(1 - r)

eta = 1 is DDPM's ancestral step, eta = 0 an ODE step: same noise, same picture, whatever the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..recipe import Sampling
from ..samplers import DDIM as Step
from ..samplers import Integers
from . import paper
from .ddpm import DDPM


@paper(
    "2010.02502",
    "Denoising Diffusion Implicit Models",
    "Jiaming Song, Chenlin Meng, Stefano Ermon",
    2020,
    "ICLR 2021",
)
@dataclass(frozen=True)
class DDIM(DDPM):
    """The same training as DDPM; a deterministic, invertible sampler for 10 to 100 steps."""

    eta: float = 0.0
    """Share of fresh noise: 0 deterministic, 1 the Markov chain."""
    sampling_steps: int = 50
    """Steps of the sampler."""

    def sampling(self) -> Sampling:
        return Sampling(Step(eta=self.eta), Integers(self.sampling_steps, spacing="both"))
