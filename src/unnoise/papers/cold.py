r"""Cold diffusion: a network that restores images from any degradation, without noise, samples and restores step by step.

L = E_{x, t} |R(D(x, t), t) - x|_1,   x_{s} = x_t - D(R(x_t, t), t) + D(R(x_t, t), s)

Where D(x, s) = x + s e, this improved step (algorithm 2) ends at x whatever R is; the naive x_s = D(R(x_t, t), s) (algorithm
1) compounds its errors. With noise as the degradation, and read off the state, it is DDIM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from ..data import held_out, load
from ..denoisers import Denoiser, Guidance, Restorer
from ..laws import Estimate
from ..networks import UNetOptions
from ..objectives import Objective, Restoration, UniformSteps
from ..processes import Animorphosis, Blur, Cold, Colours, Degradation, Gaussian, Mask, Pixelation, Process, Snow
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import DDIM, Ancestral, Integers, Naive, sample
from ..scalars import column
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim, untestable
from . import paper


@paper(
    "2208.09392",
    "Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise",
    "Arpit Bansal, Eitan Borgnia, Hong-Min Chu, Jie S. Li, Hamid Kazemi, Furong Huang, Micah Goldblum, Jonas Geiping, "
    "Tom Goldstein",
    2022,
    "NeurIPS 2023",
)
@dataclass(frozen=True)
class ColdDiffusion(Recipe):
    """A degradation in place of noise: blur, mask, pixelation, snow, another image; undone by the improved step."""

    degradation: Literal["blur", "mask", "pixelation", "snow", "animorphosis", "noise"] = "blur"
    """What destroys the images."""
    timesteps: int = 40
    """Steps T of the degradation; of pixelation, see `factors`."""
    generate: bool = True
    """Blur and pixelation to the mean colour in the last step, so that new images can be made of sampled colours. The network
    then learns from states of 8 bits, in which the blur hides nothing; blur should leave little to the last step."""
    kernel: int = 11
    """Pixels of the blur's kernels."""
    factors: tuple[int, ...] = (2, 4)
    """Pixels of the side of a block after each step of pixelation; each must divide the next, and the last the images."""
    std: float = 0.05
    """Of the widths of blur (see `routine`), or of the mask's spots (0.1 in the paper), in pixels."""
    routine: Literal["constant", "incremental", "exponential", "special"] = "exponential"
    """How the blur's widths grow: std; std (i + 1); e^(std i); i / 100 + 0.35."""
    others: str = "digits"
    """The other images of animorphosis: a data set, resized."""
    fixed: bool = False
    """Whether animorphosis keeps the other image that it began with."""
    start: tuple[float, ...] = ()
    """Mean and factor of the Gaussian of mean colours; of the training images if left out."""
    symmetry: float = 0.002
    """Deviation of the noise that breaks the symmetry of the first image; 0 for none."""
    algorithm: Literal["improved", "naive"] = "improved"
    """How to sample: algorithm 2, or 1."""
    norm: Literal["l1", "l2"] = "l1"
    """The error of the restored image."""

    @classmethod
    def paper(cls) -> ColdDiffusion:
        """Deblurring of CIFAR-10: 50 steps, 700k training steps. The network is a U-Net of these widths; its blocks are ours."""
        return cls(
            data="cifar10",
            timesteps=50,
            generate=False,
            routine="special",
            network=UNetOptions(channels=64, mult=(1, 2, 4, 8), blocks=2, attention=(8,)),
            training=replace(
                PUBLISHED,
                steps=700_000,
                batch_size=64,
                accumulate=2,
                lr=2e-5,
                clip=None,
                ema=88_700,  # 0.995 in ten steps
            ),
        )

    def fitted(self, data: Any) -> ColdDiffusion:
        """With the colours of these data: up to 10,000 images, spread over the set."""
        if not (self.generate and self.degradation in ("blur", "pixelation")) or self.start:
            return self
        rows = torch.linspace(0, len(data) - 1, min(len(data), 10_000)).long()
        return replace(self, start=Colours.fit(data.batch(rows).x))

    def destruction(self) -> Degradation:
        """D."""
        colours = Colours(self.start, self.symmetry) if self.generate else None
        if self.degradation == "blur":
            return Blur(self.timesteps, self.kernel, self.std, self.routine, colours)
        if self.degradation == "pixelation":
            return Pixelation(self.factors, colours)
        if self.degradation == "mask":
            return Mask(self.timesteps, self.std)
        if self.degradation == "snow":
            return Snow(self.timesteps)
        others = (lambda shape: images(self.others, shape)) if self.degradation == "animorphosis" else None
        return Animorphosis(self.timesteps, others, self.fixed)

    def process(self) -> Cold:
        return Cold(self.destruction())

    def denoiser(self, spec: Spec) -> Denoiser[Process]:
        process = self.process()
        return Restorer(self.build_network(spec), process, process.steps)

    def objective(self, spec: Spec) -> Objective:
        return Restoration(UniformSteps(self.process().steps), self.norm, 256 if self.generate else None)

    def begin(self, spec: Spec, seeds: Sequence[int], start: str | None) -> tuple[Tensor | None, tuple[Guidance, ...]]:
        """Held-out images by seed, degraded to the end, to be restored: of `start`, or, where nothing can be made from nothing,
        of the data."""
        process = self.process()
        if start is None and process.generates:
            return None, ()
        x = held_out(start or self.data, spec)
        return degraded(process, x[[seed % len(x) for seed in seeds]], seeds), ()

    def sampling(self) -> Sampling:
        return Sampling(Ancestral() if self.algorithm == "improved" else Naive(), Integers(self.process().steps))


