r"""ADM: a U-Net improved by ablation, and the gradient of a classifier of noisy images that trades variety for fidelity.

ancestral  N(mu + s Sigma g, Sigma);   DDIM  eps - sqrt(1 - abar_t) s g;   g = grad_{x_t} log p(y | x_t)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..denoisers import ClassifyingDenoiser, Denoiser, NetworkDenoiser, classifier_guidance
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem, unknown
from ..laws import Normal
from ..likelihood import Discretised
from ..networks import UNetOptions, published
from ..networks.guided_diffusion import load_guided_diffusion
from ..objectives import Bound, Hybrid, Objective, UniformSteps, WithClassifier
from ..oracles import Mixture
from ..processes import Gaussian
from ..recipe import LAPTOP_TRAINING, Recipe, Sampling, Spec, Training
from ..rng import Rng, stream
from ..samplers import DDIM, Ancestral, GuidedAncestral, Integers, sample
from ..schedules import FromBetas, cosine_betas, linear_betas
from ..training import options
from ..verify import Finding, check, claim, untestable
from . import paper


@paper(
    "2105.05233",
    "Diffusion Models Beat GANs on Image Synthesis",
    "Prafulla Dhariwal, Alex Nichol",
    2021,
    "NeurIPS 2021",
)
@dataclass(frozen=True)
class ADM(Recipe):
    """Train a classifier of noisy images beside the denoiser; its gradient leads samples to a class, as firmly as wished."""

    timesteps: int = 1000
    """Length T of the chain."""
    schedule: Literal["cosine", "linear"] = "linear"
    """The betas."""
    classifier: bool = True
    """Whether a classifier of noisy images is trained, to guide."""
    guidance: float = 1.0
    """Weight of the classifier's gradient: the paper's s."""
    sampling_steps: int = 100
    """Steps of the sampler."""
    network: UNetOptions = UNetOptions(channels=32, mult=(1, 2, 2), blocks=1, attention=(4,), heads=2)
    classifier_network: UNetOptions = UNetOptions(channels=32, mult=(1, 2, 2), blocks=1, attention=(4,), heads=2)
    """The way down of a U-Net; its last level, below, is pooled by attention."""
    classifier_lr: float = 1e-3
    classifier_weight_decay: float = 0.05
    training: Training = replace(LAPTOP_TRAINING, steps=1000)

    presets: ClassVar[tuple[str, ...]] = (
        "laptop",
        "paper",
        "paper-128",
        "paper-256",
        "paper-256-unconditional",
        "paper-512",
    )

    @classmethod
    def paper(cls) -> ADM:
        """ImageNet at 64x64: FID 2.07 with 250 steps."""
        return cls(
            **PUBLISHED,
            network=published.ADM[64],
            classifier_network=published.ADM_CLASSIFIER[64],
            schedule="cosine",
            training=replace(PAPER_TRAINING, steps=540_000, lr=3e-4, batch_size=2048, ema=14_200_000),
        )

    @classmethod
    def paper_128(cls) -> ADM:
        """ImageNet at 128x128: FID 2.97."""
        return cls._larger(128, guidance=0.5)

    @classmethod
    def paper_256(cls) -> ADM:
        """ImageNet at 256x256: FID 4.59."""
        return cls._larger(256)

    @classmethod
    def paper_256_unconditional(cls) -> ADM:
        """The same without labels in the network: FID 12.0, the labels all the classifier's."""
        return replace(cls._larger(256, guidance=10.0), conditional=False)

    @classmethod
    def paper_512(cls) -> ADM:
        """ImageNet at 512x512: FID 7.72."""
        return cls._larger(512, guidance=4.0)

    @classmethod
    def _larger(cls, size: int, guidance: float = 1.0) -> ADM:
        networks = {"network": published.ADM[size], "classifier_network": published.ADM_CLASSIFIER[size]}
        return replace(cls(**PUBLISHED), **networks, schedule="linear", guidance=guidance, training=PAPER_TRAINING)

    def process(self) -> Gaussian[FromBetas]:
        betas = cosine_betas if self.schedule == "cosine" else linear_betas
        return Gaussian(FromBetas(betas(self.timesteps)))

    def denoiser(self, spec: Spec) -> Denoiser:
        process = self.process()
        network, told = self.build_network(spec, outputs=2), pre.DDPM(process.schedule, scale=1000 / self.timesteps)
        if not self.classifier:
            return NetworkDenoiser(network, process, told, learned_range=True)
        if spec.num_classes is None:
            raise UsageProblem("a classifier learns from labels, and these data have none; pass --no-classifier")
        channels, height, width = spec.shape
        classifier = self.classifier_network.build_encoder(channels, spec.num_classes, (height, width))
        return ClassifyingDenoiser(network, classifier, process, told, learned_range=True, conditional=self.conditional)

    def objective(self, spec: Spec) -> Objective:
        times, reverse = UniformSteps(self.timesteps), Ancestral(variance="learned")
        hybrid = Hybrid(Bound(self.timesteps, times, reverse, Discretised(spec.levels)), weight=0.001)
        if not self.classifier:
            return hybrid
        return WithClassifier(hybrid, times, self.classifier_lr, self.classifier_weight_decay)

    def sampling(self) -> Sampling:
        pull = self.guidance if self.classifier else 0.0
        step = GuidedAncestral(variance="learned")
        return Sampling(step, Integers(self.sampling_steps), threshold="clip", classifier=pull)


