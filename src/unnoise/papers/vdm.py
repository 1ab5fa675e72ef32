r"""Variational diffusion models: the bound written in log-SNR, with a schedule that is learned.

-log p(x) <= KL(q(z_1 | x) || N(0, I)) + 1/2 E_t[gamma'(t) |eps - eps_guess(z_t, gamma(t))|^2] - E[log p(x | z_0)]

with gamma = -log-SNR. The middle term is 1/2 int |eps - eps_guess|^2 dgamma: the ends of gamma(t) are learned by the bound, what
lies between them can only lower the variance of its estimate, and is learned by that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..likelihood import diffusion_nats
from ..likelihood.clock import Clock
from ..likelihood.continuous import prior_nats, reconstruction_nats
from ..networks import UNetOptions
from ..networks.embeddings import Waves
from ..objectives import VLB, Objective, Stratified, Times, Uniform
from ..oracles import gaussian
from ..processes import Gaussian
from ..recipe import LAPTOP_TRAINING, Recipe, Sampling, Spec, Training
from ..rng import Rng, stream
from ..samplers import Ancestral
from ..samplers import Uniform as Grid
from ..schedules import Cosine, Learned, Schedule
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper


@paper(
    "2107.00630",
    "Variational Diffusion Models",
    "Diederik P. Kingma, Tim Salimans, Ben Poole, Jonathan Ho",
    2021,
    "NeurIPS 2021",
)
@dataclass(frozen=True)
class VDM(Recipe):
    """The variational bound in log-SNR, a learned noise schedule, and a network that sees the grey levels: likelihood."""

    schedule: Literal["network", "line", "fixed"] = "network"
    """gamma(t): a monotone network between learned ends, a line between learned ends, or a line between fixed ones."""
    log_snr_min: float = -5.0
    """The noisy end, where learned ones begin."""
    log_snr_max: float = 13.3
    """The clean end, where learned ones begin."""
    variance: bool = True
    """Whether the network of the schedule learns to lower the variance of the loss; it rests otherwise."""
    waves: bool = True
    """Whether the network sees sines and cosines of its input, one and two grey levels long."""
    chain: int | None = None
    """Steps T of the bound it is trained by; none for continuous time."""
    sampling_steps: int = 250
    """Steps of the sampler."""
    network: UNetOptions = UNetOptions(
        channels=32, mult=(1,), blocks=1, attention=(), middle_attention=False, conditioning="add", dropout=0.1
    )
    training: Training = replace(LAPTOP_TRAINING, steps=800, precision="fp32", betas=(0.9, 0.99), checkpoint_every=200)

    @classmethod
    def paper(cls) -> VDM:
        """CIFAR-10 without augmentation, 2.65 bits/dim: 32 residual blocks down and 33 up, all of them at full size."""
        return cls(
            data="cifar10",
            schedule="line",
            sampling_steps=1000,
            network=UNetOptions(
                channels=128, mult=(1,), blocks=32, attention=(), conditioning="add", dropout=0.1, embedding="sin-first"
            ),
            training=replace(
                PUBLISHED,
                steps=10_000_000,
                batch_size=128,
                lr=2e-4,
                betas=(0.9, 0.99),
                weight_decay=0.01,
                warmup=100,
                clip=None,
                ema=887_000,  # 0.9999 a step
                precision="fp32",  # in bf16 the least noise, 0.0013, is lost beside the data
            ),
        )

    def process(self) -> Gaussian:
        schedule = Learned(self.log_snr_min, self.log_snr_max, units=1024 if self.schedule == "network" else 0)
        resting = schedule.parameters() if self.schedule == "fixed" else [] if self.variance else schedule.interior
        for parameter in resting:
            parameter.requires_grad_(False)
        return Gaussian(schedule)

    def denoiser(self, spec: Spec) -> Denoiser:
        # Told the log-SNR and not t: only so does a network not notice that the schedule moves.
        told = pre.VDM(self.log_snr_min, self.log_snr_max)
        return NetworkDenoiser(self.build_network(spec), self.process(), told)

    def build_network(self, spec: Spec, outputs: int = 1) -> torch.nn.Module:
        if not self.waves:
            return super().build_network(spec, outputs)
        channels, classes = spec.shape[0], spec.num_classes if self.conditional else None
        level = (spec.levels - 1) / 2  # waves in a unit of the data, if each is one grey level long
        return Waves(self.network.build(5 * channels, outputs * channels, classes), (level / 2, level))

    def objective(self, spec: Spec) -> Objective:
        return VLB(spec.levels, self.chain, variance=self.variance)

    def sampling(self) -> Sampling:
        return Sampling(Ancestral(), Grid(self.sampling_steps, through_zero=True))


# Exact checks, on data N(0, 1/4) and their exact denoiser. The noise enters through second moments alone, so that data of
# +-1/2 and noise of +-1 stand for all.

_X0 = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], dtype=torch.float64)
_EPS = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)


def _oracle(schedule: Schedule) -> Denoiser:
    return gaussian(torch.zeros(1), 0.25).denoiser(Gaussian(schedule))


def _bent() -> Learned:
    """A schedule between the published ends that is far from a line."""
    schedule = Learned(units=16)
    schedule.height.data.mul_(40).mul_(torch.linspace(0, 2, 16, dtype=torch.float64))
    return schedule.requires_grad_(False)


def _diffusion(denoiser: Denoiser, times: Tensor, steps: int | None = None) -> float:
    """The mean of the diffusion term over these times, nats."""
    ticking, n = Clock(denoiser.process, 0.0, 1.0), len(times)  # type: ignore[arg-type]
    x0, eps = _X0.repeat(n, 1), _EPS.repeat(n, 1)
    return float(diffusion_nats(denoiser, x0, times.repeat_interleave(4), ticking, eps, steps=steps).mean())


def _midpoints(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@check(
    VDM,
    "the diffusion loss between the published ends, nats, on a bent schedule",
    "the bound in continuous time",
    tolerance=1e-6,
)
def ends_alone_matter():
    return _diffusion(_oracle(_bent()), _midpoints(4000)), 5.956015


def _chain(steps: int) -> float:
    line = Learned(units=0).requires_grad_(False)
    return _diffusion(_oracle(line), torch.arange(1, steps + 1, dtype=torch.float64) / steps, steps)


@check(
    VDM, "the diffusion loss of a chain of 10 steps, linear gamma, nats", "the bound in discrete time", tolerance=1e-4
)
def ten_steps():
    return _chain(10), 15.7276


@check(
    VDM, "the diffusion loss of a chain of 1000 steps, linear gamma, nats", "the bound in discrete time", tolerance=1e-5
)
def thousand_steps():
    return _chain(1000), 6.00624


@check(VDM, "what 8000 steps lose against continuous time, times 8000, nats", "derived", tolerance=0.1)
def first_order_from_above():
    c, a, b = 0.25, 13.3, -5.0
    mse = lambda l: c * math.exp(l) / (1 + c * math.exp(l))  # noqa: E731
    # A Riemann sum at the noisy end of each step, and e^h - 1 for h: h/2 (mse(a) - mse(b)) and h/2 int mse, twice halved.
    expected = (a - b) / 4 * (math.log1p(c * math.exp(a)) - math.log1p(c * math.exp(b)) - (mse(a) - mse(b)))
    return 8000 * (_chain(8000) - 5.956015176), expected


@check(VDM, "prior, diffusion and exact reconstruction are h(x) + KL(q(z_1) || N(0, 1)), nats", "derived", 1e-6)
def bound_is_tight():
    denoiser = _oracle(_bent())
    total = _diffusion(denoiser, _midpoints(4000))
    total += float(prior_nats(denoiser.process, _X0, 1.0).mean())  # type: ignore[arg-type]
    total += float(reconstruction_nats(denoiser, _X0, 0.0, _EPS).mean())
    return total, 0.725798


@check(VDM, "a step of the sampler, z_s = alpha_s/alpha_t (z - sigma_t c eps) and its variance", "the sampler", 1e-12)
def sampler_step():
    process = Gaussian(_bent())
    t, s = process.points([0.6, 0.5])
    z, eps = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    law = process.posterior(z, (z - t.sigma * eps) / t.alpha, t, s)
    c = -math.expm1(t.log_snr - s.log_snr)
    mean, variance = s.alpha / t.alpha * (z - t.sigma * c * eps), s.sigma**2 * c
    return float(law.mean) + law.std**2, float(mean) + variance


# Claims, on the 8x8 digits of 17 grey levels: networks of 0.2 M parameters without downsampling, 700 steps of 64 images.


def _model(lab, seed, **options):
    training = TrainingOptions(
        steps=700,
        batch_size=64,
        lr=1e-3,
        warmup=100,
        decay="linear",
        ema=20_000,
        precision="fp32",
        checkpoint_every=350,
    )
    network = UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), dropout=0.1)
    return lab.train(VDM(data="digits", network=network, training=training, **options), seed)


def _under(model, schedule: Schedule) -> Denoiser:
    """The trained network on another variance-preserving schedule: it knows the log-SNR alone."""
    denoiser = model.denoiser
    return NetworkDenoiser(denoiser.network, Gaussian(schedule), denoiser.preconditioning)


def _shapes(model) -> dict[str, Schedule]:
    """The learned schedule, and two others between its ends."""
    learned = model.denoiser.process.schedule
    low, high = float(learned.log_snr_min.detach()), float(learned.log_snr_max.detach())
    line = Learned(low, high, units=0).requires_grad_(False)
    return {"learned": learned, "line": line, "cosine": Cosine(low, high)}


@torch.no_grad()
def _losses(denoiser, x0, levels, rounds, times: Times | None = None, steps: int | None = None, key: int = 5):
    """Bits/dim of each image in `rounds` draws of time and noise: all of the bound, and its diffusion (rounds, images)."""
    objective, total, diffusion = VLB(levels, steps, times), [], []
    for i in range(rounds):
        loss = objective(denoiser, x0, None, Rng.for_step(key, i, range(len(x0))))
        total.append(loss.per_example.double())
        diffusion.append(loss.terms["diffusion"])
    return torch.stack(total), torch.stack(diffusion)


@claim(
    VDM,
    "The bound of a trained network does not depend on the schedule between its ends: it agrees within 3 standard errors",
    "invariance to the schedule",
)
def invariant_to_the_interior(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model, x0 = _model(lab, seed), lab.held_out("digits")
        found = {}
        for key, (name, schedule) in enumerate(_shapes(model).items()):
            draws = _losses(_under(model, schedule), x0, model.spec.levels, 80, key=100 + 3 * seed + key)
            means = draws[1].mean(1)  # each of noise of its own
            found[name] = {"bits/dim": float(means.mean()), "standard error": float(means.std() / 80**0.5)}
        line = found["line"]
        margins += [
            3
            - abs(found[n]["bits/dim"] - line["bits/dim"])
            / math.hypot(found[n]["standard error"], line["standard error"])
            for n in ("learned", "cosine")
        ]
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "3 - difference in standard errors, against a line", **numbers})


@torch.no_grad()
def _variance(lab, model, schedule: Schedule, rounds=20) -> float:
    """Variance of the diffusion term of one image at one time, drawn alone."""
    x0 = lab.held_out("digits")
    return float(_losses(_under(model, schedule), x0, model.spec.levels, rounds, Uniform())[1].var())


def _variances(lab, measure: str, margin) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _model(lab, seed)
        found = {name: _variance(lab, model, schedule) for name, schedule in _shapes(model).items()}
        margins.append(margin(found))
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


@claim(
    VDM,
    "It changes the variance of the bound's estimate: cosine and line differ by a tenth or more",
    "invariance to the schedule",
)
def shape_changes_the_variance(lab) -> Finding:
    measure = "variance of one draw of the diffusion term, bits/dim squared; |log ratio| above log 1.1"
    return _variances(lab, measure, lambda v: abs(math.log(v["cosine"] / v["line"])) - math.log(1.1))


@claim(
    VDM,
    "The interior that minimises the variance has less of it than a line between the same ends",
    "learning the schedule",
)
def learned_interior_lowers_the_variance(lab) -> Finding:
    measure = "variance of one draw of the diffusion term, bits/dim squared; line over learned, less 1"
    return _variances(lab, measure, lambda v: v["line"] / v["learned"] - 1)


@claim(VDM, "Times spread evenly over a batch lower the variance of its loss", "low-discrepancy times")
def even_times_lower_the_variance(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _model(lab, seed)
        x0 = lab.held_out("digits")[:64]
        found = {
            name: float(_losses(model.denoiser, x0, model.spec.levels, 150, times)[1].mean(1).var())
            for name, times in {"even": Stratified(), "independent": Uniform()}.items()
        }
        margins.append(found["independent"] / found["even"] - 1)
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "variance of the loss of 64 digits, bits/dim squared", **numbers})


@claim(VDM, "More steps tighten the bound: 10, 30, 100, 1000 steps, and continuous time", "the bound in discrete time")
def more_steps_tighten_the_bound(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model, x0 = _model(lab, seed), lab.held_out("digits")
        found = {
            steps: float(_losses(model.denoiser, x0, model.spec.levels, 20, steps=steps)[0].mean())
            for steps in (10, 30, 100, 1000, None)
        }
        bits = list(found.values())
        margins.append(min(a - b for a, b in zip(bits, bits[1:], strict=False)))
        numbers[f"seed {seed}"] = {f"{steps or 'continuous'}": value for steps, value in found.items()}
    return Finding.over_seeds(margins, {"measure": "bits/dim of 293 held-out digits, the same draws", **numbers})


@claim(
    VDM,
    "Ends that learn, from log-SNR 4 and -2, give fewer bits per dimension than the same ends fixed",
    "learning the schedule",
)
def learned_ends_save_bits(lab) -> Finding:
    margins, numbers = [], {}
    x0 = lab.held_out("digits")
    for seed in lab.seeds:
        models = {
            name: _model(lab, seed, schedule=name, log_snr_min=-2.0, log_snr_max=4.0) for name in ("line", "fixed")
        }
        bits = {n: float(_losses(m.denoiser, x0, m.spec.levels, 20)[0].mean()) for n, m in models.items()}
        margins.append(bits["fixed"] - bits["line"])
        ends = models["line"].denoiser.process.schedule
        numbers[f"seed {seed}"] = {**bits, "ends": [float(ends.log_snr_max), float(ends.log_snr_min)]}
    return Finding.over_seeds(margins, {"measure": "bits/dim of 293 held-out digits", **numbers})


@claim(VDM, "Waves of the input save bits per dimension of 8-bit images (Fashion-MNIST at 8x8)", "Fourier features")
def waves_save_bits(lab) -> Finding:
    x0, bits = lab.held_out("fashion-mnist", 8)[:500], {}
    for waves in (True, False):
        recipe = _model_of(waves)
        model = lab.train(recipe, lab.seeds[0], size=8)
        bits[waves] = _losses(model.denoiser, x0, model.spec.levels, 30)[0].mean(0)
    saved, generator = bits[False] - bits[True], stream(0, 11)
    draws = torch.stack(
        [saved[torch.randint(len(saved), (len(saved),), generator=generator)].mean() for _ in range(1000)]
    )
    low, high = draws.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    numbers = {
        "measure": "bits/dim of 500 held-out images",
        "waves": float(bits[True].mean()),
        "none": float(bits[False].mean()),
    }
    return Finding.bootstrapped(float(saved.mean()), low, high, numbers)


def _model_of(waves: bool) -> VDM:
    training = TrainingOptions(
        steps=1000,
        batch_size=64,
        lr=1e-3,
        warmup=100,
        decay="linear",
        ema=20_000,
        precision="fp32",
        checkpoint_every=500,
    )
    network = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())
    return VDM(waves=waves, network=network, training=training)


untestable(
    VDM,
    "CIFAR-10 at 2.65 bits/dim, ImageNet 32x32 at 3.72, 64x64 at 3.40",
    "results on likelihood",
    "needs 10 million steps of a network of 32 and 33 residual blocks at full size (`unnoise train vdm --preset paper`)",
)
untestable(
    VDM,
    "bits-back coding compresses CIFAR-10 to nearly the bound",
    "lossless compression",
    "needs a model of CIFAR-10 trained to its likelihood",
)
