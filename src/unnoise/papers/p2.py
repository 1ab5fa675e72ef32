r"""P2 weighting: less training on the clean-up of noise that no one sees, more where contents are decided.

loss_t = (k + SNR(t))^-gamma |eps - eps_guess(x_t, t)|^2;   gamma = 0 is the simple loss, k = gamma = 1 weights by sigma_t^2
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..denoisers.preconditioning import relation
from ..errors import UsageProblem
from ..laws import Estimate
from ..metrics import features
from ..networks import UNetOptions
from ..objectives import P2 as Weighting
from ..objectives import Bound, Hybrid, Matching, Objective, UniformSteps
from ..processes import DCT, Gaussian
from ..recipe import Sampling, Spec
from ..rng import Rng
from ..samplers import Integers
from ..schedules import FromBetas, linear_betas
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
from . import paper
from .improved_ddpm import ImprovedDDPM


@paper(
    "2204.00227",
    "Perception Prioritized Training of Diffusion Models",
    "Jooyoung Choi, Jungbeom Lee, Chaehun Shin, Sungwon Kim, Hyunwoo Kim, Sungroh Yoon",
    2022,
    "CVPR 2022",
)
@dataclass(frozen=True)
class P2(ImprovedDDPM):
    """Improved DDPM with the noise's error weighted by (k + SNR)^-gamma: capacity goes to where content is decided."""

    gamma: float = 1.0
    """How far the clean-up steps are held back; 0 not at all."""
    k: float = 1.0
    """The signal-to-noise ratio around which the weight begins to fall."""
    schedule: Literal["cosine", "linear"] = "linear"
    """The betas."""

    @classmethod
    def paper(cls) -> P2:
        """FFHQ at 256x256 from a folder of images, a light ADM of 93 M parameters; the number of steps is not published."""
        return cls(
            data="ffhq256",
            gamma=0.5,
            flip=True,
            sampling_steps=250,
            network=UNetOptions(
                channels=128, mult=(1, 1, 2, 2, 4, 4), blocks=1, attention=(16,), channels_per_head=64, dropout=0.0
            ),
            training=replace(
                PUBLISHED,
                steps=1_000_000,
                batch_size=8,
                lr=2e-5,
                clip=None,
                ema=55_400,  # 0.9999 a step
                precision="fp32",
            ),
        )

    def objective(self, spec: Spec) -> Objective:
        plain, weighting = super().objective(spec), Weighting(self.gamma, self.k)
        if isinstance(plain, Hybrid):
            return Hybrid(plain.bound, plain.weight, weighting)
        if isinstance(plain, Bound):
            raise UsageProblem("the bound's weights are its own, and p2 changes them; choose the loss hybrid or simple")
        return Matching("eps", UniformSteps(self.timesteps), weighting)


# Exact checks, on the chain of 1000 linear steps.


def _chain() -> tuple[Gaussian, Tensor]:
    return Gaussian(FromBetas(linear_betas(1000))), torch.arange(1, 1001, dtype=torch.float64) / 1000


def _weights(gamma: float) -> Tensor:
    process, t = _chain()
    return torch.as_tensor(Weighting(gamma)(process.at(t, t))).expand(1000)


def _alpha_bar() -> Tensor:
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


@check(P2, "with gamma = k = 1 the weight is 1 - alpha-bar: largest difference", "derived", tolerance=1e-12)
def weight_is_the_noise():
    return float((_weights(1.0) - (1 - _alpha_bar())).abs().max()), 0.0


@check(P2, "mean of the weights for gamma = 0.5", "derived", tolerance=5e-4)
def mean_weight_of_a_half():
    return float(_weights(0.5).mean()), 0.806


@check(P2, "share of the weight on the clean-up steps, SNR above 1, for gamma = 1", "derived", tolerance=5e-4)
def share_of_the_clean_up():
    snr = _alpha_bar() / (1 - _alpha_bar())
    return float(_weights(1.0)[snr > 1].sum() / _weights(1.0).sum()), 0.069


