r"""Blurring diffusion: heat dissipation is a Gaussian diffusion with a signal of its own for each frequency, so it takes noise too.

u_t = alpha_t u_x + sigma_t eps in the cosine basis, u = DCT(x):   alpha_t = a_t d_t elementwise, sigma_t one number,
d_t = (1 - d_min) exp(-lambda tau_t) + d_min,   tau_t = (sigma_B sin^2(pi t / 2))^2 / 2,   L = E_t |eps - eps_theta(z_t, t)|^2

a_t, sigma_t are the cosine schedule cut to log-SNR in [-10, 10]. Without blur (sigma_B = 0) it is that plain diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..data import load_like
from ..denoisers import Denoiser, Guidance, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..networks import UNetOptions
from ..objectives import Matching, Objective, Uniform, UniformSteps
from ..oracles import gaussian
from ..oracles.chain import gaussian_output
from ..processes import DCT, Dissipating, Gaussian
from ..processes.gaussian import Point
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import Ancestral, Naive
from ..samplers import Uniform as UniformGrid
from ..scalars import Scalar
from ..schedules import Cosine, Schedule
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
from . import paper


@paper(
    "2209.05557",
    "Blurring Diffusion Models",
    "Emiel Hoogeboom, Tim Salimans",
    2022,
    "ICLR 2023",
)
@dataclass(frozen=True)
class Blurring(Recipe):
    """Images are blurred and noised at once: each frequency of the cosine transform has its own signal-to-noise ratio."""

    blur: float = 3.0
    """Width of the blur at t = 1 in pixels (sigma_B); 0 for none: plain diffusion. The wider, the fewer steps there are in
    which the finest frequencies return, by a factor of a thousand: networks trained for minutes diverge at 10."""
    floor: float = 0.001
    """The share of every frequency that no blur takes (d_min)."""
    predict: Literal["eps", "x0", "v"] = "eps"
    """What the network gives, and what is compared; v has each frequency's own signal in it."""
    sampling_steps: int = 100
    """Steps of the ancestral sampler."""
    grain: float | None = None
    """Standard deviation of a noise that is the same at all times, so that blur alone destroys: inverse heat dissipation
    (IHDM), the case that the paper compares with; none for the cosine schedule's noise."""

    @classmethod
    def paper(cls) -> Blurring:
        """CIFAR-10, 2M steps, 1000 steps of the sampler."""
        return cls(
            data="cifar10",
            flip=True,
            blur=20.0,
            sampling_steps=1000,
            network=UNetOptions(
                channels=256, mult=(1, 1, 1), blocks=3, attention=(2, 4), dropout=0.2, channels_per_head=64
            ),
            training=replace(
                PUBLISHED,
                steps=2_000_000,
                batch_size=128,
                lr=2e-4,
                ema=887_000,  # 0.9999 a step
            ),
        )

    def process(self, size: tuple[int, int] = (28, 28)) -> Gaussian:
        """For images of `size` (height, width)."""
        noise = Cosine(-10.0, 10.0) if self.grain is None else _Grain(self.grain)
        return Gaussian(Dissipating(noise, size, self.blur, self.floor), DCT())

    def denoiser(self, spec: Spec) -> Denoiser:
        process = self.process((spec.shape[-2], spec.shape[-1]))
        way = pre.Raw(self.predict) if self.grain is None else _Sharper(process.schedule, self.sampling_steps)
        return NetworkDenoiser(self.build_network(spec), process, way)

    def objective(self, spec: Spec) -> Objective:
        if self.grain is None:
            return Matching(self.predict, Uniform())
        return Matching("F", UniformSteps(self.sampling_steps))

    def sampling(self) -> Sampling:
        step = Ancestral() if self.grain is None else Naive(spread=GRAINIER)
        return Sampling(step, UniformGrid(self.sampling_steps))

    def begin(self, spec: Spec, seeds: Sequence[int], start: str | None) -> tuple[Tensor | None, tuple[Guidance, ...]]:
        """Where there is no noise to begin with: an image of the training set for each seed, as blurred as can be."""
        if self.grain is None:
            return super().begin(spec, seeds, start)
        data = load_like(start or self.data, spec, "train")
        rng, process = Rng.from_seeds(seeds).spawn(1), self.process((spec.shape[-2], spec.shape[-1]))
        x = data.batch(rng.integers(len(data)).tolist()).x
        return Naive(spread=GRAINIER).law(process.marginal(x, process.point(1.0))).sample(rng), ()


GRAINIER = 1.25  # the noise of IHDM's steps back, by that of its steps forth


