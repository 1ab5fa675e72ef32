r"""Score-based models in continuous time: data are diffused by an SDE, and walked back along its reverse, or along its flow.

dx = f dt + g dw,     reverse: dx = [f - g^2 score] dt + g dw,     flow: dx = [f - g^2 score / 2] dt

VE: x + sigma(t) eps;  VP: DDPM's chain in the limit;  sub-VP: VP's signal with the square of its noise. Noise levels of VE are in
the units of [-1, 1], twice the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ..denoisers import ClassifyingDenoiser, Denoiser, NetworkDenoiser, colourisation, imputation, inpainting
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem
from ..likelihood import Flow, likelihood
from ..networks import UNetOptions, published
from ..objectives import Matching, Objective, Uniform, WithClassifier
from ..oracles import gaussian
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng, stream
from ..samplers import (
    RK45,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Step,
    sample,
)
from ..samplers import Uniform as Grid
from ..samplers.ladder import diameter
from ..schedules import VE, FromBetas, LinearVP, Schedule, SubVP
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper

Predictor = Literal["published", "reverse-diffusion", "ancestral", "euler-maruyama", "none"]
Corrector = Literal["published", "langevin", "annealed-langevin", "none"]


@paper(
    "2011.13456",
    "Score-Based Generative Modeling through Stochastic Differential Equations",
    "Yang Song, Jascha Sohl-Dickstein, Diederik P. Kingma, Abhishek Kumar, Stefano Ermon, Ben Poole",
    2021,
    "ICLR 2021",
)
@dataclass(frozen=True)
class ScoreSDE(Recipe):
    """Diffusion in continuous time: reverse SDE, predictor-corrector, probability flow and its likelihood from one score."""

    sde: Literal["ve", "vp", "sub-vp"] = "ve"
    """How data are diffused."""
    weighting: Literal["simple", "likelihood"] = "simple"
    """Of the score's error: sigma^2, or g^2, which bounds the likelihood."""
    sigma_min: float = 0.02
    """VE: smallest noise level, in units of [-1, 1]."""
    sigma_max: float | None = None
    """VE: largest noise level; the largest distance between two training images if left out, as in ncsnv2."""
    beta_min: float = 0.1
    """VP and sub-VP: rate at t = 0."""
    beta_max: float = 20.0
    """VP and sub-VP: rate at t = 1."""
    t_min: float = 1e-5
    """Smallest time of training."""
    predictor: Predictor = "published"
    """Step from one time to the next; published: reverse diffusion for VE, Euler-Maruyama for the others."""
    corrector: Corrector = "published"
    """Moves within one time; published: Langevin dynamics for VE, none for the others."""
    snr: float = 0.16
    """The corrector's ratio of drift to noise."""
    corrections: int = 1
    """The corrector's moves at each time."""
    sampling_steps: int = 200
    """Steps of the sampler (the paper: 1000)."""
    classifier: bool = False
    """Whether a classifier of diffused images is trained beside the score, to lead samples to a class."""
    classifier_network: UNetOptions = UNetOptions(
        channels=32, mult=(1, 2, 2), blocks=1, attention=(4,), resample="conv"
    )
    classifier_lr: float = 1e-3
    """Learning rate of the classifier."""
    guidance: float = 1.0
    """Weight of the classifier."""

    @classmethod
    def paper(cls) -> ScoreSDE:
        """CIFAR-10, NCSN++ continuous, 1.3M steps: FID 2.38. `published.DDPMPP_CIFAR10` is the network of VP and sub-VP."""
        return cls(
            data="cifar10",
            flip=True,
            network=published.NCSNPP_CIFAR10,
            sigma_max=100.0,
            sampling_steps=1000,
            training=replace(
                PUBLISHED,
                steps=1_300_000,
                batch_size=128,
                lr=2e-4,
                warmup=5000,
                ema=88_700,  # 0.999 a step
                ema_rampup=0.077,  # (1 + n) / (10 + n) a step, n steps
            ),
        )

    def fitted(self, data: Any) -> ScoreSDE:
        """With VE's largest level from these data."""
        return replace(self, sigma_max=diameter(data)) if self.sde == "ve" and self.sigma_max is None else self

    def schedule(self, shape: tuple[int, ...] | None = None) -> Schedule:
        """Signal and noise; where VE's largest level is left to the data, as wide apart as those of this shape can be."""
        if self.sde != "ve":
            return (LinearVP if self.sde == "vp" else SubVP)(self.beta_min, self.beta_max)
        if self.sigma_max is None and shape is None:
            raise UsageProblem(
                "the largest noise level of this score-sde is left to its data; give sigma_max, or train it"
            )
        return VE(self.sigma_min, self.sigma_max or 2 * math.prod(shape or ()) ** 0.5)

    def process(self) -> Gaussian:
        return Gaussian(self.schedule())

    def denoiser(self, spec: Spec) -> Denoiser:
        told = pre.VE() if self.sde == "ve" else pre.Raw("eps", scale=999.0)
        network, process = self.build_network(spec), Gaussian(self.schedule(spec.shape))
        if not self.classifier:
            return NetworkDenoiser(network, process, told)
        if spec.num_classes is None:
            raise UsageProblem("a classifier learns from labels, and these data have none; pass --no-classifier")
        channels, height, width = spec.shape
        classifier = self.classifier_network.build_encoder(channels, spec.num_classes, (height, width))
        return ClassifyingDenoiser(network, classifier, process, told, conditional=self.conditional)

    def objective(self, spec: Spec) -> Objective:
        # g^2 |score error|^2 is twice the ELBO's weighting, whatever the SDE
        times = Uniform(self.t_min)
        matching = Matching("eps", times, "constant" if self.weighting == "simple" else "elbo")
        return (
            WithClassifier(matching, times, lr=self.classifier_lr, weight_decay=0.05) if self.classifier else matching
        )

    def sampling(self) -> Sampling:
        # VE keeps noise at t = 0 and is walked to there; the others leave off at 1/1000
        grid = Grid(self.sampling_steps, through_zero=True) if self.sde == "ve" else Grid(self.sampling_steps, end=1e-3)
        return Sampling(self.step(), grid, classifier=self.guidance if self.classifier else 0.0)

    def step(self) -> Step:
        """The predictor and the corrector that were chosen."""
        ve = self.sde == "ve"
        predictors: dict[str, Step | None] = {
            "published": ReverseDiffusion() if ve else EulerMaruyama(),
            "reverse-diffusion": ReverseDiffusion(),
            "ancestral": Ancestral(variance="small" if ve else "large"),
            "euler-maruyama": EulerMaruyama(),
            "none": None,
        }
        langevin = Langevin(self.corrections, snr=self.snr)
        correctors: dict[str, Step | None] = {
            "published": langevin if ve else None,
            "langevin": langevin,
            "annealed-langevin": AnnealedLangevin(self.corrections, h=2 * self.snr**2),
            "none": None,
        }
        return PredictorCorrector(predictors[self.predictor], correctors[self.corrector])


