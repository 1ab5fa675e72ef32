r"""EDM: the design space of diffusion models taken apart, and each choice made on its own merits.

D(x; sigma) = c_skip x + c_out F(c_in x; c_noise),   ln sigma ~ N(-1.2, 1.2^2) in training,   Heun steps on a rho = 7 grid
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..networks import published
from ..objectives import Augmented, LogNormal, Matching, Objective
from ..objectives.augment import PARAMETERS
from ..oracles import Mixture
from ..processes import Gaussian
from ..recipe import LAPTOP_TRAINING, Recipe, Sampling, Spec, Training
from ..rng import Rng
from ..samplers import Churn, Euler, Heun, Karras, sample
from ..schedules import EDM as Schedule
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
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
    training: Training = replace(LAPTOP_TRAINING, lr=2e-3)

    @classmethod
    def paper(cls) -> Self:
        """CIFAR-10, class-conditional, 200 million images: FID 1.79 with 35 evaluations."""
        return cls(
            data="cifar10",
            augment=0.12,
            sigma_data=0.5,
            network=published.EDM_DDPMPP_CIFAR10,
            training=replace(
                PUBLISHED,
                steps=390_625,
                batch_size=512,
                lr=1e-3,
                warmup=19_531,
                clip=None,
                ema=500_000,
                ema_rampup=0.05,
                precision="fp32",
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


# Exact checks.


@check(EDM, "c_in^2 (sigma^2 + sigma_data^2) at sigma = 3", "table 1", tolerance=1e-12)
def unit_input():
    point, p = Gaussian(Schedule()).point(3 / 80), pre.EDM(0.5)
    return p.c_in(point) ** 2 * (3**2 + 0.5**2), 1.0


@check(EDM, "weight times c_out^2 at sigma = 3: the loss is a plain error in F", "table 1", tolerance=1e-12)
def unit_loss():
    point, p = Gaussian(Schedule()).point(3 / 80), pre.EDM(0.5)
    return (3**2 + 0.5**2) / (3 * 0.5) ** 2 / p.relation(point)[1] ** 2, 1.0


def _order(step):
    """Order of convergence on a two-point-mixture's flow, by halving the steps from 96 to 192."""
    data = Mixture(torch.tensor([[-1.0], [0.6]]), torch.tensor([[0.2], [0.1]]))
    denoiser = data.denoiser(Gaussian(Schedule()))
    start = torch.tensor([[-70.0], [-10.0], [25.0], [90.0]], dtype=torch.float64)

    def end(n):  # without the last step, to data, which is the same for all
        return sample(denoiser, step, lambda p: Karras(n)(p)[:-1], start.shape, start=start, dtype=torch.float64)

    reference = end(1536)
    errors = [(end(n) - reference).norm().item() for n in (96, 192)]
    return math.log2(errors[0] / errors[1])


@check(EDM, "order of Euler's method on the rho = 7 grid", "section 3", tolerance=0.15)
def euler_is_first_order():
    return _order(Euler()), 1.0


@check(EDM, "order of Heun's method on the rho = 7 grid", "section 3", tolerance=0.15)
def heun_is_second_order():
    return _order(Heun()), 2.0


# Claims, on the 8x8 digits: a network of 0.8 M parameters, 800 steps of 64 images.


def _digits(lab, seed, **options):
    return lab.digits(EDM, seed, steps=800, **options)


def _compare(lab, better, worse, count=64):
    """Mean distance of pictures to those of 256 steps of Heun from the same noise, for two solvers."""
    found = {"a": [], "b": []}
    for seed in lab.seeds:
        model = _digits(lab, seed)
        fine = lab.samples(model, count, Sampling(Heun(), Karras(256)))
        for name, (step, grid) in zip(found, (better, worse), strict=True):
            error = lab.samples(model, count, Sampling(step, grid)) - fine
            found[name].append(float(error.flatten(1).square().mean(1).sqrt().mean()))
    margins = [b - a for a, b in zip(*found.values(), strict=True)]
    return Finding.over_seeds(margins, {"measure": f"mean RMSE of {count} pictures, first and second named", **found})