@cache
def images(name: str, shape: tuple[int, ...]) -> Tensor:
    """Up to 10,000 images of a data set, of this shape."""
    data = load(name, "train", size=(shape[1], shape[2]), channels=shape[0])
    return data.batch(range(min(len(data), 10_000))).x


def degraded(process: Cold, x: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
    """The states D(x, T) of images, whose random parts are those of the seeds: what `sample` starts from to restore them."""
    rng = Rng.from_seeds(range(len(x)) if seeds is None else seeds)
    return process.corrupt(x, process.point(1.0), rng)


def restore(
    denoiser: Denoiser[Any], state: Tensor, shape: Sequence[int], naive: bool = False, steps: int | None = None
):
    """Images of `shape` from states D(x, T), by algorithm 2 or 1; in one naive step it is the direct reconstruction."""
    step = Naive() if naive else Ancestral()
    grid = Integers(steps or denoiser.process.steps)  # type: ignore[arg-type]
    return sample(denoiser, step, grid, shape, start=state, dtype=state.dtype)


# Exact checks.


class _Fading(Degradation):
    """D(x, k) = x e^(-rate k)."""

    def __init__(self, steps: int = 20, rate: float = 0.1):
        super().__init__(steps)
        self.rate = rate

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        return x * torch.exp(-self.rate * column(k, x).double())


class _Drifting(_Fading):
    """D(x, k) = x + k e, the same e for all: what algorithm 2 is right on, whatever is guessed."""

    def forward(self, x: Tensor, k: Tensor, along: Tensor | None = None) -> Tensor:
        return x + self.rate * column(k, x).double() * torch.linspace(-1, 1, x.shape[-1], dtype=torch.float64)


class _Guess(Denoiser[Cold]):
    """x_0 = rule(x_t, k)."""

    def __init__(self, process: Cold, rule: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.process, self.rule = process, rule

    def forward(self, xt: Tensor, t: Tensor, cond=None) -> Estimate:
        return Estimate(self.rule(xt, column(t * self.process.steps, xt)))  # type: ignore[operator]


def _left(naive: bool) -> float:
    """What is left of 1 after 20 steps of fading and of restoring, where the guess is a fifth too small."""
    process = Cold(_Fading())
    guess = _Guess(process, lambda x, k: 0.8 * torch.exp(0.1 * k) * x)
    state = degraded(process, torch.ones(1, 1, 1, 1, dtype=torch.float64))
    return float(restore(guess, state, state.shape, naive=naive))


@check(ColdDiffusion, "algorithm 1 with a guess a fifth too small, fading of 0.1 a step: left of 1", "derived", 5e-6)
def naive_compounds():
    return _left(naive=True), 0.01153


@check(ColdDiffusion, "algorithm 2 there: (1 - d (1 - e^-l))^T", "derived", tolerance=5e-6)
def improved_does_not():
    return _left(naive=False), 0.68091


@check(ColdDiffusion, "where D(x, k) = x + k e, algorithm 2 ends at x, whatever is guessed: error", "the paper", 1e-12)
def linear_degradation():
    process, x = Cold(_Drifting()), torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 1, 3, 4)
    wild = _Guess(process, lambda x, k: 7 * torch.sin(5 * x + k))
    return float((restore(wild, degraded(process, x), x.shape) - x).abs().max()), 0.0


@check(ColdDiffusion, "with noise read off the state, algorithm 2 is DDIM: difference", "the paper", tolerance=1e-9)
def noise_is_ddim():
    hot = Cold(Animorphosis(20))
    chain = Gaussian(hot.degradation.schedule)  # type: ignore[arg-type]
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).cos().reshape(1, 1, 4, 4)
    ours = _Guess(hot, lambda x, k: torch.tanh(x + k / 20))
    theirs = _Guess(hot, ours.rule)
    theirs.process, chain.steps = chain, 20  # type: ignore[assignment]
    a = sample(ours, Ancestral(), Integers(20), x.shape, start=x, dtype=torch.float64)
    b = sample(theirs, DDIM(), Integers(20), x.shape, start=x, dtype=torch.float64)
    return float((a - b).abs().max()), 0.0


