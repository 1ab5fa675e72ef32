r"""EDM: the design space of diffusion models taken apart, and each choice made on its own merits.

D(x; sigma) = c_skip x + c_out F(c_in x; c_noise),   ln sigma ~ N(-1.2, 1.2^2) in training,   Heun steps on a rho = 7 grid
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..networks import UNetOptions, published
from ..objectives import Augmented, LogNormal, Matching, Objective
from ..objectives.augment import PARAMETERS
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec, Training
from ..samplers import Churn, Heun, Karras
from ..schedules import EDM as Schedule
from ..training.options import TrainingOptions
from . import paper


@paper(
    "2206.00364",
    "Elucidating the Design Space of Diffusion-Based Generative Models",
    "Tero Karras, Miika Aittala, Timo Aila, Samuli Laine",
    2022,
    "NeurIPS 2022",
)
@dataclass(frozen=True)
class EDM(Recipe):
    """Noise level as time, unit-variance preconditioning, log-normal training noise, second-order sampling."""

    conditional: bool = True
    preconditioning: Literal["edm", "vp", "ve", "iddpm"] = "edm"
    """The column of the paper's table 1; all but EDM's predict the noise."""
    augment: float = 0.0
    """Probability of each kind of augmentation, of which the network is told; 0 for none."""
    sigma_data: float | None = None
    """Standard deviation of the data in [-1, 1]; measured if not given (the paper: 0.5)."""
    p_mean: float = -1.2
    """Mean of ln sigma in training."""
    p_std: float = 1.2
    """Standard deviation of ln sigma in training."""
    sigma_min: float = 0.002
    """Smallest noise level of the sampler."""
    sigma_max: float = 80.0
    """Largest noise level."""
    sampling_steps: int = 18
    """Steps of the sampler: twice as many evaluations, less one."""
    s_churn: float = 0.0
    """Noise added while sampling; 0 samples deterministically."""
    network: UNetOptions = field(
        default_factory=lambda: UNetOptions(channels=32, mult=(1, 2, 2), blocks=2, attention=(4,))
    )
    training: Training = field(
        default_factory=lambda: TrainingOptions(
            steps=4000, batch_size=64, lr=2e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=500
        )
    )

    @classmethod
    def paper(cls) -> EDM:
        """CIFAR-10, class-conditional, 200 million images: FID 1.79 with 35 evaluations."""
        return cls(
            data="cifar10",
            augment=0.12,
            sigma_data=0.5,
            network=published.EDM_DDPMPP_CIFAR10,
            training=TrainingOptions(
                steps=390_625,
                batch_size=512,
                lr=1e-3,
                warmup=19_531,
                clip=None,
                ema=500_000,
                ema_rampup=0.05,
                precision="fp32",
                checkpoint_every=5000,
                preview_every=5000,
                log_every=50,
            ),
        )

    def process(self) -> Gaussian:
        return Gaussian(Schedule(self.sigma_max))

    def denoiser(self, spec: Spec) -> Denoiser:
        columns = {"vp": pre.VP, "ve": pre.VE, "iddpm": pre.IDDPM}
        edm = self.preconditioning == "edm"
        chosen = pre.EDM(self.sigma_data or spec.std) if edm else columns[self.preconditioning]()
        return NetworkDenoiser(self.build_network(spec), self.process(), chosen)

    def build_network(self, spec: Spec, outputs: int = 1):
        network = replace(self.network, augment=PARAMETERS if self.augment else 0)
        return super(EDM, replace(self, network=network)).build_network(spec, outputs)

    def lesson(self, spec: Spec) -> Objective:
        objective = super().lesson(spec)
        return Augmented(objective, self.augment) if self.augment else objective

    def objective(self, spec: Spec) -> Objective:
        return Matching("F", LogNormal(self.p_mean, self.p_std))  # the weight 1 / c_out^2 makes it a plain error in F

    def sampling(self) -> Sampling:
        step = Churn(s_churn=self.s_churn) if self.s_churn else Heun()
        return Sampling(step, Karras(self.sampling_steps, self.sigma_min))