class _Grain(Schedule):
    """alpha = 1, sigma the same at all times."""

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(torch.as_tensor(t, dtype=torch.float64))

    def sigma(self, t: Tensor) -> Tensor:
        return self.std * self.alpha(t)


class _Sharper(pre.Preconditioning):
    """IHDM's network: what is to be added to a state for the mean of the state a step before, F = alpha_s x_0 - x_t."""

    def __init__(self, schedule: Schedule, steps: int):
        super().__init__()
        self.schedule, self.steps = schedule, steps

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        t = torch.as_tensor(point.t, dtype=torch.float64)
        return -1.0, self.schedule.alpha((t.reshape(-1) if t.ndim else t) - 1 / self.steps)

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return self.steps * t


# Exact checks, on images of 32x32 with sigma_B = 20.


def _steps(size: int = 32, blur: float = 20.0, count: int = 1000) -> list:
    return Blurring(blur=blur).process((size, size)).points([i / count for i in range(count + 1)])


def _fresh(t, s) -> Tensor:
    """The variance of q(u_t | u_s) as the paper writes it: sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2, per frequency."""
    return t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2


@check(Blurring, "no frequency's transition variance is below this, in 1000 steps", "the paper", tolerance=1e-6)
def transitions_are_noisings():
    return min(float(_fresh(t, s).min()) for s, t in pairwise(_steps())), 2.3e-5


@check(Blurring, "variance of q(u_s | u_t, x): largest difference from the paper's form", "the paper", tolerance=1e-12)
def posterior_variance():
    process = Blurring(blur=20.0).process((32, 32))
    x, worst = torch.zeros(1, 1, 32, 32, dtype=torch.float64), 0.0
    for s, t in pairwise(process.points([0.0, 0.01, 0.3, 0.31, 0.9, 1.0])):
        ratio = t.alpha / s.alpha
        expected = 1 / (1 / s.sigma**2 + ratio**2 / _fresh(t, s))
        worst = max(worst, float((process.posterior(x, x, t, s).std ** 2 - expected).abs().max()))
    return worst, 0.0


@check(Blurring, "almost without blur, posterior means are those of the plain process", "the paper", tolerance=1e-8)
def without_blur():
    blurred, plain = Blurring(blur=1e-9).process((8, 8)), Gaussian(Cosine(-10.0, 10.0))
    x0, xt = (torch.linspace(-a, a, 64, dtype=torch.float64).sin().reshape(1, 1, 8, 8) for a in (3, 7))
    (t, s), (u, v) = blurred.points([0.7, 0.6]), plain.points([0.7, 0.6])
    ours = blurred.data(blurred.posterior(blurred.state(xt), x0, t, s).mean)
    return float((ours - plain.posterior(xt, x0, u, v).mean).abs().max()), 0.0


@check(Blurring, "signal left at t = 1 in the mean of an image", "the paper", tolerance=1e-4)
def pure_noise_at_the_top():
    return float(_steps()[-1].alpha.max()), 0.0067


def _spectrum_error(steps: int) -> float:
    """Largest relative error of a frequency's variance at t = 0 after ancestral steps with the exact guess, of 8x8 data whose
    spectrum falls as 1/f^2."""
    process = Blurring(blur=3.0).process((8, 8))
    f = torch.arange(8, dtype=torch.float64)
    variance = 1 / (1 + f[:, None] ** 2 + f**2)[None]
    denoiser = _InBasis(gaussian(torch.zeros(1, 8, 8, dtype=torch.float64), variance).denoiser(process))
    points = process.points([1 - i / steps for i in range(steps + 1)])
    law = gaussian_output(denoiser, Ancestral(), points, (1, 8, 8))
    expected = points[-1].alpha ** 2 * variance + points[-1].sigma ** 2
    return float((torch.as_tensor(law.std) ** 2 / expected - 1).abs().max())


class _InBasis(Denoiser):
    """A denoiser of a process whose data are given in the coordinates of the state, so that it is affine elementwise."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.process = Gaussian(denoiser.process.schedule)  # type: ignore[arg-type]

    def forward(self, xt, t, cond=None):
        guess = self.denoiser(xt, t, cond)
        return replace(guess, mean=self.denoiser.process.state(guess.mean))  # type: ignore[type-var]


@check(Blurring, "twice the ancestral steps halve the error of the spectrum: order", "exact propagation", tolerance=0.1)
def spectrum_converges():
    coarse, fine = (_spectrum_error(n) for n in (800, 1600))
    return math.log2(coarse / fine), 1.0


# Claims, on the 8x8 digits: networks of 0.2 M parameters, 1000 steps of 64 images, 100 steps of the sampler.


def _digits(lab, seed, **options):
    return lab.digits(Blurring, seed, steps=1000, small=True, **options)


def _distances(lab, **models):
    """Each model's Frechet distance of 400 samples from held-out digits, a row for each seed."""
    rows = [
        {
            name: lab.frechet(lab.samples(_digits(lab, seed, **options), 400), lab.held_out("digits"))
            for name, options in models.items()
        }
        for seed in lab.seeds
    ]
    return rows, {"measure": "frechet[classifier:digits], 400 samples of 100 steps", "by seed": rows}