@check(
    P2,
    "the baseline's lambda_t = (1 - beta_t)(1 - alpha-bar_t) / beta_t times the bound's weight on eps: spread over t",
    "the baseline in terms of the bound",
    tolerance=1e-9,
)
def baseline_undoes_the_bound():
    process, t = _chain()
    t = t[1:]
    point, beta, bar = process.at(t, t), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[1:], _alpha_bar()[1:]
    zero, one = torch.zeros(999, 1, dtype=torch.float64), torch.ones(999, 1, dtype=torch.float64)
    mean = process.posterior(zero, one, t, t - 1e-3).mean[:, 0]  # the factor on an error in x_0, of variance beta
    bound = 0.5 * (mean * point.sigma / point.alpha) ** 2 / beta
    both = (1 - beta) * (1 - bar) / beta * bound
    return float((both - 0.5).abs().max()), 0.0


class _Fixed(Denoiser):
    """A guess that does not look, with a fraction between the variances."""

    def __init__(self, process: Gaussian):
        super().__init__()
        self.process = process

    def forward(self, xt, t, cond=None):
        return Estimate(torch.full_like(xt, 0.1), fraction=torch.full_like(xt, 0.5))


def _loss(recipe: ImprovedDDPM) -> Tensor:
    x0 = torch.linspace(-1, 1, 64).reshape(16, 1, 2, 2)
    return recipe.objective(Spec((1, 2, 2)))(
        _Fixed(recipe.process()), x0, None, Rng.for_step(0, 0, range(16))
    ).per_example


@check(P2, "with gamma = 0 the losses are improved DDPM's, to the last bit: examples that differ", "the baseline", 0)
def baseline_to_the_last_bit():
    return int((_loss(P2(gamma=0.0)) != _loss(ImprovedDDPM(schedule="linear"))).sum()), 0


@check(
    P2,
    "the same loss on x_0, weighted by SNR / (k + SNR)^gamma, and on v, by alpha^2 / (k + SNR)^gamma",
    "derived",
    1e-5,
)
def one_loss_in_three_kinds():
    process, t = _chain()
    point = process.with_derivatives(t, t)
    snr = (point.alpha / point.sigma) ** 2
    expected = {"x0": snr, "v": point.alpha**2}
    worst = 0.0
    for kind, base in expected.items():
        found = Matching(kind, UniformSteps(1000), Weighting(0.5)).weight(point, relation(kind, point)[1], t)
        worst = max(worst, float((found / (base / (1 + snr) ** 0.5) - 1).abs().max()))
    return worst, 0.0


# Claims, on the 8x8 digits, beside improved DDPM, which is gamma = 0: networks of 0.2 M parameters, 1000 steps of 64 images.


def _model(lab, seed, gamma):
    if gamma == 0:  # the same recipe, whose training other claims share
        return lab.digits(ImprovedDDPM, seed, steps=1000, small=True, schedule="linear")
    return lab.digits(P2, seed, steps=1000, small=True, gamma=gamma)


@torch.no_grad()
def _errors(lab, model) -> dict[str, float]:
    """Held-out mean square error of eps where the SNR is above 1 and below, steps drawn evenly, the same for every model."""
    x0, process, found = lab.held_out("digits"), model.denoiser.process, {"above 1": [], "below 1": []}
    for i in range(60):
        rng = Rng.for_step(3, i, range(len(x0)))
        t, _ = UniformSteps(1000).sample(process, rng)
        xt = process.corrupt(x0, t, rng)
        error = process.noise(xt, x0, t) - process.noise(xt, model.denoiser(xt, t).mean, t)
        mse, clean = error.double().square().flatten(1).mean(1), process.schedule.log_snr(t) > 0
        found["above 1"].append(mse[clean])
        found["below 1"].append(mse[~clean])
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def _compare(lab, where: str, margin) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        found = {f"gamma {gamma}": _errors(lab, _model(lab, seed, gamma))[where] for gamma in (0, 1)}
        margins.append(margin(*found.values()))
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": f"held-out square error of eps, SNR {where}", **numbers})


