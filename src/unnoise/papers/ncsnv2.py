r"""NCSNv2: five rules in place of NCSN's hand-set constants, so that score networks scale to larger images.

1. sigma_1 is the largest distance between two of the data.   2. Neighbouring levels' shells overlap by about a half.
3. s(x, sigma) = f(x) / sigma, of a network that is not told sigma.   4. The Langevin step h sigma^2 keeps each level's variance:
R(h) = (1 - h)^{2T} (gamma^2 - b) + b nearest 1, b = 1 / (1 - h/2).   5. The weights that sample are averages.
And the walk ends with a denoising step, x + sigma^2 s(x, sigma). Units are those of [-1, 1], twice the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem
from ..networks import RefineNetOptions, UNetOptions, published
from ..objectives import Matching, Objective, UniformSteps
from ..oracles import finite_set, gaussian
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import AnnealedLangevin, ConsistentLangevin, Integers, Ladder, sample
from ..samplers.ladder import best_step, diameter, overlap, settled_variance, spacing
from ..schedules import Geometric
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper


@paper(
    "2006.09011",
    "Improved Techniques for Training Score-Based Generative Models",
    "Yang Song, Stefano Ermon",
    2020,
    "NeurIPS 2020",
)
@dataclass(frozen=True)
class NCSNv2(Recipe):
    """Noise levels, their spacing and the Langevin step follow from the data; the network is not told the noise level."""

    sigma_max: float | None = None
    """Largest noise level, in units of [-1, 1]; the largest distance between two training images if left out (technique 1)."""
    sigma_min: float = 0.02
    """Smallest noise level."""
    levels: int | None = None
    """Number of noise levels; as many as `share` asks for if left out (technique 2)."""
    share: float = 0.5
    """Share of each level's samples within three deviations of the shell of the level above; the published ladders have 0.567."""
    blind: bool = True
    """Whether the network must see the noise level by itself (technique 3)."""
    backbone: Literal["unet", "refinenet"] = "unet"
    """The house's U-Net, or the paper's network."""
    refinenet: RefineNetOptions = published.NCSNV2_32
    """The paper's network."""
    corrections: int = 5
    """Langevin steps at each level."""
    h: float | None = None
    """Their size over sigma^2, which is eps_step / sigma_L^2; the best for this ladder if left out (technique 4)."""
    denoise: bool = True
    """Whether the walk ends with the guess of the clean image."""

    @classmethod
    def paper(cls) -> NCSNv2:
        """CIFAR-10, 300k steps: FID 10.87 with the denoising step."""
        return cls(
            data="cifar10",
            flip=True,
            sigma_max=100.0,
            levels=232,
            h=0.062,
            backbone="refinenet",
            training=replace(
                PUBLISHED,
                steps=300_000,
                batch_size=128,
                lr=1e-4,
                clip=None,
                ema=88_700,  # 0.999 a step (technique 5)
            ),
        )

    def fitted(self, data: Any) -> NCSNv2:
        """With the largest level and their number from these data."""
        if self.sigma_max is not None and self.levels is not None:
            return self
        sigma_max = self.sigma_max or diameter(data)
        ladder = Ladder.spaced(sigma_max, self.sigma_min, math.prod(data.shape), self.share)
        return replace(self, sigma_max=sigma_max, levels=self.levels or ladder.levels)

    def ladder(self, shape: tuple[int, ...] | None = None) -> Ladder:
        """The noise levels; where they are left to the data, those of data of this shape as wide apart as [-1, 1] allows."""
        if self.sigma_max is not None and self.levels is not None:
            return Ladder(self.sigma_max, self.sigma_min, self.levels)
        if shape is None:
            raise UsageProblem(
                "the noise levels of this ncsnv2 are left to its data; give sigma_max and levels, or train it"
            )
        ladder = Ladder.spaced(
            self.sigma_max or 2 * math.prod(shape) ** 0.5, self.sigma_min, math.prod(shape), self.share
        )
        return replace(ladder, levels=self.levels or ladder.levels)

    def process(self) -> Gaussian[Geometric]:
        return self.ladder().process()

    def build_network(self, spec: Spec, outputs: int = 1) -> nn.Module:
        if self.backbone == "unet":
            return super().build_network(spec, outputs)
        labels = spec.num_classes if self.conditional else None
        levels = None if self.blind else self.ladder(spec.shape).levels
        return replace(self.refinenet, levels=levels).build(spec.shape[0], outputs * spec.shape[0], labels)

    def denoiser(self, spec: Spec) -> Denoiser:
        ladder = self.ladder(spec.shape)
        process, scale = ladder.process(), 1.0 if self.backbone == "refinenet" else 1000 / ladder.levels
        told = pre.Blind() if self.blind else pre.DDPM(process.schedule, "eps", scale)
        return NetworkDenoiser(self.build_network(spec), process, told)

    def objective(self, spec: Spec) -> Objective:
        return Matching("eps", UniformSteps(self.ladder(spec.shape).levels))

    def sampling(self) -> Sampling:
        return Sampling(AnnealedLangevin(self.corrections, self.denoise, self.h), Integers(self.ladder().levels))


