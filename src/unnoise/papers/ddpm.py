r"""DDPM: a fixed chain of small noisings, undone by a U-Net that predicts the noise.

q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t),   L_simple = E_{t, x_0, eps} |eps - eps_theta(x_t, t)|^2
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self

import torch

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..likelihood import Discretised
from ..networks import published
from ..objectives import Bound, Matching, Objective, UniformSteps
from ..oracles import gaussian
from ..processes import Gaussian
from ..processes.gaussian import decay
from ..recipe import Recipe, Sampling, Spec
from ..samplers import Ancestral, Integers, sample
from ..schedules import FromBetas, linear_betas
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
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

    @classmethod
    def paper(cls) -> Self:
        """CIFAR-10, 800k steps: FID 3.17 with 1000 sampling steps."""
        return cls(
            data="cifar10",
            flip=True,
            network=published.DDPM_CIFAR10,
            training=replace(
                PUBLISHED,
                steps=800_000,
                batch_size=128,
                lr=2e-4,
                warmup=5000,
                ema=887_000,  # 0.9999 a step
            ),
        )

    def schedule(self) -> FromBetas:
        return FromBetas(linear_betas(self.timesteps))

    def process(self) -> Gaussian[FromBetas]:
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


# Exact checks.


@check(DDPM, "alpha-bar at the last of 1000 steps", "section 4", tolerance=1e-9)
def last_signal():
    return DDPM().process().point(1.0).alpha ** 2, 4.0358e-5


@check(
    DDPM,
    "with data N(0, 1) and variance beta, every marginal of the reverse chain keeps variance 1",
    "section 3.2",
    1e-9,
)
def unit_variance():
    process = DDPM().process()
    points = Integers(1000)(process)
    variance = 1.0
    for t, s in pairwise(points[:-1]):
        keep = s.alpha * decay(t, s) * t.alpha + (t.alpha / s.alpha) * (s.sigma / t.sigma) ** 2
        variance = keep**2 * variance + t.sigma**2 * decay(t, s)
    return variance, 1.0


@check(
    DDPM, "with data at one point and variance beta~, sampling returns the point from any noise", "section 3.2", 1e-6
)
def point_mass():
    data = gaussian(torch.full((4,), 0.3), 0.0)
    denoiser = data.denoiser(DDPM().process())
    x = sample(denoiser, Ancestral(), Integers(1000), (8, 4), dtype=torch.float64)
    return float((x - 0.3).abs().max()), 0.0


# Claims, on the 8x8 digits: a network of 0.8 M parameters, 1500 steps of 64 images.


def _quality(lab, model, sampling, count=400):
    return lab.frechet(lab.samples(model, count, sampling), lab.held_out("digits"))


@claim(
    DDPM,
    "Predicting the noise gives better samples than predicting the posterior mean, both with a plain error",
    "table 2",
)
def noise_beats_mean(lab) -> Finding:
    sampling = Sampling(Ancestral(variance="large"), Integers(250), threshold="clip")
    noise = [_quality(lab, lab.digits(DDPM, seed), sampling) for seed in lab.seeds]
    mean = [_quality(lab, lab.digits(DDPM, seed, predict="mean"), sampling) for seed in lab.seeds]
    return Finding.over_seeds(
        [m - n for m, n in zip(mean, noise, strict=True)],
        {"measure": "frechet[classifier:digits], 400 samples of 250 steps", "noise": noise, "mean": mean},
    )


@claim(
    DDPM,
    "At all 1000 steps the two fixed variances sample alike: distances within a quarter of each other",
    "section 3.2",
)
def variances_agree_at_full_length(lab) -> Finding:
    full = {v: Sampling(Ancestral(variance=v), Integers(1000), threshold="clip") for v in ("small", "large")}
    found = {v: [_quality(lab, lab.digits(DDPM, s), full[v], 200) for s in lab.seeds] for v in full}
    ratios = [max(a, b) / min(a, b) for a, b in zip(found["small"], found["large"], strict=True)]
    return Finding.over_seeds(
        [1.25 - r for r in ratios], {"measure": "frechet[classifier:digits], 200 samples", **found}
    )


@claim(DDPM, "At 10 steps the large variance samples clearly worse than the small one", "2010.02502, table 1")
def large_variance_fails_at_few_steps(lab) -> Finding:
    few = {v: Sampling(Ancestral(variance=v), Integers(10), threshold="clip") for v in ("small", "large")}
    found = {v: [_quality(lab, lab.digits(DDPM, s), few[v]) for s in lab.seeds] for v in few}
    margins = [large / small - 1.25 for small, large in zip(found["small"], found["large"], strict=True)]
    return Finding.over_seeds(margins, {"measure": "frechet[classifier:digits], 400 samples of 10 steps", **found})


@claim(DDPM, "Training on the bound gives fewer bits per dimension than training on the simple loss", "table 1")
def bound_gives_fewer_bits(lab) -> Finding:
    simple, bound = _bits_of_both(lab)
    numbers = {"measure": "bits/dim of 48 held-out digits, 1000 steps", "simple": simple, "bound": bound}
    return Finding.over_seeds([a - b for a, b in zip(simple, bound, strict=True)], numbers)


def _bits_of_both(lab):
    reverse = Ancestral(variance="small")
    return [
        [float(lab.bits(lab.digits(DDPM, s, **options), reverse, Integers(1000)).total.mean()) for s in lab.seeds]
        for options in ({}, {"loss": "bound", "variance": "small"})
    ]


@claim(DDPM, "Training on the simple loss gives better samples than training on the bound", "table 2")
def simple_gives_better_samples(lab) -> Finding:
    sampling = Sampling(Ancestral(variance="small"), Integers(250), threshold="clip")
    simple = [_quality(lab, lab.digits(DDPM, s), sampling) for s in lab.seeds]
    bound = [_quality(lab, lab.digits(DDPM, s, loss="bound", variance="small"), sampling) for s in lab.seeds]
    numbers = {"measure": "frechet[classifier:digits], 400 samples of 250 steps", "simple": simple, "bound": bound}
    return Finding.over_seeds([b - a for a, b in zip(simple, bound, strict=True)], numbers)


@claim(DDPM, "More than half of the rate is spent in the last tenth of the reverse steps", "section 4.3, figure 5")
def bits_are_spent_late(lab) -> Finding:
    shares = []
    for seed in lab.seeds:
        terms = lab.bits(lab.digits(DDPM, seed), Ancestral(variance="large"), Integers(1000)).steps.mean(0)
        shares.append(float(terms[1:100].sum() / terms[1:].sum()))  # the first term is the decoder's, the distortion
    return Finding.over_seeds([share - 0.5 for share in shares], {"share of the rate in steps 2 to 100": shares})


untestable(
    DDPM,
    "CIFAR-10 samples of FID 3.17 and inception score 9.46",
    "table 1",
    "needs 800k steps of a network of 35.7 M parameters: days of a large GPU (`unnoise train ddpm --preset paper`)",
)