@claim(
    P2, "P2 gives up some of the clean-up: the noise's error at SNR above 1 is larger than with the simple loss", "idea"
)
def worse_at_clean_up(lab) -> Finding:
    return _compare(lab, "above 1", lambda plain, p2: p2 / plain - 1)


@claim(P2, "What it saves goes to the noisy steps: the noise's error at SNR below 1 is smaller", "idea")
def better_at_content(lab) -> Finding:
    return _compare(lab, "below 1", lambda plain, p2: 1 - p2 / plain)


@claim(
    P2,
    "One guess from SNR between 0.01 and 0.1 is closer to the picture in a classifier's features",
    "what is decided at which noise level",
)
@torch.no_grad()
def better_guesses_of_content(lab) -> Finding:
    margins, numbers = [], {}
    x0 = lab.held_out("digits")
    embed = features("classifier", tuple(x0.shape[1:]))
    truth = embed(x0)
    for seed in lab.seeds:
        found = {}
        for gamma in (0, 1):
            model, distances = _model(lab, seed, gamma), []
            process = model.denoiser.process
            for i in range(10):
                rng = Rng.for_step(4, i, range(len(x0)))
                log_snr = math.log(0.01) + rng.uniform() * math.log(10)
                t = (process.schedule.time(log_snr) * 1000).round() / 1000
                guess = model.denoiser(process.corrupt(x0, t, rng), t).mean.clamp(-1, 1)
                distances.append((embed(guess) - truth).double().norm(dim=1).mean())
            found[f"gamma {gamma}"] = float(torch.stack(distances).mean())
        margins.append(1 - found["gamma 1"] / found["gamma 0"])
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "distance in the features of classifier:digits", **numbers})


def _samples(lab, seed, gamma) -> Tensor:
    model = _model(lab, seed, gamma)
    return lab.samples(model, 400, Sampling(model.recipe.reverse(), Integers(100), threshold="clip"))


@claim(P2, "At equal steps samples are not worse than with the simple loss, within a tenth of the distance", "results")
def samples_are_not_worse(lab) -> Finding:
    margins, numbers = [], {}
    held_out = lab.held_out("digits")
    for seed in lab.seeds:
        found = {f"gamma {gamma}": lab.frechet(_samples(lab, seed, gamma), held_out) for gamma in (0, 1)}
        margins.append(1.1 - found["gamma 1"] / found["gamma 0"])
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "frechet[classifier:digits], 400 samples of 100 steps", **numbers})


def _roughness(x: Tensor) -> float:
    """Mean energy of the short waves of images, a frequency of their cosine transform being in its upper half."""
    high = torch.arange(x.shape[-1]) >= x.shape[-1] // 2
    return float(DCT()(x.double())[..., high[:, None] | high].square().mean())


@claim(
    P2,
    "Too large a gamma, 4, leaves noise in the samples: energy of short waves above gamma 1's and the data's",
    "limits",
)
def too_large_a_gamma_leaves_noise(lab) -> Finding:
    margins, numbers = [], {}
    data = _roughness(lab.held_out("digits"))
    for seed in lab.seeds:
        found = {f"gamma {gamma}": _roughness(_samples(lab, seed, gamma)) for gamma in (1, 4)}
        margins.append(found["gamma 4"] / max(data, found["gamma 1"]) - 1)
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "mean energy of short waves, 400 samples", "data": data, **numbers})


untestable(
    P2,
    "FID 6.92 on FFHQ and 6.91 on CelebA-HQ at 256x256",
    "results",
    "needs a network of 93 M parameters on faces at 256x256, weeks of one GPU (`unnoise train p2 --preset paper`)",
)
