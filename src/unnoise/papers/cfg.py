r"""Classifier-free guidance: one network, conditional and unconditional, extrapolated between the two.

eps~ = eps(z, null) + weight (eps(z, c) - eps(z, null));   the paper's w is weight - 1
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..networks import UNetOptions, published
from ..objectives import Matching, Objective, Uniform
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec, Training
from ..samplers import Ancestral
from ..samplers import Uniform as Grid
from ..schedules import Cosine
from ..training.options import TrainingOptions
from . import paper


@paper(
    "2207.12598",
    "Classifier-Free Diffusion Guidance",
    "Jonathan Ho, Tim Salimans",
    2022,
    "NeurIPS 2021 workshop on deep generative models",
)
@dataclass(frozen=True)
class CFG(Recipe):
    """Drop the label now and then in training; when sampling, push the guess away from the unconditional one."""

    conditional: bool = True
    drop: float = 0.1
    """Probability with which an example loses its label in training."""
    guidance: float = 2.0
    """Weight of guidance: 1 conditional, 0 unconditional (the paper's w, plus 1)."""
    log_snr_max: float = 20.0
    """The log-SNR runs from this to minus this."""
    mix: float = 0.3
    """Between the smallest (0) and the largest (1) reverse variance, in the logarithm: the paper's v."""
    sampling_steps: int = 128
    """Steps of the sampler."""
    network: UNetOptions = field(
        default_factory=lambda: UNetOptions(channels=32, mult=(1, 2, 2), blocks=2, attention=(4,))
    )
    training: Training = field(
        default_factory=lambda: TrainingOptions(
            steps=4000, batch_size=64, lr=1e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=500
        )
    )

    @classmethod
    def paper(cls) -> CFG:
        """ImageNet at 64x64, 400k steps."""
        return cls(
            data="hf:ILSVRC/imagenet-1k",
            guidance=1.1,
            sampling_steps=256,
            network=published.ADM_IMAGENET64,
            training=TrainingOptions(
                steps=400_000,
                batch_size=2048,
                lr=3e-4,
                ema=14_200_000,  # 0.9999 a step
                ema_rampup=None,
                checkpoint_every=5000,
                preview_every=5000,
                log_every=50,
            ),
        )

    def process(self) -> Gaussian:
        return Gaussian(Cosine(-self.log_snr_max, self.log_snr_max))

    def denoiser(self, spec: Spec) -> Denoiser:
        return NetworkDenoiser(self.build_network(spec), self.process(), pre.Raw("eps", told="log_snr", scale=25.0))

    def objective(self, spec: Spec) -> Objective:
        # Uniform t on this schedule is the paper's distribution of the log-SNR, a truncated hyperbolic secant.
        return Matching("eps", Uniform(), drop=self.drop)

    def sampling(self) -> Sampling:
        grid = Grid(self.sampling_steps, through_zero=True)
        return Sampling(Ancestral(mix=self.mix), grid, guidance=self.guidance, threshold="clip")