@claim(EDM, "With 35 evaluations, the paper's number, Heun is closer to the exact flow than Euler", "section 3")
def heun_beats_euler_at_35(lab) -> Finding:
    return _compare(lab, (Heun(), Karras(18)), (Euler(), Karras(35)))


@claim(EDM, "With 19 evaluations, Heun is closer to the exact flow than Euler already", "section 3")
def heun_beats_euler_at_19(lab) -> Finding:
    return _compare(lab, (Heun(), Karras(10)), (Euler(), Karras(19)))


@claim(
    EDM,
    "With 19 evaluations of Heun, the rho = 7 grid is closer to the exact flow than rho = 1",
    "section 3, appendix D.1",
)
def rho_seven_beats_one(lab) -> Finding:
    return _compare(lab, (Heun(), Karras(10)), (Heun(), Karras(10, rho=1.0)))


@torch.no_grad()
def _error_at(lab, model, sigma):
    """Mean square error of D on held-out digits at one noise level."""
    x0 = lab.held_out("digits")
    process, labels = model.denoiser.process, lab.data("digits", "held-out").labels
    t = torch.full((len(x0),), sigma / process.schedule.sigma_max, dtype=torch.float64)
    xt = process.corrupt(x0, t, Rng.from_seeds(range(len(x0))))
    return float((model.denoiser(xt, t, {"label": labels}).mean - x0).square().mean())


@claim(EDM, "Preconditioning lowers the error at large noise, against predicting the noise", "section 5, table 2")
def preconditioning_helps_at_large_noise(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        found = {
            (column, sigma): _error_at(lab, _digits(lab, seed, preconditioning=column), sigma)
            for column in ("edm", "vp")
            for sigma in (5.0, 20.0, 80.0)
        }
        margins.append(min(found["vp", s] / found["edm", s] - 1 for s in (5.0, 20.0, 80.0)))
        numbers[f"seed {seed}"] = {f"{column}, sigma {sigma:g}": v for (column, sigma), v in found.items()}
    return Finding.over_seeds(margins, {"measure": "held-out square error of D", **numbers})


@torch.no_grad()
def _held_out_loss(lab, model):
    """The training loss on held-out digits, 20 noisings each, without augmentation."""
    data = lab.data("digits", "held-out")
    batch = data.batch(range(len(data)))
    x0, cond = batch.x, model.recipe.condition(batch)
    objective = model.recipe.objective(model.spec)
    draws = [objective(model.denoiser, x0, cond, Rng.for_step(7, i, range(len(x0)))) for i in range(20)]
    return float(torch.cat([d.per_example for d in draws]).mean())


@claim(EDM, "On 500 images, augmentation and labels lower the held-out loss", "section 5, table 2")
def augmentation_helps_small_data(lab) -> Finding:
    runs = {"plain": {"conditional": False}, "augmented": {"augment": 0.12}}
    found = {
        name: [_held_out_loss(lab, _digits(lab, seed, limit=500, **options)) for seed in lab.seeds]
        for name, options in runs.items()
    }
    margins = [a - b for a, b in zip(found["plain"], found["augmented"], strict=True)]
    return Finding.over_seeds(margins, {"measure": "held-out loss in F, 293 digits", **found})


untestable(
    EDM,
    "CIFAR-10 FID 1.79 class-conditional with 35 evaluations",
    "table 2",
    "needs 200 million images through a network of 55.7 M parameters: two days of eight V100",
)
untestable(
    EDM,
    "churn improves FID on ImageNet 64x64 (1.36 with 511 evaluations)",
    "section 5",
    "the benefit shows in FID differences of a tenth on a model of 296 M parameters",
)
