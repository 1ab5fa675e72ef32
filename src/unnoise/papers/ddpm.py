r"""DDPM: a fixed chain of small noisings, undone by a U-Net that predicts the noise.

q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t),   L_simple = E_{t, x_0, eps} |eps - eps_theta(x_t, t)|^2
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..likelihood import Discretised
from ..networks import UNetOptions, published
from ..objectives import Bound, Matching, Objective, UniformSteps
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec, Training
from ..samplers import Ancestral, Integers
from ..schedules import FromBetas, linear_betas
from ..training.options import TrainingOptions
from . import paper


@paper(
    "2006.11239",
    "Denoising Diffusion Probabilistic Models",
    "Jonathan Ho, Ajay Jain, Pieter Abbeel",
    2020,
    "NeurIPS 2020",
)
@dataclass(frozen=True)
class DDPM(Recipe):
    """Predict the noise of a fixed chain with an unweighted loss; sample by walking the chain back."""

    timesteps: int = 1000
    """Length T of the chain."""
    predict: Literal["eps", "x0", "v", "mean"] = "eps"
    """What the network predicts, and what is compared."""
    loss: Literal["simple", "bound"] = "simple"
    """The unweighted error, or the true variational bound."""
    variance: Literal["small", "large"] = "large"
    """The fixed variance of the reverse steps: beta~ or beta."""
    network: UNetOptions = field(
        default_factory=lambda: UNetOptions(channels=32, mult=(1, 2, 2), blocks=2, attention=(4,))
    )
    training: Training = field(
        default_factory=lambda: TrainingOptions(
            steps=4000, batch_size=64, lr=1e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=500
        )
    )

    @classmethod
    def paper(cls) -> DDPM:
        """CIFAR-10, 800k steps: FID 3.17 with 1000 sampling steps."""
        return cls(
            data="cifar10",
            flip=True,
            network=published.DDPM_CIFAR10,
            training=TrainingOptions(
                steps=800_000,
                batch_size=128,
                lr=2e-4,
                warmup=5000,
                ema=887_000,  # 0.9999 a step
                ema_rampup=None,
                checkpoint_every=10_000,
                preview_every=10_000,
                log_every=50,
            ),
        )

    def schedule(self) -> FromBetas:
        return FromBetas(linear_betas(self.timesteps))

    def process(self) -> Gaussian:
        return Gaussian(self.schedule())

    def reverse(self) -> Ancestral:
        return Ancestral(variance=self.variance)

    def denoiser(self, spec: Spec) -> Denoiser:
        process = self.process()
        return NetworkDenoiser(self.build_network(spec), process, pre.DDPM(process.schedule, self.predict))

    def objective(self, spec: Spec) -> Objective:
        times = UniformSteps(self.timesteps)
        if self.loss == "bound":
            return Bound(self.timesteps, times, self.reverse(), Discretised(spec.levels))
        return Matching("F", times)

    def sampling(self) -> Sampling:
        return Sampling(self.reverse(), Integers(self.timesteps), threshold="clip")
