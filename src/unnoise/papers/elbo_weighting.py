r"""Diffusion objectives as the ELBO: every loss is one integral over log-SNR, and a monotone weighting is the ELBO of noisy data.

L_w(x) = 1/2 int w(lambda) E|eps_guess - eps|^2 dlambda = E_{t ~ p_w}[L(t; x)] + const

with L(t; x) the bound on z_t, data with noise of level t added, and p_w = dw/dt beside an atom w(lambda_max) at t = 0. So w is
chosen for quality, and the noise levels that are drawn, p(lambda), for variance alone: adaptively, where the loss is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..likelihood import Continuous, likelihood
from ..networks import published
from ..objectives import (
    ELBO,
    Adaptive,
    EDMLoss,
    EDMMonotone,
    Eps,
    Matching,
    Objective,
    Sigmoid,
    Stratified,
    Times,
    Weighting,
    implied_weighting,
)
from ..oracles import Mixture, gaussian
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import Heun, Karras
from ..schedules import Cosine
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
from . import paper

Name = Literal["edm-monotone", "sigmoid", "elbo", "edm", "eps"]


@paper(
    "2303.00848",
    "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation",
    "Diederik P. Kingma, Ruiqi Gao",
    2023,
    "NeurIPS 2023",
)
@dataclass(frozen=True)
class ELBOWeighting(Recipe):
    """A weighting of log-SNR chosen for quality, monotone so that it is an ELBO, and noise levels drawn where the loss is."""

    conditional: bool = True
    weighting: Name = "edm-monotone"
    """EDM's held at its peak on noisier levels, the sigmoid, the plain ELBO, EDM's own, or the simple loss of a cosine."""
    bias: float = 2.0
    """Where the sigmoid weighting falls: sigmoid(bias - log-SNR)."""
    adaptive: bool = True
    """Draw noise levels where the weighted loss is; otherwise evenly in the time of the cosine schedule."""
    prediction: Literal["F", "v"] = "F"
    """What the network gives: EDM's preconditioned output, or v."""
    log_snr_min: float = -9.0
    """Noisy end of the schedule."""
    log_snr_max: float = 13.3
    """Clean end."""
    sigma_data: float | None = None
    """Standard deviation of the data in [-1, 1]; measured if not given."""
    sampling_steps: int = 32
    """Steps of the sampler: twice as many evaluations, less one."""

    @classmethod
    def paper(cls) -> ELBOWeighting:
        """ImageNet at 64x64 with ADM's network; the length of the training, two billion images, is ours."""
        return cls(
            data="hf:ILSVRC/imagenet-1k",
            sigma_data=0.5,
            network=published.ADM_IMAGENET64,
            sampling_steps=256,
            training=replace(
                PUBLISHED,
                steps=1_000_000,
                batch_size=2048,
                lr=1e-4,
                warmup=5000,
                clip=None,
                ema=14_200_000,  # 0.9999 a step
            ),
        )

    def process(self) -> Gaussian:
        return Gaussian(Cosine(self.log_snr_min, self.log_snr_max))

    def denoiser(self, spec: Spec) -> Denoiser:
        edm = self.prediction == "F"
        chosen = pre.EDM(self.sigma_data or spec.std) if edm else pre.Raw("v", told="log_snr", scale=25.0)
        return NetworkDenoiser(self.build_network(spec), self.process(), chosen)

    def w(self, spec: Spec) -> Weighting:
        """The weighting of the squared error of eps."""
        sigma_data = self.sigma_data or spec.std
        table = {
            "edm-monotone": EDMMonotone(sigma_data),
            "sigmoid": Sigmoid(self.bias),
            "elbo": ELBO(),
            "edm": EDMLoss(sigma_data),
            "eps": Eps(),
        }
        return table[self.weighting]

    def times(self) -> Times:
        return Adaptive(Stratified()) if self.adaptive else Stratified()

    def objective(self, spec: Spec) -> Objective:
        return Matching("eps", self.times(), self.w(spec))

    def sampling(self) -> Sampling:
        return Sampling(Heun(), Karras(self.sampling_steps))


