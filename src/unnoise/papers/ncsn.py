r"""NCSN: one network learns the gradient of the log density of the data under ten levels of noise; samples walk along it.

l(sigma) = 1/2 E |s(x + sigma eps, sigma) + eps / sigma|^2,   L = 1/levels sum_i sigma_i^2 l(sigma_i),
x <- x + a_i/2 s(x, sigma_i) + sqrt(a_i) z,   a_i / sigma_i^2 the same at every level, from the largest to the smallest

Noise levels are in the units of [-1, 1], twice the paper's. The walk begins in N(0, sigma_1^2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from ..denoisers import Denoiser, NetworkDenoiser, imputation, inpainting
from ..denoisers import preconditioning as pre
from ..networks import RefineNetOptions, published
from ..objectives import Dequantised, Matching, Objective, Sliced, UniformSteps
from ..oracles import finite_set, gaussian
from ..processes import Gaussian
from ..recipe import LAPTOP_TRAINING, Recipe, Sampling, Spec, Training
from ..rng import Rng
from ..samplers import AnnealedLangevin, Integers, Ladder, sample
from ..samplers.ladder import overlap
from ..schedules import Geometric
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
from . import paper


@paper(
    "1907.05600",
    "Generative Modeling by Estimating Gradients of the Data Distribution",
    "Yang Song, Stefano Ermon",
    2019,
    "NeurIPS 2019",
)
@dataclass(frozen=True)
class NCSN(Recipe):
    """Match the score of the data at several levels of noise; sample by Langevin dynamics from the noisiest down."""

    levels: int = 10
    """Number of noise levels, with one ratio between neighbours."""
    sigma_max: float = 2.0
    """Largest noise level, in units of [-1, 1]."""
    sigma_min: float = 0.02
    """Smallest noise level."""
    loss: Literal["denoising", "sliced"] = "denoising"
    """Score matching against the noise that was added, or sliced, which does not look at it and costs three times as much."""
    power: float = 2.0
    """Each level's loss is weighted by this power of its sigma."""
    dequantise: bool = True
    """Whether grey levels are spread evenly over their bins in training."""
    backbone: Literal["unet", "refinenet"] = "unet"
    """The house's U-Net, which gives sigma times the score, or the paper's network, which gives the score itself."""
    refinenet: RefineNetOptions = published.NCSN_32
    """The paper's network."""
    corrections: int = 100
    """Langevin steps at each level."""
    h: float = 0.1
    """Their size, a/2 over sigma^2: 0.1 as the paper writes, 0.2 as its published code runs."""
    denoise: bool = False
    """Whether the walk ends with the guess of the clean image, which the paper does not take."""
    training: Training = replace(LAPTOP_TRAINING, ema=None)

    @classmethod
    def paper(cls) -> NCSN:
        """CIFAR-10, 200k steps."""
        return cls(
            data="cifar10",
            flip=True,
            backbone="refinenet",
            h=0.2,
            training=replace(PUBLISHED, steps=200_000, batch_size=128, lr=1e-3, clip=None, ema=None),
        )

    def ladder(self) -> Ladder:
        return Ladder(self.sigma_max, self.sigma_min, self.levels)

    def process(self) -> Gaussian[Geometric]:
        return self.ladder().process()

    def build_network(self, spec: Spec, outputs: int = 1) -> nn.Module:
        if self.backbone == "unet":
            return super().build_network(spec, outputs)
        labels = spec.num_classes if self.conditional else None
        return replace(self.refinenet, levels=self.levels).build(spec.shape[0], outputs * spec.shape[0], labels)

    def denoiser(self, spec: Spec) -> Denoiser:
        process = self.process()
        kind, scale = ("score", 1.0) if self.backbone == "refinenet" else ("eps", 1000 / self.levels)
        return NetworkDenoiser(self.build_network(spec), process, pre.DDPM(process.schedule, kind, scale))

    def objective(self, spec: Spec) -> Objective:
        kind = (
            Matching("eps", self._times(), self._weight)
            if self.loss == "denoising"
            else Sliced(self._times(), self._weight)
        )
        return Dequantised(kind, spec.levels) if self.dequantise else kind

    def _times(self) -> UniformSteps:
        return UniformSteps(self.levels)

    def _weight(self, point):
        return point.sigma ** (self.power - 2)  # on the error of eps, which is sigma times that of the score

    def sampling(self) -> Sampling:
        return Sampling(AnnealedLangevin(self.corrections, self.denoise, self.h), Integers(self.levels))


# Exact checks.


