r"""DDIM: DDPM's network, sampled on few of its steps, deterministically.

    x_s = alpha_s x_0_guess + sqrt(sigma_s^2 - c^2) eps_guess + c z,   c = eta sigma_s sqrt(1 - r)

eta = 1 is DDPM's ancestral step, eta = 0 an ODE step: same noise, same picture, whatever the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from ..oracles import gaussian
from ..recipe import Sampling
from ..rng import Rng
from ..samplers import DDIM as Step
from ..samplers import Ancestral, Integers, sample
from ..verify import Finding, check, claim, untestable
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


# Exact checks.


@check(
    DDIM,
    "relative error of the spread on N(0, 1/4), 20 deterministic steps of the linear chain",
    "equation 12, propagated exactly",
    1e-4,
)
def spread_at_twenty_steps():
    denoiser = gaussian(torch.zeros(1), 0.25).denoiser(DDPM().process())
    start = torch.ones(1, 1, dtype=torch.float64)
    x = sample(denoiser, Step(), Integers(20), (1, 1), start=start, dtype=torch.float64)
    return abs(x.item() / 0.5 - 1), 0.1391


@check(DDIM, "eta = 1 is DDPM's posterior step with the small variance", "section 4.1", 1e-12)
def eta_one_is_ddpm():
    process = DDPM().process()
    t, s = process.points([0.5, 0.4])
    law = process.posterior(torch.ones(1, 1).double(), torch.zeros(1, 1).double(), t, s, eta=1.0)
    beta = 1 - (t.alpha / s.alpha) ** 2
    return law.std**2, beta * (1 - s.alpha**2) / (1 - t.alpha**2)


# Claims, on the digits with DDPM's own networks: DDIM trains nothing new.


def _few(lab, model, step, steps):
    clipped = Sampling(step, Integers(steps), threshold="clip")
    return lab.sliced(lab.samples(model, 400, clipped), lab.held_out("digits"))


def _ranked(lab, better, worse):
    """Margins by which one step's distance is below another's at 10 and at 20 steps, the smaller of the two."""
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = lab.digits(DDPM, seed)
        found = {(name, n): _few(lab, model, s, n) for n in (10, 20) for name, s in {**better, **worse}.items()}
        (a,), (b,) = better, worse
        margins.append(min(found[b, n] - found[a, n] for n in (10, 20)))
        numbers[f"seed {seed}"] = {f"{name}, {n} steps": value for (name, n), value in found.items()}
    return Finding.over_seeds(margins, {"measure": "sliced_wasserstein[pixels], 400 samples", **numbers})


@claim(DDIM, "At 10 and 20 steps, eta = 0 samples better than eta = 1", "table 1")
def deterministic_wins_at_few_steps(lab) -> Finding:
    return _ranked(lab, {"eta 0": Step()}, {"eta 1": Step(eta=1.0)})


@claim(DDIM, "At 10 and 20 steps, eta = 1 samples better than the large variance", "table 1")
def large_variance_is_worst_at_few_steps(lab) -> Finding:
    return _ranked(lab, {"eta 1": Step(eta=1.0)}, {"large": Ancestral(variance="large")})


@claim(DDIM, "Encoding an image and decoding it again gets closer with more steps", "table 2")
def reconstruction_improves(lab) -> Finding:
    margins, numbers = [], {}
    x0 = lab.held_out("digits")[:200]
    for seed in lab.seeds:
        denoiser = lab.digits(DDPM, seed).denoiser
        errors = {
            n: float((reconstruct(denoiser, x0, Integers(n)) - x0).square().mean()) / 4 for n in (10, 20, 50, 100)
        }
        margins.append(min(a / b - 1 for a, b in pairwise(errors.values())))
        numbers[f"seed {seed}"] = {f"{n} steps": e for n, e in errors.items()}
    return Finding.over_seeds(margins, {"measure": "squared error per dimension in [0, 1]", **numbers})


def reconstruct(denoiser, x0, grid):
    """Walk the deterministic steps up from data to noise, then down again."""
    up = sample(denoiser, Step(), lambda process: grid(process)[-2::-1], x0.shape, start=x0)
    return sample(denoiser, Step(), grid, x0.shape, start=up)


@claim(
    DDIM, "The same noise gives the same picture at 20 and at 200 steps: correlation above 0.9", "section 5.2, figure 5"
)
def noise_decides_the_picture(lab) -> Finding:
    found = []
    for seed in lab.seeds:
        a, b = (lab.samples(lab.digits(DDPM, seed), 200, Sampling(Step(), Integers(n))).flatten(1) for n in (20, 200))
        found.append(float(torch.nn.functional.cosine_similarity(a - a.mean(0), b - b.mean(0)).mean()))
    return Finding.over_seeds([c - 0.9 for c in found], {"mean correlation of pictures": found})


@claim(
    DDIM,
    "Halfway between two noises lies a digit: the classifier is surer than of the mean of the pictures",
    "section 5.3",
)
def noise_interpolates(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        denoiser = lab.digits(DDPM, seed).denoiser
        a, b = (Rng.from_seeds(range(i, i + 200)).normal(1, 8, 8) for i in (0, 1000))
        ends = [sample(denoiser, Step(), Integers(50), x.shape, start=x) for x in (a, b)]
        middle = sample(denoiser, Step(), Integers(50), a.shape, start=slerp(a, b, 0.5))
        sure, unsure = (float(lab.probabilities(x).max(1).values.mean()) for x in (middle, sum(ends) / 2))
        margins.append(sure - unsure)
        numbers[f"seed {seed}"] = {"between noises": sure, "mean of pictures": unsure}
    return Finding.over_seeds(margins, {"measure": "mean of the largest class probability", **numbers})


def slerp(a, b, share: float):
    """The point at `share` of the great circle from a to b, for each example."""
    u, v = a.flatten(1), b.flatten(1)
    angle = torch.arccos((u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)))[:, None]
    mixed = (((1 - share) * angle).sin() * u + (share * angle).sin() * v) / angle.sin()
    return mixed.reshape_as(a)


untestable(
    DDIM,
    "CIFAR-10 FID 13.36, 6.84, 4.67 and 4.16 at 10, 20, 50 and 100 steps",
    "table 1",
    "needs DDPM's published CIFAR-10 network, which takes days of a large GPU to train",
)