# Exact checks, in the paper's units of [0, 1] where they have units.

CIFAR10 = Ladder(50.0, 0.01, 232)


@check(NCSNv2, "ratio of neighbouring levels whose shells overlap by a half, in 3072 dimensions", "technique 2", 1e-6)
def ratio_at_a_half():
    return spacing(3072, 0.5), 1.0397964


@check(NCSNv2, "overlap of the published ladder for CIFAR-10", "technique 2", 1e-4)
def published_overlap():
    return overlap(CIFAR10.gamma, 3072), 0.5670


@check(NCSNv2, "best Langevin step of the published ladder for CIFAR-10, eps_step in millionths", "technique 4", 0.01)
def best_langevin_step():
    return 1e6 * best_step(CIFAR10.gamma, 5) * 0.01**2, 6.18


@check(NCSNv2, "its variance after 5 steps, over that of the level", "technique 4", 1e-5)
def variance_left():
    return settled_variance(0.062, CIFAR10.gamma, 5), 1.05547


@check(NCSNv2, "the closed form of the variance against v <- (1 - h)^2 v + 2 h, step by step", "technique 4", 1e-12)
def variance_step_by_step():
    h, gamma = 0.062, CIFAR10.gamma
    v = gamma**2
    for _ in range(5):
        v = (1 - h) ** 2 * v + 2 * h
    return settled_variance(h, gamma, 5), v


@check(
    NCSNv2, "the last step, x + sigma^2 s(x, sigma), is the mean of the clean data given x", "the denoising step", 1e-12
)
def denoising_step():
    process = CIFAR10.process()
    denoiser = gaussian(torch.tensor([0.3], dtype=torch.float64), 0.25).denoiser(process)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    point = process.point(1 / 232)
    stepped = x + point.sigma**2 * denoiser.score(x, torch.full((5,), 1 / 232, dtype=torch.float64))
    mean = (0.25 * x + point.sigma**2 * 0.3) / (0.25 + point.sigma**2)
    return float((stepped - mean).abs().max()), 0.0