@check(ColdDiffusion, "of blocks' means, algorithm 2 keeps what was measured: change", "derived", tolerance=1e-12)
def pixelation_keeps_its_blocks():
    process = Cold(Pixelation((2, 4, 8)))
    x = torch.linspace(0, 9, 64, dtype=torch.float64).sin().reshape(1, 1, 8, 8)
    wild = _Guess(process, lambda x, k: torch.cos(3 * x.roll(1, -1)) + k)
    state = degraded(process, x)
    again = degraded(process, restore(wild, state, x.shape))
    return float((again - state).abs().max()), 0.0


# Claims, on the 8x8 digits: networks of 0.2 M parameters, 1000 steps of 64 images, 20 steps of each degradation.

BLUR = {"degradation": "blur", "generate": False, "timesteps": 20, "kernel": 5, "std": 0.5, "routine": "constant"}
MASK = {"degradation": "mask", "generate": False, "timesteps": 20, "std": 0.1}
COLOUR = {
    **BLUR,
    "generate": True,
    "kernel": 7,
    "std": 1.0,
}  # of which 0.003 of the coarsest wave is left before the end


def _digits(lab, seed, **options):
    return lab.digits(ColdDiffusion, seed, steps=1000, small=True, **options)


def _restored(lab, model) -> dict[str, Tensor]:
    """Held-out digits, degraded to the end and restored: by either algorithm, and at once."""
    x = lab.held_out("digits")
    state = degraded(model.denoiser.process, x)
    with torch.no_grad():
        return {
            "degraded": model.denoiser.process.data(state),
            "direct": restore(model.denoiser, state, x.shape, naive=True, steps=1),
            "naive": restore(model.denoiser, state, x.shape, naive=True),
            "improved": restore(model.denoiser, state, x.shape),
        }


def _measured(lab, options) -> list[dict[str, dict[str, float]]]:
    """Root mean square error, Frechet distance and sharpness of each restoration, a row for each seed."""
    truth, rows = lab.held_out("digits"), []
    for seed in lab.seeds:
        found = _restored(lab, _digits(lab, seed, **options))
        rows.append(
            {
                name: {
                    "rmse": float((x - truth).square().mean().sqrt()),
                    "frechet": lab.frechet(x, truth),
                    "sharpness": float(x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()),
                }
                for name, x in found.items()
            }
        )
    return rows