# Exact checks: closed forms, and data N(0, 1/4), whose score is known.


def _on_gaussian(schedule: Schedule, variance: float = 0.25) -> Denoiser:
    return gaussian(torch.zeros(1, dtype=torch.float64), variance).denoiser(Gaussian(schedule))


@check(ScoreSDE, "alpha(1)^2 of VP", "table of the SDEs", 1e-9)
def vp_ends():
    return Gaussian(LinearVP()).point(1.0).alpha ** 2, 4.3186e-5


@check(ScoreSDE, "g^2 of sub-VP at t = 0.4 is beta (1 - exp(-2 B))", "the sub-VP SDE", 1e-9)
def sub_vp_diffusion():
    process, t = Gaussian(SubVP()), 0.4
    beta, total = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t * t / 2
    return process.diffusion(process.point(t), torch.zeros(1, 1)) ** 2, beta * (1 - math.exp(-2 * total))


@check(ScoreSDE, "g^2 of VE at t = 0.4 is 2 sigma^2 ln(sigma_max / sigma_min)", "the VE SDE", 1e-9)
def ve_diffusion():
    process = Gaussian(VE())
    point = process.point(0.4)
    return process.diffusion(point, torch.zeros(1, 1)) ** 2, 2 * point.sigma**2 * math.log(5000)