@check(
    NCSNv2,
    "how far a component's share seen from another exceeds exp(-d^2 / (8 sigma^2)) / 2, at 40 distances: nowhere",
    "technique 1",
    1e-9,
)
def shares_of_a_mixture():
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    normal = torch.exp(-z * z / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    excess = 0.0
    for d in torch.linspace(0.1, 12, 40, dtype=torch.float64):  # in units of sigma
        other = torch.sigmoid(
            d * z - d * d / 2
        )  # the other's share at a point of the first: N(z; d) / (N(z; d) + N(z; 0))
        excess = max(excess, float((normal * other).sum() - 0.5 * torch.exp(-d * d / 8)))
    return excess, 0.0


# Claims. The first needs no network: the exact score of 500 of the 8x8 digits, each with equal weight.


def _mean_distance(x: torch.Tensor) -> float:
    return float(torch.pdist(x.flatten(1).double()).mean())


@claim(
    NCSNv2,
    "With exact scores, a largest level of 1 (0.5 for pixels in [0, 1]) loses variety: samples lie closer together than with the "
    "data's own diameter, which gives samples as far apart as the data, within a tenth",
    "technique 1, figure 2",
)
def diameter_keeps_variety(lab) -> Finding:
    data = lab.data("digits").batch(range(500)).x
    margins, numbers = [], dict[str, Any](data=_mean_distance(data))
    widest = Ladder.design(data)
    for seed in lab.seeds:
        found = {}
        for name, ladder in (("diameter", widest), ("1", Ladder.spaced(1.0, 0.02, 64))):
            rng = Rng.from_seeds(range(100 * seed, 100 * (seed + 1)))
            start = (2 * rng.uniform(1, 8, 8) - 1).float()
            denoiser = finite_set(data).denoiser(ladder.process())
            x = sample(denoiser, AnnealedLangevin(5), ladder.grid(), start.shape, rng=rng, start=start)
            found[name] = _mean_distance(x) / numbers["data"]
        margins.append(min(found["diameter"] - found["1"], 0.1 - abs(found["diameter"] - 1)))
        numbers[f"seed {seed}"] = found
    numbers["measure"] = f"mean distance of 100 samples over that of the data; diameter {widest.sigma_max:.3g}"
    return Finding.over_seeds(margins, numbers)


# The others, on the 8x8 digits: a network of 0.2 M parameters, 800 steps of 64 images; smallest level 0.1 (0.05 in [0, 1]), so
# that what it leaves can be seen.


def _model(lab, seed, **options):
    return lab.digits(NCSNv2, seed, steps=800, small=True, sigma_min=0.1, **options)


def _distance(lab, model, count=200, **step):
    sampling = model.recipe.sampling()
    return lab.sliced(
        lab.samples(model, count, replace(sampling, step=replace(sampling.step, **step))), lab.held_out("digits")
    )


@claim(NCSNv2, "The denoising step brings samples closer to the data", "table 1")
def denoising_helps(lab) -> Finding:
    found = {
        name: [_distance(lab, _model(lab, s), denoise=on) for s in lab.seeds]
        for name, on in (("with", True), ("without", False))
    }
    margins = [b - a for a, b in zip(found["with"], found["without"], strict=True)]
    return Finding.over_seeds(margins, {"measure": "sliced_wasserstein[pixels], 200 samples", **found})


FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


@claim(
    NCSNv2,
    "The rule's Langevin step samples as well as the best of a quarter, half, twice and four times it, within a tenth",
    "technique 4",
)
def rule_for_the_step_is_good(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _model(lab, seed)
        rule = best_step(model.recipe.ladder().gamma, 5)
        found = {f"{k:g} h": _distance(lab, model, h=k * rule) for k in FACTORS if k * rule < 2}
        margins.append(1.1 * min(found.values()) - found["1 h"])
        numbers[f"seed {seed}"] = found
    measure = f"sliced_wasserstein[pixels], 200 samples; h = {rule:.3g}"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


@claim(
    NCSNv2,
    "With one move a level and a denoising step at the end, the consistent dynamics sample better than the annealed, each at its "
    "better of two steps",
    "2009.05475",
)
def consistency_pays(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _model(lab, seed)
        grid, h = model.recipe.sampling().grid, best_step(model.recipe.ladder().gamma, 1)
        steps = {
            f"{name}, {k:g} h": kind
            for k in (1.0, 3.0)
            for name, kind in (
                ("annealed", AnnealedLangevin(1, h=min(k * h, 1.9))),
                ("consistent", ConsistentLangevin(min(max(k * h, 1 - model.recipe.ladder().gamma), 1.0))),
            )
        }
        found = {
            name: lab.sliced(lab.samples(model, 200, Sampling(step, grid)), lab.held_out("digits"))
            for name, step in steps.items()
        }
        best = {kind: min(v for n, v in found.items() if n.startswith(kind)) for kind in ("annealed", "consistent")}
        margins.append(best["annealed"] - best["consistent"])
        numbers[f"seed {seed}"] = found
    measure = f"sliced_wasserstein[pixels], 200 samples; h = {h:.3g}, the rule's for one move"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


@torch.no_grad()
def _held_out_loss(lab, model) -> float:
    """The training loss on held-out digits, 10 noisings each."""
    x0, objective = lab.held_out("digits"), model.recipe.objective(model.spec)
    draws = [objective(model.denoiser, x0, None, Rng.for_step(7, i, range(len(x0)))) for i in range(10)]
    return float(torch.cat([d.per_example for d in draws]).mean())


@claim(
    NCSNv2,
    "A network that is not told the noise level has as low a loss as one that is, within a twentieth",
    "technique 3",
)
def blindness_costs_little(lab) -> Finding:
    found = {
        name: [_held_out_loss(lab, _model(lab, seed, blind=blind)) for seed in lab.seeds]
        for name, blind in (("blind", True), ("told", False))
    }
    margins = [1.05 - a / b for a, b in zip(found["blind"], found["told"], strict=True)]
    return Finding.over_seeds(margins, {"measure": "held-out loss of 293 digits, 10 noisings each", **found})


@claim(
    NCSNv2,
    "Averaged weights sample more steadily: over the training's last five checkpoints the distance strays less from its trend",
    "technique 5",
)
def averages_are_steadier(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        found = _along_the_training(lab, seed)
        spread = {name: _about_its_line(row) for name, row in found.items()}
        margins.append(math.log(spread["model"] / spread["ema"]))
        numbers[f"seed {seed}"] = found
    measure = (
        "sliced_wasserstein[pixels], 100 samples of the same noise; margin: log of the ratio of deviations from the straight "
        "line through the five (both still improve, and the average's improvement alone outweighs its deviations)"
    )
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


def _about_its_line(row) -> float:
    """Deviation of numbers from the straight line that fits them best."""
    y = torch.tensor(row, dtype=torch.float64)
    x = torch.arange(len(row), dtype=torch.float64) - (len(row) - 1) / 2
    y = y - y.mean()
    return float((y - (x @ y) / (x @ x) * x).norm())


def _along_the_training(lab, seed):
    """Distances at steps 600 to 800 of a training at a constant rate, averaged (half-life 100 steps) and not."""
    training = TrainingOptions(
        steps=800, batch_size=64, lr=1e-3, warmup=100, ema=6_400, ema_rampup=None, checkpoint_every=50, keep=5
    )
    network = UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), dropout=0.1)
    last = lab.train(NCSNv2(data="digits", network=network, sigma_min=0.1, training=training), seed)
    held_out, found = lab.held_out("digits"), {}
    for name in ("ema", "model"):
        models = [type(last).load(last.path, name, step) for step in range(600, 801, 50)]
        found[name] = [lab.sliced(model.sample(range(100)), held_out) for model in models]
    return found


untestable(
    NCSNv2,
    "CIFAR-10 samples of FID 10.87, and stable samples at 96 to 256 pixels",
    "table 1",
    "needs 300k steps of a RefineNet of 30 M parameters, 22 hours of two V100 (`unnoise train ncsnv2 --preset paper`)",
)