def _shown(lab, options, name: str) -> list[str]:
    """A picture of restorations, by the first seed."""
    rows = {"data": lab.held_out("digits"), **_restored(lab, _digits(lab, lab.seeds[0], **options))}
    return [lab.gallery_of(name, rows)]


def _compared(lab, options, better: str, worse: str, by: str, pictures: Sequence[str] = ()) -> Finding:
    rows = _measured(lab, options)
    margins = [row[worse][by] - row[better][by] for row in rows]
    numbers = {"measure": f"{by} on 293 held-out digits, after 20 steps", "by seed": rows}
    return Finding.over_seeds(margins, numbers, pictures)


@claim(ColdDiffusion, "Deblurring step by step, algorithm 2 has a smaller error than algorithm 1", "the paper")
def improved_restores_blur(lab) -> Finding:
    return _compared(lab, BLUR, "improved", "naive", "rmse", _shown(lab, BLUR, "deblurring"))


@claim(ColdDiffusion, "Deblurring by algorithm 2 looks more like the data than direct reconstruction", "the paper")
def improved_looks_better(lab) -> Finding:
    return _compared(lab, BLUR, "improved", "direct", "frechet")


@claim(ColdDiffusion, "Deblurring by algorithm 2 is sharper than direct reconstruction", "the paper")
def improved_is_sharper(lab) -> Finding:
    rows = _measured(lab, BLUR)
    margins = [row["improved"]["sharpness"] / row["direct"]["sharpness"] - 1 for row in rows]
    return Finding.over_seeds(margins, {"measure": "mean square difference of neighbouring pixels", "by seed": rows})


@claim(ColdDiffusion, "Deblurring by algorithm 2 has a larger error than direct reconstruction", "the paper")
def direct_is_closer(lab) -> Finding:
    return _compared(lab, BLUR, "direct", "improved", "rmse")


@claim(ColdDiffusion, "Filling a mask step by step, algorithm 2 has a smaller error than algorithm 1", "the paper")
def improved_fills_masks(lab) -> Finding:
    return _compared(lab, MASK, "improved", "naive", "rmse", _shown(lab, MASK, "inpainting"))


@claim(
    ColdDiffusion, "Digits made from one colour are more diverse where noise of 0.002 breaks its symmetry", "the paper"
)
def broken_symmetry_is_diverse(lab) -> Finding:
    margins, numbers, shown = [], {}, {}
    for seed in lab.seeds:
        model = _digits(lab, seed, **COLOUR)
        colour = model.denoiser.process.prior((300, 1, 8, 8)).sample(Rng.from_seeds(range(300)))
        flat = colour.mean((2, 3), keepdim=True).expand_as(colour)
        spread = {}
        for name, state in {"broken": colour, "perfect": flat}.items():
            with torch.no_grad():
                x = restore(model.denoiser, state, colour.shape).clamp(-1, 1)
            spread[name] = float(torch.pdist(x.flatten(1)).mean())
            shown.setdefault(f"{name} symmetry", x)
        margins.append(spread["broken"] - spread["perfect"])
        numbers[f"seed {seed}"] = spread
    pictures = [lab.gallery_of("generation", shown)]
    return Finding.over_seeds(margins, {"measure": "mean distance between two of 300 images", **numbers}, pictures)


@claim(ColdDiffusion, "Digits made by algorithm 2 are closer to the data than by algorithm 1", "the paper")
def improved_generates(lab) -> Finding:
    margins, numbers = [], {}
    for seed in lab.seeds:
        model = _digits(lab, seed, **COLOUR)
        found = {
            name: lab.frechet(lab.samples(model, 300, Sampling(step, Integers(20))), lab.held_out("digits"))
            for name, step in {"improved": Ancestral(), "naive": Naive()}.items()
        }
        margins.append(found["naive"] - found["improved"])
        numbers[f"seed {seed}"] = found
    return Finding.over_seeds(margins, {"measure": "frechet[classifier:digits], 300 samples", **numbers})


untestable(
    ColdDiffusion,
    "CelebA at 128x128 by blur: FID 49 with broken symmetry, 97 without; 23 by noise",
    "the paper",
    "needs 700k steps at 128x128 and a data set that is not here",
)