def _power(x: Tensor) -> Tensor:
    """The mean square of each cosine coefficient."""
    return DCT()(x).square().mean(0)


@claim(Blurring, "At equal budget, blur beside the noise samples better than noise alone", "the paper")
def blur_helps(lab) -> Finding:
    rows, numbers = _distances(lab, plain={"blur": 0.0}, blurred={"blur": 3.0})
    shown = {f"blur {blur:g}": lab.samples(_digits(lab, lab.seeds[0], blur=blur), 400) for blur in (0.0, 3.0)}
    pictures = [lab.gallery_of("samples", shown)]
    return Finding.over_seeds([row["plain"] - row["blurred"] for row in rows], numbers, pictures)


@claim(Blurring, "There is a best width of the blur: a width of 1 samples better than none, and than 3", "the paper")
def blur_has_an_optimum(lab) -> Finding:
    rows, numbers = _distances(lab, none={"blur": 0.0}, some={"blur": 1.0}, much={"blur": 3.0})
    margins = [min(row["none"], row["much"]) - row["some"] for row in rows]
    return Finding.over_seeds(margins, numbers)


@claim(Blurring, "Predicting the noise samples better than predicting the image", "the paper")
def noise_is_what_to_predict(lab) -> Finding:
    rows, numbers = _distances(lab, eps={"blur": 3.0}, x0={"blur": 3.0, "predict": "x0"})
    return Finding.over_seeds([row["x0"] - row["eps"] for row in rows], numbers)


@claim(Blurring, "Samples have the power of the data at every frequency, within a factor of 1.5", "implied")
def spectrum_is_recovered(lab) -> Finding:
    margins, numbers, expected = [], {}, _power(lab.held_out("digits"))
    for seed in lab.seeds:
        ratio = _power(lab.samples(_digits(lab, seed, blur=3.0), 400)) / expected
        margins.append(math.log(1.5) - float(ratio.log().abs().max()))
        numbers[f"seed {seed}"] = {"least": float(ratio.min()), "most": float(ratio.max())}
    return Finding.over_seeds(margins, {"measure": "power of a frequency over that of held-out digits", **numbers})


IHDM = {"blur": 4.0, "grain": 0.02}  # blur to half of the image's side, and its authors' noise, for data in [-1, 1]


@claim(Blurring, "Blur and noise together sample better than blur with a faint noise alone (IHDM)", "the paper")
def noise_beside_blur_beats_ihdm(lab) -> Finding:
    rows, numbers = _distances(lab, blurred={"blur": 3.0}, ihdm=IHDM)
    shown = {"blur and noise": {"blur": 3.0}, "IHDM": IHDM}
    samples = {name: lab.samples(_digits(lab, lab.seeds[0], **options), 400) for name, options in shown.items()}
    pictures = [lab.gallery_of("ihdm", {**samples, "digits": lab.held_out("digits")}, columns=16)]
    return Finding.over_seeds([row["ihdm"] - row["blurred"] for row in rows], numbers, pictures)


@claim(
    Blurring, "In the finer half of the frequencies the power of samples is nearer the data's than IHDM's is", "implied"
)
def fine_power_beats_ihdm(lab) -> Finding:
    expected = _power(lab.held_out("digits"))
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    fine = row + column >= 8

    def off(seed, **options) -> float:
        ratio = _power(lab.samples(_digits(lab, seed, **options), 400)) / expected
        return float(ratio.log().abs()[:, fine].mean())

    rows = [{"blurred": off(seed, blur=3.0), "ihdm": off(seed, **IHDM)} for seed in lab.seeds]
    measure = "mean |log| of a frequency's power over that of held-out digits, frequencies n + m >= 8, 400 samples"
    return Finding.over_seeds([row["ihdm"] - row["blurred"] for row in rows], {"measure": measure, "by seed": rows})


untestable(
    Blurring,
    "CIFAR-10 FID 3.17 with blur, against 3.58 of the same network without",
    "the paper",
    "needs 2M steps of a network of 256 channels: weeks of a large GPU (`unnoise train blurring --preset paper`)",
)