PAPER_TRAINING = replace(
    options.PUBLISHED,
    steps=1_980_000,
    batch_size=256,
    lr=1e-4,
    clip=None,
    ema=1_775_000,  # 0.9999 a step
)
PUBLISHED = {
    "data": "hf:ILSVRC/imagenet-1k",
    "conditional": True,
    "sampling_steps": 250,
    "classifier_lr": 3e-4,
}


def adopt(
    out: str | Path,
    preset: str,
    diffusion: str | Path,
    classifier: str | Path | None = None,
    classes: tuple[str, ...] = tuple(str(i) for i in range(1000)),
) -> Path:
    """The authors' weights as a run folder, from which `unnoise sample` and the rest take them.

    preset       "paper" (64x64), "paper-128", "paper-256", "paper-256-unconditional" or "paper-512".
    diffusion    their model, and `classifier` their classifier of that size, as safetensors. Theirs are pickles, which are
                 not loaded here; once, and where they can be trusted:
                 `safetensors.torch.save_file(torch.load("x.pt", weights_only=True), "x.safetensors")`.

    Without a classifier there is nothing to guide by. Raises Problem where the weights are not of that configuration.
    """
    from safetensors.torch import load_file

    from ..training import Run

    if preset not in ADM.presets[1:]:
        raise unknown("preset", preset, ADM.presets[1:])
    size = int(next((part for part in preset.split("-") if part.isdigit()), "64"))
    recipe: ADM = replace(ADM.preset(preset), classifier=classifier is not None)  # type: ignore[arg-type]
    recipe = replace(recipe, training=replace(recipe.training, ema=None))
    spec = Spec((3, size, size), classes)
    with torch.device("meta"):
        denoiser = recipe.denoiser(spec)
    order = "new" if size == 64 else "legacy"
    state = {
        f"network.{name}": value
        for name, value in load_guided_diffusion(denoiser.network, load_file(diffusion), order).items()  # type: ignore[arg-type]
    }
    if classifier is not None:
        loaded = load_guided_diffusion(denoiser.classifier, load_file(classifier))  # type: ignore[arg-type]
        state |= {f"classifier.{name}": value for name, value in loaded.items()}
    config = {
        "paper": recipe.slug,
        "recipe": recipe.as_dict(),
        "spec": asdict(spec),
        "data": {"name": recipe.data, "split": "train", "fingerprint": None},
    }
    run = Run.create(out, config)
    run.save({"model": state}, {"step": 0})
    return run.path


# Exact checks, on two normal classes in the plane, whose classifier is known.


def _classes() -> Mixture:
    means = torch.tensor([[0.8, 0.2], [-0.6, -0.3], [0.1, -0.9]])
    variances = torch.tensor([[0.2, 0.1], [0.15, 0.3], [0.1, 0.1]])
    return Mixture(means, variances, torch.tensor([0.5, 0.3, 0.2]), labels=torch.tensor([0, 1, 1]))