@check(ScoreSDE, "largest difference of alpha^2 between VP and DDPM's chain of 1000", "VP as the limit of DDPM", 1e-5)
def ddpm_is_vp():
    betas = 1e-4 + (0.02 - 1e-4) * torch.arange(1000, dtype=torch.float64) / 999
    i = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return float((torch.cumprod(1 - betas, 0) - LinearVP().alpha(i) ** 2).abs().max()), 8.2e-4


@check(ScoreSDE, "the flow by RK45: spread at the end over that of the closed form", "probability flow", 1e-5)
def flow_is_exact():
    denoiser = _on_gaussian(LinearVP())
    high, low = denoiser.process.points([1.0, 1e-3])  # type: ignore[attr-defined]
    deviation = [math.sqrt(0.25 * p.alpha**2 + p.sigma**2) for p in (high, low)]
    start = torch.full((1, 1), deviation[0], dtype=torch.float64)
    end = sample(denoiser, RK45(atol=1e-8, rtol=1e-8), lambda _: [high, low], (1, 1), start=start, dtype=torch.float64)
    return end.item() / deviation[1], 1.0


@check(ScoreSDE, "log-density of the flow of N(0, 1/4) data at 0.3, nats", "likelihood by the flow", 1e-7)
def flow_likelihood():
    x = torch.tensor([[0.3]], dtype=torch.float64)
    denoiser = _on_gaussian(LinearVP())
    found = likelihood(denoiser, x, Flow(tolerance=1e-8, start=1e-5), rng=Rng.from_seeds([0]))
    low, high = denoiser.process.points([1e-5, 1.0])  # type: ignore[attr-defined]
    stretch = math.sqrt((0.25 * high.alpha**2 + high.sigma**2) / (0.25 * low.alpha**2 + low.sigma**2))
    end = stretch * low.alpha * 0.3  # where the flow takes x, under the prior N(0, 1)
    return -found.nats.item(), -0.5 * (end**2 + math.log(2 * math.pi)) + math.log(stretch * low.alpha)


@check(
    ScoreSDE,
    "on N(0, 1) the flow by reverse diffusion of 1000 steps stretches, where the true one does nothing",
    "the reverse diffusion sampler",
    4e-4,
)
def reverse_diffusion_flow_is_biased():
    chain = FromBetas(0.1 / 1000 + (20 - 0.1) / 1000 * (torch.arange(1, 1001).double() / 1000))
    denoiser = _on_gaussian(chain, 1.0)
    points = denoiser.process.points([i / 1000 for i in range(1000, 0, -1)])  # type: ignore[attr-defined]
    start = torch.ones(1, 1, dtype=torch.float64)
    return sample(
        denoiser, ReverseDiffusion(noise=0), lambda _: points, (1, 1), start=start, dtype=torch.float64
    ).item(), 1.0170


# Claims, on the 8x8 digits: networks of 0.2 M parameters, 700 steps of 64 images.


def _model(lab, seed, sde):
    return lab.digits(ScoreSDE, seed, steps=700, small=True, sde=sde)


def _walks(lab, walks, count=200):
    """Distances of samples of VE for each named step and number of steps, for each seed."""
    rows = []
    for seed in lab.seeds:
        model = _model(lab, seed, "ve")
        samplings = {name: Sampling(step, Grid(steps, through_zero=True)) for name, (step, steps) in walks.items()}
        samples = {name: lab.samples(model, count, sampling) for name, sampling in samplings.items()}
        rows.append({name: lab.sliced(x, lab.held_out("digits")) for name, x in samples.items()})
    return rows, {"measure": f"sliced_wasserstein[pixels], {count} samples of VE", **_by_seed(rows)}


def _by_seed(rows):
    return {f"seed {i}": row for i, row in enumerate(rows)}


