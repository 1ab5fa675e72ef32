r"""Classifier-free guidance: one network, conditional and unconditional, extrapolated between the two.

eps~ = eps(z, null) + weight (eps(z, c) - eps(z, null));   the paper's w is weight - 1
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..denoisers import Denoiser, NetworkDenoiser, classifier_free
from ..denoisers import preconditioning as pre
from ..networks import UNetOptions, published
from ..objectives import Matching, Objective, Uniform
from ..oracles import Mixture
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import Ancestral
from ..samplers import Uniform as Grid
from ..schedules import Cosine
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
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

    @classmethod
    def paper(cls) -> CFG:
        """ImageNet at 64x64, 400k steps."""
        return cls(
            data="hf:ILSVRC/imagenet-1k",
            guidance=1.1,
            sampling_steps=256,
            network=published.ADM_IMAGENET64,
            training=replace(PUBLISHED, steps=400_000, batch_size=2048, lr=3e-4, ema=14_200_000),  # 0.9999 a step
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


# Exact checks, on two Gaussian classes, where everything is closed.


def _classes():
    means = torch.tensor([[1.0], [-1.0]])
    return Mixture(means, torch.tensor([[0.25], [0.25]]), labels=torch.tensor([0, 1]))


@check(
    CFG,
    "the guided score is the conditional one plus (weight - 1) times that of the implicit classifier",
    "section 3.2",
    1e-12,
)
def guided_score():
    process = CFG().process()
    data, weight = _classes(), 3.0
    x, t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], torch.full((9,), 0.5, dtype=torch.float64)
    label = torch.zeros(9, dtype=torch.int64)
    point = process.point(0.5)
    guess = classifier_free(weight)(data.denoiser(process))(x, t, {"label": label}).mean
    guided_score = (point.alpha * guess - x) / point.sigma**2
    leaf = x.clone().requires_grad_()
    conditional = data.log_prob(leaf, process, t, label)
    implicit = conditional - data.log_prob(leaf, process, t)
    (expected,) = torch.autograd.grad((conditional + (weight - 1) * implicit).sum(), leaf)
    return float((guided_score - expected).abs().max()), 0.0


@check(CFG, "log-SNR at the ends of the schedule: their sum", "section 2", tolerance=1e-9)
def ends_of_the_schedule():
    points = CFG().process().points([0.0, 1.0])
    return points[0].log_snr + points[1].log_snr, 0.0


@check(CFG, "forward variance between two log-SNRs, (1 - e^(lambda - lambda')) sigma^2", "equation 2", tolerance=1e-12)
def forward_variance():
    process = CFG().process()
    s, t = process.points([0.3, 0.6])
    law = process.transition(torch.zeros(1, 1, dtype=torch.float64), s, t)
    return law.std**2, t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2


# Claims, on Fashion-MNIST at 16x16: guidance weights 1 to 5 (the paper's w = 0 to 4), 32 steps.

WEIGHTS = (1.0, 1.5, 3.0, 5.0)


def _model(lab, seed, drop=0.1):
    training = TrainingOptions(
        steps=500, batch_size=64, lr=1e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=200
    )
    network = UNetOptions(channels=32, mult=(1, 2), blocks=1, attention=(), resample="conv")
    return lab.train(CFG(drop=drop, network=network, training=training), seed, size=16)


def _guided(lab, seed, weight, count=200):
    """Samples (count, 1, 28, 28), enlarged for the classifier, and their labels: the classes in turn."""
    sampling = replace(CFG().sampling(), guidance=weight, grid=Grid(32, through_zero=True))
    x = lab.samples(_model(lab, seed), count, sampling)
    large = torch.nn.functional.interpolate(x, (28, 28), mode="bicubic", antialias=True).clamp(-1, 1)
    return x, large, torch.arange(count) % 10


def _across(lab, measure):
    """measure(small, large, labels) at each weight, for each seed."""
    return [{w: measure(*_guided(lab, seed, w)) for w in WEIGHTS} for seed in lab.seeds]


def _named(rows):
    return {f"seed {i}": {f"weight {w:g}": v for w, v in row.items()} for i, row in enumerate(rows)}


@claim(
    CFG,
    "Guidance makes samples fit their label better: an independent classifier's accuracy rises",
    "section 4.1, where the inception score rises",
)
def guidance_raises_accuracy(lab) -> Finding:
    def accuracy(x, large, labels):
        return float((lab.probabilities(large).argmax(1) == labels).double().mean())

    rows = _across(lab, accuracy)
    numbers = {"measure": "accuracy of classifier:fashion-mnist, 200 samples", **_named(rows)}
    return Finding.over_seeds([row[3.0] - row[1.0] for row in rows], numbers)


@claim(
    CFG,
    "Guidance makes the classifier surer: the entropy of its predictions falls",
    "section 4.1, where the inception score rises",
)
def guidance_lowers_entropy(lab) -> Finding:
    def entropy(x, large, labels):
        return float(torch.special.entr(lab.probabilities(large)).sum(1).mean())

    rows = _across(lab, entropy)
    numbers = {"measure": "nats, 200 samples", **_named(rows)}
    return Finding.over_seeds([row[1.0] - row[3.0] for row in rows], numbers)


@claim(CFG, "Guidance costs variety: samples of one class lie closer together", "section 4.1, figures 1 and 3")
def guidance_costs_variety(lab) -> Finding:
    def spread(x, large, labels):
        pairs = [torch.pdist(x[labels == k].flatten(1)).mean() for k in range(10)]
        return float(torch.stack(pairs).mean())

    rows = _across(lab, spread)
    numbers = {"measure": "mean distance within a class, pixels, 200 samples", **_named(rows)}
    return Finding.over_seeds([row[1.0] - row[5.0] for row in rows], numbers)


@claim(
    CFG, "Strong guidance moves away from the data: the distance at weight 5 is above the smallest", "tables 1 and 2"
)
def too_much_guidance_hurts(lab) -> Finding:
    held_out = lab.held_out("fashion-mnist", 16)
    rows = _across(lab, lambda x, large, labels: lab.sliced(x, held_out))
    numbers = {"measure": "sliced_wasserstein[pixels], 200 samples", **_named(rows)}
    return Finding.over_seeds([row[5.0] - min(row.values()) for row in rows], numbers)


@torch.no_grad()
def _conditional_loss(lab, model):
    data = lab.data("fashion-mnist", "held-out", 16)
    objective = Matching("eps", Uniform())
    losses = []
    for i in range(0, len(data), 250):
        batch = data.batch(range(i, i + 250))
        rng = Rng.for_step(7, i, range(250))
        losses.append(objective(model.denoiser, batch.x, batch.cond, rng).per_example)
    return float(torch.cat(losses).mean())


@claim(
    CFG, "Dropping the label one time in ten leaves a better conditional model than every second time", "section 4.2"
)
def little_dropping_is_enough(lab) -> Finding:
    found = {f"drop {p}": [_conditional_loss(lab, _model(lab, s, p)) for s in lab.seeds] for p in (0.1, 0.5)}
    margins = [b - a for a, b in zip(found["drop 0.1"], found["drop 0.5"], strict=True)]
    return Finding.over_seeds(margins, {"measure": "held-out conditional loss", **found})


untestable(
    CFG,
    "ImageNet 64x64: FID 1.55 with w = 0.1, inception score 260 with w = 4",
    "table 1",
    "needs 400k steps of ADM's network on ImageNet, which no package ships",
)