def exact(data: Mixture, process: Gaussian):
    """log p(y | x_t) of a mixture's classes, but for log p(y)."""

    def log_prob(xt: Tensor, t: Tensor, cond) -> Tensor:
        return data.log_prob(xt, process, t, cond["label"]) - data.log_prob(xt, process, t)

    return log_prob


@check(
    ADM, "with the exact classifier at weight 1, eps - sigma g is the noise of the conditional model", "alg. 2", 1e-10
)
def guided_noise_is_conditional():
    process, data = ADM().process(), _classes()
    denoiser = data.denoiser(process)
    led = classifier_guidance(1.0, exact(data, process))(denoiser)
    x = Rng.from_seeds(range(64)).normal(2, dtype=torch.float64)
    t, label = torch.linspace(0.001, 1, 64, dtype=torch.float64), torch.arange(64) % 2
    unlabelled = {"label": torch.full_like(label, -1)}
    classify = exact(data, process)
    led = classifier_guidance(1.0, lambda x, t, _: classify(x, t, {"label": label}))(denoiser)
    noises = [process.noise(x, m, t) for m in (led(x, t, unlabelled).mean, denoiser(x, t, {"label": label}).mean)]
    return float((noises[0] - noises[1]).abs().max()), 0.0


@check(ADM, "the guided ancestral step has the mean mu + s Sigma a, for a classifier exp(a x)", "alg. 1", 1e-12)
def mean_is_shifted_by_the_variance():
    process, data, a, weight = ADM().process(), _classes(), 0.7, 3.0
    points, x = Integers(10)(process), Rng.from_seeds(range(16)).normal(2, dtype=torch.float64)
    denoiser = data.denoiser(process)
    led = classifier_guidance(weight, lambda x, t, cond: a * x.sum(1))(denoiser)
    gaps = []
    for variance in ("small", "large", "optimal"):
        for t, s in pairwise(points):
            times = t.over(x)
            plain = Ancestral(variance=variance).law(process, denoiser(x, times), x, t, s)
            law = GuidedAncestral(variance=variance).law(process, led(x, times), x, t, s)
            assert isinstance(plain, Normal)
            gaps.append(
                (law.mean - plain.mean - weight * torch.as_tensor(plain.std, dtype=torch.float64) ** 2 * a).abs().max()
            )
    return float(torch.stack(gaps).max()), 0.0


@check(ADM, "weight 0 gives the unguided samples, to the last bit", "alg. 1 and 2", 0.0)
def weight_nought_changes_nothing():
    process, data = ADM().process(), _classes()
    plain, gap = data.denoiser(process), 0.0
    led = classifier_guidance(0.0, exact(data, process))(plain)
    for step in (GuidedAncestral(), DDIM()):
        gap += float((sample(led, step, Integers(20), (8, 2)) - sample(plain, step, Integers(20), (8, 2))).abs().max())
    return gap, 0.0


@check(ADM, "a chain respaced to all of its steps has its own betas: their largest difference", "code", 1e-12)
def respacing_keeps_the_betas():
    betas, process = linear_betas(1000), ADM().process()
    points = Integers(1000)(process)
    again = torch.tensor([1 - (t.alpha / s.alpha) ** 2 for t, s in pairwise(points)], dtype=torch.float64)
    return float((again.flip(0) - betas).abs().max()), 0.0


# Claims, on the 8x8 digits: an unconditional network of 0.2 M parameters and a classifier of 0.1 M, 1000 steps of 64 images
# each, 50 sampling steps. The judge is the project's classifier of clean digits, which guides nothing.

WEIGHTS = (0.0, 1.0, 3.0, 10.0)
CLASSIFIER = UNetOptions(channels=32, mult=(1, 2), blocks=1, attention=(2,), dropout=0.1)


def _model(lab, seed, conditional=False):
    return lab.digits(ADM, seed, steps=1000, small=True, classifier_network=CLASSIFIER, conditional=conditional)


def _led(lab, seed, weight, conditional=False, count=300):
    """Samples (count, 1, 8, 8), and the classes asked for: all in turn."""
    model = _model(lab, seed, conditional)
    sampling = replace(model.recipe.sampling(), grid=Integers(50), classifier=weight)
    return lab.samples(model, count, sampling), torch.arange(count) % 10