def _second_moments(scale: float) -> tuple[Tensor, Tensor]:
    """x_0 and eps whose first two moments are those of N(0, scale^2) and N(0, 1): enough for a quadratic loss."""
    pairs = torch.tensor(list(product((-1.0, 1.0), (-1.0, 1.0))), dtype=torch.float64)
    return scale * pairs[:, :1], pairs[:, 1:]


def _at_the_optimum(objective: str, sigma: float = 0.3, scale: float = 0.5) -> float:
    """The loss of the exact score of N(0, scale^2) data at one level, in expectation."""
    recipe = NCSN(levels=2, sigma_max=2 * sigma, sigma_min=sigma)
    denoiser = gaussian(torch.zeros(1).double(), scale**2).denoiser(recipe.process())
    x0, eps = _second_moments(scale)
    xt, t = x0 + sigma * eps, torch.full((4,), 0.5, dtype=torch.float64)
    if objective == "sliced":
        return float(Sliced(UniformSteps(2)).estimate(denoiser, xt, t, None, [torch.ones_like(xt)]).detach().mean())
    one = torch.ones(4, dtype=torch.float64)
    return float(Matching("eps", UniformSteps(2)).compare_at(denoiser, x0, xt, t, None, one).per_example.mean())


@check(
    NCSN,
    "the denoising loss of the exact score of N(0, s^2): s^2 / (s^2 + sigma^2) a number",
    "the objective of denoising score matching",
    1e-12,
)
def denoising_optimum():
    return _at_the_optimum("denoising"), 0.5**2 / (0.5**2 + 0.3**2)


@check(
    NCSN,
    "the sliced loss of the exact score is the denoising loss, without the noise",
    "the objective of sliced score matching",
    1e-12,
)
def sliced_optimum():
    return _at_the_optimum("sliced"), _at_the_optimum("denoising")


@check(NCSN, "ratio of neighbouring levels, ten from 1 to 0.01", "appendix B: 10 levels from 1 to 0.01", 1e-4)
def ratio_of_levels():
    sigmas = [t.sigma for t in NCSN().ladder().grid()(NCSN().process())[:-1]]
    return sum(a / b for a, b in zip(sigmas, sigmas[1:], strict=False)) / 9, 1.6681


@check(
    NCSN,
    "in 32x32x3 numbers, the shells of neighbouring levels of this ladder do not overlap",
    "2006.09011, technique 2",
    1e-9,
)
def shells_do_not_overlap():
    return overlap(NCSN().ladder().gamma, 3072), 0.0


# Claims. The first needs no network: two distant modes, of weights 1/5 and 4/5, with exact scores.