@claim(
    ScoreSDE,
    "For VE, a Langevin corrector improves the flow's predictor more than twice as many of its steps do",
    "table 1",
)
def corrector_beats_more_steps(lab) -> Finding:
    flow = ReverseDiffusion(noise=0.0)
    walks = {
        "predictor, 100 steps": (flow, 100),
        "predictor, 200 steps": (flow, 200),
        "predictor and corrector, 100 steps": (PredictorCorrector(flow, Langevin()), 100),
    }
    rows, numbers = _walks(lab, walks)
    return Finding.over_seeds([min(alone) - both for *alone, both in map(dict.values, rows)], numbers)


@claim(
    ScoreSDE,
    "With equally many evaluations, Langevin dynamics alone samples worse than a predictor, alone or corrected",
    "table 1",
)
def corrector_alone_is_worst(lab) -> Finding:
    walks = {
        "corrector, 200 steps": (PredictorCorrector(None, Langevin()), 200),
        "predictor, 200 steps": (ReverseDiffusion(), 200),
        "predictor and corrector, 100 steps": (PredictorCorrector(), 100),
    }
    rows, numbers = _walks(lab, walks)
    return Finding.over_seeds([alone - max(others) for alone, *others in map(dict.values, rows)], numbers)


@claim(
    ScoreSDE,
    "A tolerance of 1e-2 in place of 1e-5 takes less than a third of the flow's evaluations, and samples as well within a tenth",
    "the flow by RK45",
)
def tolerance_buys_speed(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model, found = _model(lab, seed, "vp"), {}
        for tolerance in (1e-5, 1e-2):
            counted = _Counted(model.denoiser)
            step, grid = RK45(atol=tolerance, rtol=tolerance), Grid(2, end=1e-3)
            x = sample(counted, step, grid, (200, 1, 8, 8), rng=Rng.from_seeds(range(200)))
            found[f"{tolerance:g}"] = (lab.sliced(x, lab.held_out("digits")), counted.examples / 200)
        (fine, many), (coarse, few) = found.values()
        margins.append(min(many / few - 3, 1.1 - coarse / fine))
        numbers[f"seed {seed}"] = found
    measure = "sliced_wasserstein[pixels] of 200 samples, and evaluations an image"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


class _Counted(Denoiser):
    """A denoiser that counts the examples it is asked about."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser, self.process, self.examples = denoiser, denoiser.process, 0

    def forward(self, xt, t, cond=None):
        self.examples += len(xt)
        return self.denoiser(xt, t, cond)


@claim(ScoreSDE, "Sub-VP gives fewer bits per dimension than VP", "table 2")
def sub_vp_gives_fewer_bits(lab) -> Finding:
    x0 = lab.held_out("digits")[:200]
    method = Flow(divergence="rademacher", tolerance=1e-4)
    found = {
        sde: [float(likelihood(_model(lab, seed, sde), x0, method).bits.mean()) for seed in lab.seeds]
        for sde in ("vp", "sub-vp")
    }
    numbers = {"measure": "bits/dim of 200 held-out digits by the flow, uniformly dequantised", **found}
    return Finding.over_seeds([a - b for a, b in zip(found["vp"], found["sub-vp"], strict=True)], numbers)


@claim(
    ScoreSDE,
    "Without training for it, imputation completes halves of digits: read as their class more often than with another half",
    "imputation",
)
def imputation_completes_digits(lab) -> Finding:
    batch = lab.data("digits", "held-out").batch(range(200))
    left = torch.arange(8).expand(1, 8, 8) < 4
    half, grid = inpainting(batch.x, left), Grid(100, end=1e-3)
    margins, numbers = [], {}
    for seed in lab.seeds:
        model, rng = _model(lab, seed, "vp"), Rng.from_seeds(range(200))
        led = imputation(half, rng.spawn(1))(model.denoiser)
        found = {
            "completed": sample(led, EulerMaruyama(), grid, tuple(batch.x.shape), rng=rng),
            "half of another": torch.where(left, batch.x, lab.samples(model, 200, Sampling(EulerMaruyama(), grid))),
            "as they were": batch.x,
        }
        read = {name: lab.probabilities(x.clamp(-1, 1)).argmax(1) == batch.label for name, x in found.items()}
        rates = {name: float(right.double().mean()) for name, right in read.items()}
        margins.append(rates["completed"] - rates["half of another"])
        numbers[f"seed {seed}"] = rates
    return Finding.over_seeds(margins, {"measure": "accuracy of classifier:digits, 200 held-out digits", **numbers})


@claim(
    ScoreSDE,
    "A classifier of diffused digits leads the unconditional score to the class asked for, more surely at weight 3 than at 1",
    "class-conditional generation",
)
def classifier_leads_to_the_class(lab) -> Finding:
    margins, numbers, rows = [], {}, {}
    network = UNetOptions(channels=32, mult=(1, 2), blocks=1, attention=(2,), dropout=0.1)
    for seed in lab.seeds:
        model = lab.digits(ScoreSDE, seed, steps=700, small=True, sde="vp", classifier=True, classifier_network=network)
        labels, found = torch.arange(300) % 10, {}
        for weight in (0.0, 1.0, 3.0):
            x = lab.samples(model, 300, Sampling(EulerMaruyama(), Grid(100, end=1e-3), classifier=weight))
            found[f"weight {weight:g}"] = float((lab.probabilities(x.clamp(-1, 1)).argmax(1) == labels).double().mean())
            rows |= {f"weight {weight:g}": x[:10]} if seed == lab.seeds[0] else {}
        margins.append(min(found["weight 1"] - 2 * found["weight 0"], found["weight 3"] - found["weight 1"]))
        numbers[f"seed {seed}"] = found
    shown = lab.gallery_of("led-to-classes", rows, columns=10)
    return Finding.over_seeds(margins, {"measure": "accuracy of classifier:digits, 300 samples", **numbers}, [shown])


@claim(
    ScoreSDE,
    "Colourisation, without training for it: held-out emoji keep their grey, and get colours nearer to their own than those of "
    "other samples",
    "colourisation",
)
def colours_come_back(lab) -> Finding:
    training = TrainingOptions(steps=1000, batch_size=64, lr=1e-3, warmup=100, decay="linear", ema=20_000)
    network = UNetOptions(channels=32, mult=(1, 2), blocks=1, attention=(), dropout=0.1)
    seed = lab.seeds[0]
    model = lab.train(ScoreSDE(data="emoji-twitter", sde="vp", network=network, training=training), seed, size=16)
    true, walk = lab.held_out("emoji-twitter", 16)[:96], Sampling(EulerMaruyama(), Grid(100, end=1e-3))
    rng = Rng.from_seeds(range(len(true)))
    grey = true.mean(1, keepdim=True)
    led = imputation(colourisation(true), rng.spawn(1))(model.denoiser)
    coloured = sample(led, walk.step, walk.grid, tuple(true.shape), rng=rng).clamp(-1, 1)
    others = lab.samples(model, len(true), walk).clamp(-1, 1)

    def colours(x):
        return x - x.mean(1, keepdim=True)

    error = (colours(coloured) - colours(true)).square().mean((1, 2, 3))
    chance = (colours(others) - colours(true)).square().mean((1, 2, 3))
    kept = float((coloured.mean(1, keepdim=True) - grey).abs().mean())
    shown = lab.gallery_of("colourisation", {"grey": grey.expand_as(true), "coloured": coloured, "true": true})
    gain = (chance - error).double()
    random = stream(0, 7)
    draws = torch.stack([gain[torch.randint(len(gain), (len(gain),), generator=random)].mean() for _ in range(500)])
    low, high = draws.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    numbers = {
        "measure": "squared error of the colours (image less its grey), 96 held-out emoji of 16x16",
        "coloured": float(error.mean()),
        "another sample's": float(chance.mean()),
        "none": float(colours(true).square().mean()),
        "grey kept to": kept,
    }
    return Finding.bootstrapped(
        min(float(gain.mean()), 0.02 - kept), min(low, 0.02 - kept), min(high, 0.02 - kept), numbers, [shown]
    )


untestable(
    ScoreSDE,
    "CIFAR-10 FID 2.20 and inception score 9.89 with NCSN++ (deep, VE), 2.99 bits/dim with DDPM++ (deep, sub-VP)",
    "tables 2 and 3",
    "needs about a million steps of networks of 60 to 110 M parameters (`unnoise train score-sde --preset paper`)",
)