# Exact checks. Data N(0, c^2) have E|eps - eps*|^2 = c^2 e^l / (1 + c^2 e^l); a model that believes N(0, b^2) errs more.

_L = torch.linspace(-9, 13.3, 20_001, dtype=torch.float64)
_C, _B = 0.25, 0.5  # c^2 and b^2


def _mse(log_snr: Tensor, believed: float = _C) -> Tensor:
    """E|eps - eps_guess|^2 in one dimension, of the guess that is exact for N(0, `believed`): e^l E|x - x_guess|^2."""
    gain = believed / (1 + believed * log_snr.exp())  # x_guess = gain (e^l x + e^(l/2) eps)
    return log_snr.exp() * ((1 - gain * log_snr.exp()) ** 2 * _C + gain**2 * log_snr.exp())


def _integral(f: Tensor, over: Tensor = _L) -> float:
    return float(torch.trapezoid(f, over))


@check(
    ELBOWeighting,
    "1/2 int E|eps - eps*|^2 is I(x; z) of Gaussian data: up to log-SNR 5, nats",
    "I-MMSE",
    tolerance=1e-6,
)
def information_of_gaussian_data():
    grid = torch.linspace(-40, 5, 40_001, dtype=torch.float64)
    return _integral(0.5 * _mse(grid), grid), 0.5 * math.log1p(_C * math.exp(5))


@check(ELBOWeighting, "of 5 equally likely points the whole integral is ln 5, nats", "I-MMSE", tolerance=2e-4)
def information_of_five_points():
    points = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
    data, process = Mixture(points, 0.0), Gaussian(Cosine(-16.0, 12.0))
    noise = torch.linspace(-9, 9, 361, dtype=torch.float64)  # the trapezoidal rule is exact for such integrands, nearly
    odds = torch.softmax(-0.5 * noise**2, 0).repeat(5)[:, None] / 5
    eps, x0 = noise.repeat(5)[:, None], points.repeat_interleave(361, 0)
    grid = torch.linspace(-16, 12, 401, dtype=torch.float64)
    denoiser, values = data.denoiser(process), []
    for t in process.schedule.time(grid).tolist():
        c = process.point(t)
        guess = denoiser(c.alpha * x0 + c.sigma * eps, torch.full((len(x0),), t, dtype=torch.float64)).mean
        values.append((odds * (c.alpha / c.sigma * (x0 - guess)) ** 2).sum())
    return _integral(0.5 * torch.stack(values), grid), math.log(5)


def _bound(log_snr: Tensor) -> Tensor:
    """E_x L(t; x), t the time of each log-SNR, of the model that believes b^2: the divergence of all latents at least as noisy.

    From closed forms alone: KL(q(z_t) || p(z_t)) + I(x; z_t), for the reverse process of the believed data keeps its
    marginals; what its prior N(0, 1) is off is the same at every t, and left out.
    """
    alpha2, sigma2 = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
    true, believed = alpha2 * _C + sigma2, alpha2 * _B + sigma2
    path = 0.5 * torch.log1p(_C * log_snr.exp())
    return path + 0.5 * (true / believed - 1 - (true / believed).log())


@check(
    ELBOWeighting,
    "theorem 1: dL/dlambda = 1/2 E|eps - eps_guess|^2 of a wrong Gaussian model",
    "theorem 1",
    1e-7,
)
def theorem_one():
    at, h = torch.linspace(-6, 8, 15, dtype=torch.float64), 1e-4
    slope = (_bound(at + h) - _bound(at - h)) / (2 * h)
    return float((slope - 0.5 * _mse(at, _B)).abs().max()), 0.0