def _accuracy(lab, x, labels):
    return float((lab.probabilities(x).argmax(1) == labels).double().mean())


def _variety(x, labels):
    """Mean distance between samples of one class."""
    return float(torch.stack([torch.pdist(x[labels == k].flatten(1)).mean() for k in range(10)]).mean())


def _named(rows):
    return {f"seed {i}": {f"weight {w:g}": v for w, v in row.items()} for i, row in enumerate(rows)}


@claim(
    ADM,
    "A classifier leads an unconditional model to the class asked for, at weight 10 more surely than at weight 1",
    "classifier guidance",
)
def larger_weights_reach_the_class(lab) -> Finding:
    rows = [{w: _accuracy(lab, *_led(lab, seed, w)) for w in WEIGHTS} for seed in lab.seeds]
    numbers = {"measure": "accuracy of classifier:digits, 300 samples", **_named(rows)}
    return Finding.over_seeds([row[10.0] - row[1.0] for row in rows], numbers)


@claim(
    ADM, "Guidance costs variety: at weight 10 samples of one class lie closer together than at weight 1", "figure 4"
)
def larger_weights_cost_variety(lab) -> Finding:
    rows = [{w: _variety(*_led(lab, seed, w)) for w in WEIGHTS[1:]} for seed in lab.seeds]
    numbers = {"measure": "mean distance within a class, pixels, 300 samples", **_named(rows)}
    return Finding.over_seeds([row[1.0] - row[10.0] for row in rows], numbers)


@claim(
    ADM,
    "Guiding an unconditional model pays up to a point: weight 1 or 3 comes closer to the data than weights 0 and 10",
    "classifier guidance",
)
def an_intermediate_weight_is_best(lab) -> Finding:
    held_out = lab.held_out("digits")
    rows = [{w: lab.frechet(_led(lab, seed, w)[0], held_out) for w in WEIGHTS} for seed in lab.seeds]
    numbers = {"measure": "frechet[classifier:digits], 300 samples", **_named(rows)}
    return Finding.over_seeds([min(row[0.0], row[10.0]) - min(row[1.0], row[3.0]) for row in rows], numbers)


@claim(
    ADM,
    "An unconditional model gains more accuracy by a classifier of weight 10 than a conditional one",
    "classifier guidance",
)
def conditional_models_need_it_less(lab) -> Finding:
    seed, names = lab.seeds[0], ("unconditional", "conditional")
    right = {}
    for name in names:
        for weight in (0.0, 10.0):
            x, labels = _led(lab, seed, weight, name == "conditional")
            right[name, weight] = (lab.probabilities(x).argmax(1) == labels).double()

    def margin(rows: Tensor) -> float:
        gains = [float((right[name, 10.0] - right[name, 0.0])[rows].mean()) for name in names]
        return gains[0] - gains[1]

    random, count = stream(0, 7), len(right[names[0], 0.0])
    draws = torch.tensor([margin(torch.randint(count, (count,), generator=random)) for _ in range(500)])
    low, high = draws.quantile(torch.tensor([0.05, 0.95])).tolist()
    numbers = {f"{name}, weight {w:g}": float(hits.mean()) for (name, w), hits in right.items()}
    numbers = {"measure": "accuracy of classifier:digits, 300 samples", **numbers}
    return Finding.bootstrapped(margin(torch.arange(count)), low, high, numbers)


untestable(
    ADM,
    "Attention at 32, 16 and 8, 64 channels a head, adaptive group normalisation and BigGAN's resampling each lower the FID",
    "ablation of the architecture",
    "needs 700k steps of networks of 300 M parameters on ImageNet 128x128; every one is an option of the network",
)
untestable(
    ADM,
    "ImageNet: FID 2.07 at 64x64, 2.97 at 128x128, 4.59 at 256x256, 7.72 at 512x512",
    "openai/guided-diffusion, README",
    "needs the published networks, of 296 to 559 M parameters, on ImageNet, which no package ships; "
    "`unnoise.papers.adm.adopt` takes the authors' weights",
)
untestable(
    ADM,
    "Upsampling a guided base: FID 3.94 at 256x256, 3.85 at 512x512",
    "openai/guided-diffusion, README",
    "needs two of the published networks; a cascade is another paper's part (sr3, imagen)",
)