def _two_modes(seed: int, levels: int) -> float:
    """Share of 1280 chains that end near the mode of weight 1/5; `levels` from 20 to 1, or 1 alone, 1000 steps in all."""
    modes = finite_set(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]))
    modes.log_weights = torch.tensor([0.2, 0.8], dtype=torch.float64).log()
    ladder = Ladder(20.0, 1.0, 10)
    points = ladder.grid()(ladder.process())[-levels - 1 :]
    rng = Rng.from_seeds(range(1280 * seed, 1280 * (seed + 1)))
    start = 16 * rng.uniform(2) - 8
    step = AnnealedLangevin(1000 // levels, denoise=False, h=0.05)
    end = sample(
        modes.denoiser(ladder.process()), step, lambda _: points, (1280, 2), rng=rng, start=start, dtype=start.dtype
    )
    return float((end.sum(1) < 0).double().mean())


@claim(
    NCSN,
    "With exact scores of two distant modes, annealed Langevin dynamics finds their weights, and plain Langevin does not",
    "figure 3, appendix B.1",
)
def annealing_finds_the_weights(lab) -> Finding:
    found = {name: [_two_modes(seed, n) for seed in lab.seeds] for name, n in (("plain", 1), ("annealed", 10))}
    margins = [abs(p - 0.2) - abs(a - 0.2) for p, a in zip(found["plain"], found["annealed"], strict=True)]
    numbers = {"measure": "share of 1280 chains at the mode of weight 0.2, 1000 steps", **found}
    return Finding.over_seeds(margins, numbers)


# The others, on the 8x8 digits: a network of 0.2 M parameters, 1000 steps of 64 images, 20 Langevin steps a level.


def _model(lab, seed):
    return lab.digits(NCSN, seed, steps=1000, small=True)


@claim(
    NCSN,
    "Annealed Langevin dynamics samples better than as many steps at the smallest level alone",
    "the baseline of one level",
)
def annealing_samples_better(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _model(lab, seed)
        rng = Rng.from_seeds(range(200))
        start = (2 * rng.uniform(1, 8, 8) - 1).float()
        found = {}
        for name, corrections, levels in (("annealed", 20, 10), ("smallest level", 200, 1)):
            step = AnnealedLangevin(corrections, denoise=False, h=0.1)
            points = Integers(10)(model.denoiser.process)[-levels - 1 :]
            x = sample(
                model.denoiser, step, lambda _, p=points: p, start.shape, rng=Rng.from_seeds(range(200)), start=start
            )
            found[name] = lab.sliced(x, lab.held_out("digits"))
        margins.append(found["smallest level"] - found["annealed"])
        numbers[f"seed {seed}"] = found
    measure = "sliced_wasserstein[pixels], 200 samples of 200 evaluations, both from uniform noise"
    return Finding.over_seeds(margins, {"measure": measure, **numbers})


@torch.no_grad()
def _losses_by_level(lab, model) -> list[float]:
    """sigma^2 times the denoising loss of held-out digits at each level, from the largest, per number."""
    x0, process = lab.held_out("digits"), model.denoiser.process
    objective, losses = Matching("eps", UniformSteps(10)), []
    for i in range(10, 0, -1):
        t = torch.full((len(x0),), i / 10, dtype=torch.float64)
        xt = process.corrupt(x0, t, Rng.from_seeds(range(len(x0))))
        losses.append(
            float(objective.compare_at(model.denoiser, x0, xt, t, None, torch.ones(len(x0))).per_example.mean())
        )
    return losses


@claim(
    NCSN,
    "Weighted by sigma^2, the losses of all levels are of one order of magnitude: the largest within ten times the smallest",
    "the choice of weighting",
)
def weighted_losses_are_alike(lab) -> Finding:
    rows = [_losses_by_level(lab, _model(lab, seed)) for seed in lab.seeds]
    numbers = {"measure": "weighted loss of 293 held-out digits, per number, levels 2 to 0.02", **_by_seed(rows)}
    return Finding.over_seeds([10 - max(row) / min(row) for row in rows], numbers)


@claim(NCSN, "Unweighted, the smallest level alone is more than half of the loss", "the choice of weighting")
def unweighted_the_smallest_dominates(lab) -> Finding:
    sigmas = [t.sigma for t in NCSN().ladder().grid()(NCSN().process())[:-1]]
    shares = []
    for seed in lab.seeds:
        plain = [loss / sigma**2 for loss, sigma in zip(_losses_by_level(lab, _model(lab, seed)), sigmas, strict=True)]
        shares.append(plain[-1] / sum(plain))
    numbers = {"measure": "share of the smallest of ten levels in the loss of 293 held-out digits", "shares": shares}
    return Finding.over_seeds([share - 0.5 for share in shares], numbers)


@claim(
    NCSN,
    "Inpainting, without training for it: halves of digits are read as their class more often completed than with another half, "
    "and completions of one half differ",
    "inpainting, algorithm 2",
)
def inpainting_completes_digits(lab) -> Finding:
    batch = lab.data("digits", "held-out").batch(range(100))
    left = torch.arange(8).expand(1, 8, 8) < 4
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _model(lab, seed)
        sampling, rng = model.recipe.sampling(), Rng.from_seeds(range(200))
        halves = inpainting(torch.cat([batch.x, batch.x]), left)
        led = imputation(halves, rng.spawn(1))(model.denoiser)
        both = sample(led, sampling.step, sampling.grid, (200, 1, 8, 8), rng=rng)
        once, again = both.chunk(2)
        other = torch.where(left, batch.x, lab.samples(model, 100))
        rates = {
            name: float((lab.probabilities(x.clamp(-1, 1)).argmax(1) == batch.label).double().mean())
            for name, x in (("completed", once), ("half of another", other), ("as they were", batch.x))
        }
        apart = float((once - again)[:, :, :, 4:].square().mean().sqrt())
        margins.append(min(rates["completed"] - rates["half of another"], apart - 0.05))
        numbers[f"seed {seed}"] = {**rates, "root mean square between two completions": apart}
    shown = lab.gallery_of(
        "inpainting", {"given": torch.where(left, batch.x, 0.0), "completed": once, "again": again, "true": batch.x}
    )
    return Finding.over_seeds(
        margins, {"measure": "accuracy of classifier:digits, 100 held-out digits", **numbers}, [shown]
    )


def _by_seed(rows):
    return {f"seed {i}": row for i, row in enumerate(rows)}


untestable(
    NCSN,
    "CIFAR-10 samples of inception score 8.87 and FID 25.32",
    "table 1",
    "needs 200k steps of a RefineNet of 30 M parameters, and the best of many checkpoints by FID (`--preset paper`)",
)