def _weighted(weighting: Weighting) -> tuple[Tensor, float]:
    """w on the grid, and L_w of the wrong model by quadrature."""
    process = Gaussian(Cosine(-9.0, 13.3))
    inside = _L[1:-1]
    w = implied_weighting(Matching("eps", Stratified(), weighting), process, inside).weight
    return w, _integral(0.5 * w * _mse(inside, _B), inside)


def _theorem_two(weighting: Weighting) -> tuple[float, float]:
    w, loss = _weighted(weighting)
    bound = _bound(_L[1:-1])
    by_parts = -((bound[1:] + bound[:-1]) / 2 * w.diff()).sum()  # int (dw/dt) L dt; t runs against lambda
    return loss, float(by_parts + w[-1] * bound[-1] - w[0] * bound[0])


@check(
    ELBOWeighting,
    "theorem 2: L_w is an integral of ELBOs over dw/dt, for the simple loss (not monotone)",
    "theorem 2",
    1e-6,
)
def theorem_two_for_eps():
    return _theorem_two(Eps())


@check(ELBOWeighting, "theorem 2, for the sigmoid weighting", "theorem 2", 1e-6)
def theorem_two_for_the_sigmoid():
    return _theorem_two(Sigmoid())


@check(
    ELBOWeighting,
    "theorem 3: for the sigmoid weighting dw/dt and the atom are a distribution",
    "theorem 3",
    1e-4,
)
def theorem_three():
    w, _ = _weighted(Sigmoid())
    mass = torch.cat([-w.diff(), w[-1:]])
    return float(mass.sum()) + min(0.0, float(mass.min())), 1.0


@check(ELBOWeighting, "the log-SNR where EDM's weighting is largest", "the EDM-monotonic weighting", tolerance=5e-4)
def edms_peak():
    return EDMMonotone().peak, -3.308


@check(
    ELBOWeighting,
    "how many of elbo, sigmoid, edm-monotone, edm and eps are monotone",
    "table of weightings",
    tolerance=0,
)
def three_are_monotone():
    process = Gaussian(Cosine(-9.0, 13.3))
    kinds = (ELBO(), Sigmoid(), EDMMonotone(), EDMLoss(), Eps())
    return sum(implied_weighting(Matching("v", Stratified(), w), process).is_monotone for w in kinds), 3


@check(
    ELBOWeighting,
    "the ELBO of N(0, 1/4) with its exact denoiser, is its entropy, nats",
    "the ELBO",
    1e-3,
)
def elbo_is_tight():
    denoiser = gaussian(torch.zeros(1), _C).denoiser(Gaussian(Cosine(-9.0, 13.3)))
    x0 = torch.special.ndtri((torch.arange(512, dtype=torch.float64) + 0.5) / 512)[:, None]
    x0 = x0 / x0.std(correction=0) * _C**0.5
    both = torch.cat([x0, x0])
    return float(likelihood(denoiser, both, Continuous(draws=400), rng=_PlusMinus(1024)).nats.mean()), (
        0.5 * math.log(2 * math.pi * math.e * _C)
    )


class _PlusMinus(Rng):
    """Noise of +1 and -1, which has the moments that a linear denoiser sees; times even over the batch and the draws."""

    def __init__(self, count: int):
        super().__init__([(i,) for i in range(count)])

    def normal(self, *event: int, dtype: torch.dtype = torch.float32) -> Tensor:
        half = torch.ones(len(self) // 2, *event, dtype=dtype)
        return torch.cat([half, -half])

    def uniform(self, *event: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.full((len(self), *event), 0.5 / 400, dtype=dtype)


# Claims, on the 8x8 digits: networks of 0.2 M parameters, 600 steps of 64 images, labels left out.


def _model(lab, seed, weighting: Name, adaptive=True):
    return lab.digits(
        ELBOWeighting, seed, steps=600, small=True, weighting=weighting, adaptive=adaptive, conditional=False
    )


@torch.no_grad()
def _bits(lab, model) -> float:
    x0 = lab.held_out("digits")
    return float(likelihood(model, x0, Continuous(draws=30)).bits.mean())


@claim(ELBOWeighting, "Of the weightings, w = 1, the ELBO itself, gives the best bound on held-out data", "the ELBO")
def elbo_is_best_by_its_own_measure(lab) -> Finding:
    margins, numbers = [], {}
    names: tuple[Name, ...] = ("elbo", "sigmoid", "edm-monotone", "edm")
    for seed in lab.seeds:
        found = {name: _bits(lab, _model(lab, seed, name)) for name in names}
        margins.append(min(v for name, v in found.items() if name != "elbo") - found["elbo"])
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "bits/dim of 293 held-out digits, continuous bound", **numbers})


def _distance(lab, seed, name: Name) -> float:
    samples = lab.samples(_model(lab, seed, name), 400, Sampling(Heun(), Karras(18)))
    return lab.frechet(samples.clamp(-1, 1), lab.held_out("digits"))


def _distances(lab, names: tuple[Name, ...], margin) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        found = {name: _distance(lab, seed, name) for name in names}
        margins.append(margin(found))
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "frechet[classifier:digits], 400 samples", **numbers})


@claim(
    ELBOWeighting,
    "Weight on noisier levels makes better samples: sigmoid and EDM-monotonic are nearer to the data than w = 1",
    "results",
)
def weighting_improves_samples(lab) -> Finding:
    return _distances(
        lab, ("elbo", "sigmoid", "edm-monotone"), lambda d: 1 - max(d["sigmoid"], d["edm-monotone"]) / d["elbo"]
    )


@claim(
    ELBOWeighting,
    "EDM's weighting made monotone samples as well as EDM's own, within a tenth of the distance",
    "results",
)
def monotone_matches_its_parent(lab) -> Finding:
    return _distances(lab, ("edm", "edm-monotone"), lambda d: 1.1 - d["edm-monotone"] / d["edm"])


@torch.no_grad()
def _deviation(lab, model, weighting: Weighting, times: Times) -> float:
    """Standard deviation of the loss of 64 held-out digits, over 100 draws, after 100 draws that adaptive times learn from."""
    objective, x0, losses = Matching("eps", times, weighting), lab.held_out("digits"), []
    for i in range(200):
        loss = objective(model.denoiser, x0[:64], None, Rng.for_step(9, i, range(64)))
        objective.observe(loss)
        losses.append(loss.per_example.double().mean())
    return float(torch.stack(losses[100:]).std())


@claim(
    ELBOWeighting,
    "Adaptive noise levels lower the deviation of a batch's loss, for w = 1 and EDM's w",
    "adaptive noise",
)
def adaptive_levels_lower_the_deviation(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _model(lab, seed, "elbo")
        for name, w in {"elbo": ELBO(), "edm": EDMLoss(model.spec.std)}.items():
            found = {
                kind: _deviation(lab, model, w, times)
                for kind, times in {"cosine": Stratified(), "adaptive": Adaptive(Stratified())}.items()
            }
            margins.append(found["cosine"] / found["adaptive"] - 1)
            numbers[f"seed {seed}, {name}"] = found
    return Finding.over_seeds(margins, {"measure": "standard deviation of the loss of 64 digits", **numbers})


@claim(
    ELBOWeighting,
    "At equal steps, adaptive noise levels train to a better bound than a cosine's, for w = 1",
    "adaptive noise",
)
def adaptive_levels_speed_training(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        found = {kind: _bits(lab, _model(lab, seed, "elbo", kind == "adaptive")) for kind in ("adaptive", "cosine")}
        margins.append(found["cosine"] - found["adaptive"])
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "bits/dim of 293 held-out digits, 600 steps", **numbers})


untestable(
    ELBOWeighting,
    "state-of-the-art FID on high-resolution ImageNet",
    "abstract",
    "needs ImageNet, which no package ships, and a billion images through a network of 296 M parameters",
)
