r"""Latent diffusion: an autoencoder learns what an image needs; diffusion runs in its small latents, told captions by attention.

stage 1   z = s h, h ~ q(h | x) = N(mean, variance) of the encoder (or the nearest codes of a codebook), x_r = decoder(z / s)
stage 2   L = E |eps - eps_theta(alpha_t z + sigma_t eps, t, c)|^2,   s = 1 / std(h)
told      Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V, Q of the pixels, K and V of the words of the caption c;
          or eps_theta([z_t, c], t), c a picture with a hole, or made smaller, as further channels beside the latents
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from tyro.conf import Suppress

from ..data import DataSet, load_like
from ..denoisers import Denoiser, Guidance, NetworkDenoiser, classifier_free, guided, imputation, inpainting
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem
from ..hints import Hint, Hole, Smaller
from ..laws import Normal
from ..networks import UNet, UNetOptions, published
from ..networks.autoencoder import AutoencoderOptions
from ..networks.captioned import Captioned, Reader, ReaderOptions
from ..networks.concatenated import Concatenated
from ..networks.cross_attention import CrossAttention
from ..networks.quantiser import VectorQuantiser, perplexity
from ..objectives import Criticised, Encoded, Hinted, Matching, Objective, Reconstruction, UniformSteps
from ..oracles import gaussian
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec, Training
from ..rng import Rng, stream
from ..runtime import autocast, best_precision
from ..samplers import RK45, Ancestral, Integers, sample
from ..samplers import Uniform as Grid
from ..schedules import FromBetas, sqrt_linear_betas
from ..spaces import Latents, Space
from ..spaces.latents import posterior
from ..text import TextEncoder, Words, encoder, vocabulary_of
from ..training import Run
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper, stage

FIRST_TRAINING = TrainingOptions(
    steps=1800, batch_size=16, betas=(0.9, 0.99), lr=2e-3, warmup=50, decay="linear", ema=None, checkpoint_every=300
)
TRAINING = TrainingOptions(
    steps=2100, batch_size=64, lr=1e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=500
)
# the published trainings: configs/ and models/ of CompVis/latent-diffusion, tables 12 and 15 of the paper, the steps of first
# stages from its list of models; rates are a base rate times the batch
KL_PUBLISHED = replace(PUBLISHED, steps=246_803, batch_size=24, lr=1.08e-4, betas=(0.5, 0.9), clip=None)
VQ_PUBLISHED = replace(KL_PUBLISHED, steps=533_066, batch_size=8, lr=3.6e-5)
PRIOR_PUBLISHED = replace(PUBLISHED, weight_decay=0.01, clip=None)
SCALE_BATCH = 256  # images that the scale of the latents is measured on


@stage
@dataclass(frozen=True)
class FirstStage(Recipe):
    """The autoencoder of images whose latents diffusion runs in."""

    data: str = "emoji-twitter"
    network: AutoencoderOptions = AutoencoderOptions()  # type: ignore[assignment]
    critic: int | None = None
    """Steps after which a critic of patches joins in; none for no critic."""
    training: Training = FIRST_TRAINING

    def denoiser(self, spec: Spec) -> Latents:  # type: ignore[override]
        space = Latents(self.network, spec.shape[0])
        space.shape(spec.shape)
        return space

    def objective(self, spec: Spec) -> Objective:
        if self.critic is None:
            return Reconstruction()
        if min(spec.shape[1:]) < 24:
            raise UsageProblem("the critic looks at patches of larger images, 24 pixels a side or more; leave it out")
        return Criticised(spec.shape[0], self.critic, share=0.75 if self.network.regularise == "vq" else 0.5)

    def sampling(self) -> Sampling:
        raise UsageProblem("an autoencoder makes no samples by itself; train the prior of its latents")

    def pictured(self, denoiser: Latents, data: Any) -> Tensor:
        """Rows of ten pictures, and under each what the autoencoder makes of it."""
        x = data.batch(range(min(20, len(data)))).x
        x = x.to(denoiser.scale.device)
        y = denoiser.decode(denoiser.encode(x, Rng.from_seeds(range(len(x)), x.device))).clamp(-1, 1)
        return torch.cat([torch.cat(pair) for pair in zip(x.split(10), y.split(10), strict=True)])


@paper(
    "2112.10752",
    "High-Resolution Image Synthesis with Latent Diffusion Models",
    "Robin Rombach, Andreas Blattmann, Dominik Lorenz, Patrick Esser, Björn Ommer",
    2022,
    "CVPR 2022",
)
@dataclass(frozen=True)
class LDM(Recipe):
    """Diffusion in an autoencoder's latents, told captions by cross-attention, or pictures to paint or enlarge."""

    data: str = "emoji-twitter"
    captions: bool = True
    """Whether the network is told captions; with --conditional instead, the class as a caption of one word."""
    concat: Literal["none", "inpaint", "enlarge"] = "none"
    """The picture that the network is told beside the latents: with a hole to be painted, or made smaller by the factor."""
    factor: int = 4
    """By which pictures are enlarged."""
    autoencoder: AutoencoderOptions = AutoencoderOptions()
    """The first stage."""
    critic: int | None = None
    """Steps of the first stage after which a critic of patches joins in; none for no critic."""
    autoencoder_training: TrainingOptions = FIRST_TRAINING
    """How the first stage is trained."""
    pixels: bool = False
    """No first stage: diffusion runs in the pixels, the paper's LDM-1."""
    first_stage: str = ""
    """The run folder of an autoencoder that was trained before, to be taken instead."""
    scale: float | None = None
    """The factor on latents; none measures it so that they have standard deviation 1. Codes of a codebook have none."""
    encoder: str = "words"
    """What captions become: words (their meaning is learned), minilm (frozen), or ids:NAME, t5:NAME, clip:NAME of transformers."""
    length: int = 12
    """Most tokens of a caption."""
    text_size: int = 0
    """Tokens that ids:NAME knows, or the width of a frozen encoder's vectors; 0 asks the encoder."""
    reader: ReaderOptions = ReaderOptions()
    """The transformer that reads captions, trained with the network."""
    drop: float = 0.1
    """Probability with which an example loses its caption in training."""
    guidance: float = 2.0
    """Weight of classifier-free guidance: 1 plainly conditional."""
    norm: Literal["l2", "l1"] = "l2"
    """Whether the loss is the square of the error or its absolute value."""
    timesteps: int = 1000
    """Length T of the chain."""
    beta_ends: tuple[float, float] = (0.0015, 0.0195)
    """The first and the last beta; their square roots are evenly spaced."""
    sampling_steps: int = 50
    """Steps of DDIM."""
    eta: float = 0.0
    """0 samples deterministically, 1 as the chain does."""
    network: UNetOptions = UNetOptions(
        channels=64, mult=(1, 2), blocks=1, attention=(2,), heads=4, transformer=1, resample="conv"
    )
    training: Training = TRAINING
    vocabulary: Annotated[tuple[str, ...], Suppress] = ()
    """The words of the training captions, filled in from them."""
    prompts: Annotated[tuple[str, ...], Suppress] = ()
    """Captions that samples take in turn where none is asked for, filled in from the data."""

    presets = (
        "laptop",
        "inpainting",
        "super-resolution",
        "paper",
        "paper-imagenet",
        "paper-celebahq",
        "paper-churches",
        "paper-inpainting",
        "paper-super-resolution",
    )

    def __post_init__(self) -> None:
        if self.hint is not None and self.told is not None:
            raise UsageProblem(
                f"a model that is told pictures (--concat {self.concat}) is told nothing else; "
                f"add {'--no-conditional' if self.conditional else '--no-captions'}"
            )

    @classmethod
    def inpainting(cls) -> LDM:
        """Holes of pictures painted anew, minutes on two cores."""
        return cls(captions=False, concat="inpaint")

    @classmethod
    def super_resolution(cls) -> LDM:
        """Pictures enlarged four times, minutes on two cores."""
        return cls(captions=False, concat="enlarge")

    @classmethod
    def paper(cls) -> LDM:
        """Text to image, 1.45 billion parameters, 256x256, in latents of 32x32x4."""
        return cls(
            data="laion-400m",
            autoencoder=published.LDM_KL_F8,
            autoencoder_training=KL_PUBLISHED,
            critic=50_001,
            scale=0.18215,
            encoder="ids:bert-base-uncased",
            length=77,
            text_size=30_522,
            reader=ReaderOptions(width=1280, layers=32, heads=8, channels_per_head=64),
            beta_ends=(0.00085, 0.012),
            guidance=1.5,
            sampling_steps=250,
            network=published.LDM_TEXT,
            training=replace(PRIOR_PUBLISHED, steps=390_000, batch_size=680, lr=1e-4, ema=4_700_000),
        )

    @classmethod
    def paper_imagenet(cls) -> LDM:
        """ImageNet at 256x256, told the class as a caption of one word."""
        return cls(
            data="hf:ILSVRC/imagenet-1k",
            conditional=True,
            autoencoder=published.LDM_VQ_F4,
            autoencoder_training=VQ_PUBLISHED,
            critic=0,
            reader=ReaderOptions(width=512, layers=0),
            guidance=1.5,
            sampling_steps=250,
            eta=1.0,
            network=published.LDM_IMAGENET,
            training=replace(PRIOR_PUBLISHED, steps=178_000, batch_size=1200, lr=1e-4, ema=8_300_000),
        )

    @classmethod
    def paper_celebahq(cls) -> LDM:
        """CelebA-HQ at 256x256: FID 5.11 with 200 steps."""
        return cls(
            data="hf:korexyz/celeba-hq-256x256",
            captions=False,
            autoencoder=published.LDM_VQ_F4,
            autoencoder_training=VQ_PUBLISHED,
            critic=0,
            sampling_steps=200,
            network=published.LDM_CELEBAHQ,
            training=replace(PRIOR_PUBLISHED, steps=410_000, batch_size=48, lr=9.6e-5, ema=333_000),
        )

    @classmethod
    def paper_churches(cls) -> LDM:
        """LSUN churches at 256x256: FID 4.02 with 400 steps, as the list of models has it (200 in the paper's table 1)."""
        return cls(
            data="lsun-churches",
            captions=False,
            flip=True,
            autoencoder=published.LDM_KL_F8,
            autoencoder_training=KL_PUBLISHED,
            critic=50_001,
            norm="l1",
            beta_ends=(0.0015, 0.0155),
            sampling_steps=400,
            network=published.LDM_CHURCHES,
            training=replace(PRIOR_PUBLISHED, steps=500_000, batch_size=96, lr=5e-5, warmup=10_000, ema=665_000),
        )

    @classmethod
    def paper_inpainting(cls) -> LDM:
        """Places at 256x256, the big model, 387 M: FID 2.40, and 1.50 after training on at 512x512, of crops of 512x512.

        Its training is that of the smaller model, the only one told; the rate is as printed, where others of that table are
        multiplied by the batch."""
        return cls(
            data="places",
            captions=False,
            concat="inpaint",
            autoencoder=published.LDM_VQ_F4_NO_ATTENTION,
            autoencoder_training=replace(VQ_PUBLISHED, steps=658_131),
            critic=11,
            norm="l1",
            beta_ends=(0.0015, 0.0205),
            network=published.LDM_INPAINTING,
            training=replace(PRIOR_PUBLISHED, steps=360_000, batch_size=128, lr=1e-6, warmup=1000, ema=887_000),
        )

    @classmethod
    def paper_super_resolution(cls) -> LDM:
        """ImageNet from 64x64 to 256x256, bicubic: FID 2.8 with 100 steps.

        The network is that of the public model, 114 M, which enlarges what was made worse in more ways (BSR); that of the paper's
        table, 169 M, is not told in full."""
        return cls(
            data="hf:ILSVRC/imagenet-1k",
            captions=False,
            concat="enlarge",
            autoencoder=published.LDM_VQ_F4,
            autoencoder_training=VQ_PUBLISHED,
            critic=0,
            beta_ends=(0.0015, 0.0155),
            sampling_steps=100,
            network=published.LDM_SUPER_RESOLUTION,
            training=replace(PRIOR_PUBLISHED, steps=860_000, batch_size=64, lr=6.4e-5, ema=444_000),
        )

    @property
    def hint(self) -> Hint | None:
        """Which part of the picture the network is told."""
        if self.concat == "inpaint":
            return Hole()
        return Smaller(self.factor) if self.concat == "enlarge" else None

    @property
    def told(self) -> Literal["label", "text"] | None:
        """Which condition the network is told."""
        return "label" if self.conditional else "text" if self.captions else None

    def fitted(self, data: Any) -> LDM:
        recipe = self
        if self.first_stage:
            from ..model import described

            trained = described(Run.open(self.first_stage))[0]
            if not isinstance(trained, FirstStage):
                raise UsageProblem(f"{self.first_stage} is a run of {trained.slug}, not an autoencoder's; name another")
            recipe = replace(recipe, autoencoder=trained.network)
        if self.told != "text":
            return recipe
        if not data.has_captions:
            raise UsageProblem(f"ldm is told captions, and {data.name} has none; pass --no-captions")
        rows = range(0, len(data), max(1, len(data) // 40))
        prompts = self.prompts or tuple(data.batch(list(rows)[:40]).caption)
        words = self.vocabulary
        if self.encoder == "words" and not words:
            captions = (c for i in range(0, len(data), 1024) for c in _captions(data, i, 1024))
            words = vocabulary_of(captions)
        return replace(recipe, vocabulary=words, prompts=prompts)

    def earlier(self) -> Mapping[str, Recipe | str]:
        if self.pixels:
            return {}
        training = replace(self.autoencoder_training, seed=self.training.seed, trackers=self.training.trackers)
        own = FirstStage(
            data=self.data, flip=self.flip, network=self.autoencoder, critic=self.critic, training=training
        )
        return {"autoencoder": self.first_stage or own}

    def receive(self, stages: Mapping[str, Any], denoiser: Any, objective: nn.Module, data: Any) -> None:
        if self.pixels:
            return
        space: Latents = denoiser.space
        space.load_state_dict(stages["autoencoder"].denoiser.state_dict())
        count = min(SCALE_BATCH, len(data))
        space.measure(data.batch(range(count)).x, Rng.from_seeds(range(count)))
        if self.scale is not None:
            space.scale.fill_(self.scale)

    def process(self) -> Gaussian[FromBetas]:
        return Gaussian(FromBetas(sqrt_linear_betas(self.timesteps, *self.beta_ends)))

    def text(self) -> TextEncoder:
        """What makes tokens of captions."""
        return encoder(self.encoder, self.length, self.vocabulary)

    def denoiser(self, spec: Spec) -> Denoiser:
        space = Space() if self.pixels else Latents(self.autoencoder, spec.shape[0]).freeze()
        process = self.process()
        channels = space.shape(spec.shape)[0]
        told = {"context": self.reader.width} if self.told else {"context": 0, "transformer": 0}
        beside = 0 if self.hint is None else self.hint.channels(spec.shape, space.shape(spec.shape))
        network: nn.Module = replace(self.network, **told).build(channels + beside, channels)
        if self.hint is not None:
            network = Concatenated(network, self.hint.parts)
        if self.told == "label":
            if spec.num_classes is None:
                raise UsageProblem("ldm is told classes, and these data have no labels; pass --no-conditional")
            network = Captioned(network, Reader(self.reader, 1, spec.num_classes), "label")
        elif self.told == "text":
            frozen = not (self.encoder == "words" or self.encoder.startswith("ids:"))
            size = self.text_size or (self.text().width if frozen else self.text().rows) or 0
            sizes: dict[str, Any] = {"features": size} if frozen else {"rows": size}
            network = Captioned(network, Reader(self.reader, self.length, **sizes), "text")
        denoiser = NetworkDenoiser(network, process, pre.DDPM(process.schedule))
        denoiser.space = space
        return denoiser

    def objective(self, spec: Spec) -> Objective:
        drop = self.drop if self.told else 0.0
        objective = Encoded(Matching("eps", UniformSteps(self.timesteps), drop=drop, norm=self.norm))
        return objective if self.hint is None else Hinted(objective, self.hint)

    def condition(self, batch: Any) -> dict[str, Tensor] | None:
        if self.told == "text":
            return {"text": self.text().encode(batch.caption)}
        if self.hint is not None:
            return self.hint(batch.x, Rng.from_seeds(range(len(batch.x))))
        return super().condition(batch)

    def prompt(self, spec: Spec, text: str) -> tuple[dict[str, Tensor] | None, tuple[Guidance, ...]]:
        """A caption; or the file of a picture, painted anew where it is transparent, or enlarged."""
        if self.hint is not None:
            return self.hint.read(text, spec.shape), ()
        if self.told != "text":
            return super().prompt(spec, text)
        reader = self.text()
        if isinstance(reader, Words):
            reader.check(text)
        return {"text": reader.encode([text])[0]}, ()

    def unprompted(self, spec: Spec, seeds: Sequence[int]) -> dict[str, Tensor] | None:
        """Captions of the training data, or held-out pictures with holes or made smaller, in turn by seed."""
        if self.hint is not None:
            data = _held_out(self.data, spec)
            x = data.batch([seed % len(data) for seed in seeds]).x
            return self.hint(x, Rng.from_seeds(seeds).spawn(1))
        if self.told != "text":
            return None
        return {"text": self.text().encode([self.prompts[seed % len(self.prompts)] for seed in seeds])}

    def completed(self, x: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        return x if self.hint is None else self.hint.completed(x, told)

    def sampling(self) -> Sampling:
        grid = Integers(self.sampling_steps, "shifted")
        return Sampling(Ancestral(eta=self.eta), grid, guidance=self.guidance if self.told else 1.0)


@lru_cache(maxsize=1)
def _held_out(name: str, spec: Spec) -> DataSet:
    return load_like(name, spec, "held-out")


def _captions(data: Any, first: int, count: int) -> list[str]:
    return data.batch(range(first, min(first + count, len(data)))).caption


# Exact checks.


def _images(count: int, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(count, channels, size, size, generator=stream(0, count))


SMALL = AutoencoderOptions(channels=16, mult=(1, 2), middle_attention=False, latent=3)


def _space(**options) -> Latents:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Latents(replace(SMALL, **options), 3).double()


@check(LDM, "divergence of the latents' law from N(0, 1), summed, against torch.distributions", "2112.10752", 1e-9)
def divergence_of_the_latents():
    h = _images(2, 6).double()
    law = posterior(h)
    found = law.kl(Normal(torch.zeros_like(law.mean), 1.0))
    mean, log_variance = h.chunk(2, 1)
    theirs = torch.distributions.Normal(mean, log_variance.exp().sqrt()), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(*theirs).flatten(1).sum(1)  # type: ignore[arg-type]
    return float((found - expected).abs().max()), 0.0


@check(LDM, "the quantiser's codes are the nearest of all: places where a search through all differs", "2112.10752", 0)
def nearest_codes():
    quantiser = VectorQuantiser(64, 3)
    quantiser.codes.data = torch.randn(64, 3, generator=stream(1, 1))
    z = _images(4)
    distances = torch.cdist(z.movedim(1, -1).reshape(-1, 3).double(), quantiser.codes.detach().double())
    return int((quantiser.nearest(z).flatten() != distances.argmin(1)).sum()), 0


@check(LDM, "the gradient through the quantiser is that of its output, untouched", "2112.10752", 0.0)
def straight_through():
    quantiser, z, pull = VectorQuantiser(16, 3), _images(2).requires_grad_(), _images(2) + 1
    (found,) = torch.autograd.grad((quantiser(z) * pull).sum(), z)
    return float((found - pull).abs().max()), 0.0


@check(
    LDM, "standard deviation of scaled latents, of noise other than that which it was measured with", "2112.10752", 5e-3
)
def unit_latents():
    space, x = _space(), _images(4096).double()
    space.measure(x, Rng.from_seeds(range(4096)))
    with torch.no_grad():
        return space.encode(x, Rng.from_seeds(range(4096)).spawn(3)).std(), 1.0


class Principal(Space):
    """The best linear autoencoder of Gaussian data: orthonormal directions of greatest variance, each scaled to variance 1."""

    plain = False

    def __init__(self, directions: Tensor, deviations: Tensor):
        super().__init__()
        self.directions, self.deviations = directions, deviations

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        return (self.directions.shape[1],)

    def encode(self, x: Tensor, rng: Rng) -> Tensor:
        return x @ self.directions / self.deviations

    def decode(self, z: Tensor) -> Tensor:
        return (z * self.deviations) @ self.directions.T


@check(
    LDM, "a linear autoencoder and the exact prior of its latents: covariance of what is decoded", "2112.10752", 1e-5
)
def principal_components():
    directions = torch.linalg.qr(torch.randn(4, 4, generator=stream(0, 4), dtype=torch.float64))[0]
    deviations = torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    space = Principal(directions[:, :2], deviations[:2])
    x = (torch.eye(4, dtype=torch.float64) * deviations) @ directions.T  # rows whose second moments are the covariance
    z = space.encode(x, Rng.from_seeds(range(4)))
    law = gaussian(torch.zeros(2, dtype=torch.float64), z.square().sum(0))
    start = torch.eye(2, dtype=torch.float64)  # the flow of a Gaussian is linear: two noises tell all of it
    step = RK45(atol=1e-10, rtol=1e-10)
    process = LDM().process()
    end = sample(law.denoiser(process), step, Grid(2, end=1e-6), (2, 2), start=start, dtype=torch.float64)
    decoded = space.decode(end)
    expected = (x @ directions[:, :2] @ directions[:, :2].T).T @ x @ directions[:, :2] @ directions[:, :2].T
    return float((decoded.T @ decoded - expected).abs().max()), 0.0


@check(LDM, "guided by weight 1, the guess is the conditional one, to the last bit", "2112.10752", tolerance=0.0)
def weight_one_is_conditional():
    recipe = replace(
        LDM(), text_size=9, network=UNetOptions(channels=16, mult=(1,), blocks=1, attention=(1,), transformer=1)
    )
    denoiser = replace(recipe, autoencoder=SMALL).denoiser(Spec((3, 8, 8))).eval()
    for parameter in denoiser.parameters():  # the last layers are 0 before training, and would say nothing
        nn.init.normal_(parameter, std=0.1, generator=stream(2, parameter.numel()))
    z, t = _images(2, 3, 4), torch.tensor([0.3, 0.8])
    cond = {"text": torch.tensor([[1, 2, -1], [8, -1, -1]])}
    with torch.no_grad():
        guess, alone = denoiser(z, t, cond).mean, denoiser(z, t).mean  # type: ignore[attr-defined]
        guided = classifier_free(1.0)(denoiser)(z, t, cond).mean  # type: ignore[attr-defined]
    if torch.allclose(guess, alone):
        raise ValueError("a network that does not hear its caption tells nothing of guidance")
    return float((guided - guess).abs().max()), 0.0


@check(LDM, "every pixel that attends to one token takes W_out W_v of it", "2112.10752", tolerance=1e-6)
def one_token():
    attention, token = CrossAttention(8, 2, 5), torch.randn(2, 1, 5, generator=stream(0, 5))
    with torch.no_grad():
        found = attention(torch.randn(2, 6, 8, generator=stream(0, 6)), token)
        expected = attention.out(token @ attention.kv.weight[8:].T)
    return float((found - expected).abs().max()), 0.0


@check(LDM, "the order of the tokens does not matter to cross-attention", "2112.10752", tolerance=1e-6)
def order_of_tokens():
    attention, tokens = CrossAttention(8, 2, 5), torch.randn(2, 7, 5, generator=stream(0, 7))
    x = torch.randn(2, 6, 8, generator=stream(0, 8))
    with torch.no_grad():
        return float((attention(x, tokens) - attention(x, tokens.flip(1))).abs().max()), 0.0


@check(
    LDM, "the 501st of 1000 betas between 0.00085 and 0.012: its root lies evenly between theirs", "2112.10752", 1e-15
)
def middle_beta():
    first, last = 0.00085**0.5, 0.012**0.5
    return sqrt_linear_betas(1000)[500], (first + 500 / 999 * (last - first)) ** 2


def _with_holes(count: int) -> tuple[Tensor, Tensor]:
    x = _images(count, size=32).double()
    return x, Hole().draw((32, 32), Rng.from_seeds(range(count)))


@check(
    LDM, "what is told of pictures with holes, and samples of them: furthest from the pictures outside", "exact", 0.0
)
def known_pixels_are_told():
    x, hole = _with_holes(64)
    told = Hole().told(x, hole)
    completed = LDM.inpainting().completed(torch.zeros_like(x), told)
    return max(float(((y - x) * ~hole).abs().max()) for y in (told["picture"], completed)), 0.0


@check(LDM, "what is told of them changes by so much where what is behind the holes does", "exact", 0.0)
def holes_tell_nothing():
    x, hole = _with_holes(64)
    told, others = (Hole().told(y, hole) for y in (x, torch.where(hole, -x, x)))
    return max(float((told[name] - others[name]).abs().max()) for name in told), 0.0


@check(
    LDM,
    "a network that gives no weight to the picture it is told: furthest from the network that is told none",
    "exact",
    1e-6,
)
def deaf_to_the_picture():
    network = UNetOptions(channels=16, mult=(1,), blocks=1, attention=())
    recipe = LDM(captions=False, autoencoder=SMALL, network=network)
    built: list[Any] = [replace(recipe, concat=c).denoiser(Spec((3, 8, 8))) for c in ("none", "inpaint")]
    plain, hearing = (denoiser.network.double() for denoiser in built)
    weights = {f"network.{name}": value for name, value in plain.state_dict().items()}
    for name, value in weights.items():  # the last layers are 0 before training, and would say nothing
        nn.init.normal_(value, std=0.1, generator=stream(2, len(name)))
    stem = "network.stem.weight"
    weights[stem] = torch.cat([weights[stem], torch.zeros(16, 4, 3, 3, dtype=torch.float64)], 1)
    z, t = _images(2, 3, 4).double(), torch.tensor([0.3, 0.8], dtype=torch.float64)
    cond = {"picture": _images(3, 3, 4)[:2].double(), "map": _images(4, 1, 4)[:2].double()}
    with torch.no_grad():
        hearing.load_state_dict(weights)
        deaf = hearing(z, t, cond)
        hearing.network.stem.weight[:, 3:] = 0.1
        heard = float((hearing(z, t, cond) - deaf).abs().max())
        if heard < 1e-3:
            raise ValueError("a network that cannot hear what it is told tells nothing")
        return float((deaf - plain(z, t)).abs().max()), 0.0


def _millions(recipe: LDM) -> float:
    with torch.device("meta"):
        own = [m for m in recipe.denoiser(Spec((3, 256, 256), tuple("ab"))).modules() if isinstance(m, UNet)]
    return sum(p.numel() for p in own[0].parameters()) / 1e6


@check(LDM, "million parameters of CelebA-HQ's network", "table 12", tolerance=0.5)
def size_for_celebahq():
    return _millions(LDM.paper_celebahq()), 274.0


@check(LDM, "million parameters of the churches' network", "table 12", tolerance=1.0)
def size_for_churches():
    return _millions(LDM.paper_churches()), 294.0


@check(LDM, "million parameters of ImageNet's network", "table 10", tolerance=1.0)
def size_for_imagenet():
    return _millions(LDM.paper_imagenet()), 400.0


@check(LDM, "million parameters of the big network for inpainting", "section 4.5", tolerance=0.5)
def size_for_inpainting():
    return _millions(LDM.paper_inpainting()), 387.0


# Claims, on the emoji at 32x32: one model of each kind, so small that all together train in minutes; the shared autoencoder has
# latents of 8x8x3.

ROWS = 184
"""Held-out captions, and as many of the training split, evenly spaced."""
WEIGHTS = (1.0, 3.0)
STEPS = 20


def _first(lab, **options):
    """An autoencoder of one seed."""
    training = replace(FIRST_TRAINING, steps=500, checkpoint_every=100)
    return lab.train(FirstStage(network=AutoencoderOptions(**options), training=training))


def _prior(lab, steps, **options):
    training = replace(TRAINING, steps=steps, batch_size=32, checkpoint_every=100)
    return lab.train(LDM(encoder="minilm", training=training, **options))


def _latent(lab):
    return _prior(lab, 1000, first_stage=str(_first(lab).path))


def _in_pixels(lab):
    network = UNetOptions(
        channels=32, mult=(1, 2, 2), blocks=1, attention=(4,), heads=4, transformer=1, resample="conv"
    )
    return _prior(lab, 460, pixels=True, network=network)


def _pictures(lab):
    """Pictures and captions of the held-out split, and of as many rows of the training split; and the classes of all."""
    parts = []
    for split in ("held-out", "train"):
        data = lab.data("emoji-twitter", split)
        parts.append(data.batch([i * len(data) // ROWS for i in range(ROWS)]))
    x, label = torch.cat([p.x for p in parts]), torch.cat([p.label for p in parts])
    return x, [c for p in parts for c in p.caption], label


def _samples(lab, model, weight=1.0):
    """One sample for each caption, as a picture. Guesses of pixels are clipped, as is usual; those of latents know no bounds."""
    threshold = "clip" if model.recipe.pixels else "none"
    sampling = Sampling(Ancestral(eta=0.0), Integers(STEPS, "shifted"), guidance=weight, threshold=threshold)
    return lab.samples(model, 2 * ROWS, sampling, prompts=_pictures(lab)[1]).clamp(-1, 1)


def _interval(values: Tensor) -> tuple[float, float, float]:
    """The mean of numbers, one for each picture, and its 90 % bootstrap interval."""
    at = torch.randint(len(values), (1000, len(values)), generator=stream(0, 9))
    low, high = values.double()[at].mean(1).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return float(values.double().mean()), low, high


@torch.no_grad()
def _reconstructed(model, x: Tensor) -> Tensor:
    space = model.denoiser
    return torch.cat([space.decode(space.encode(part, Rng.from_seeds(range(len(part))))) for part in x.split(92)])


def _errors(x: Tensor, found: Tensor) -> Tensor:
    """Mean square error of each picture."""
    return (found - x).square().flatten(1).mean(1)


@claim(
    LDM,
    "Latents of 8x8x3, of either regularisation, hold more of held-out pictures than as many pixels do",
    "2112.10752",
)
def latents_hold_more_than_pixels(lab) -> Finding:
    x = lab.held_out("emoji-twitter")
    small = torch.nn.functional.interpolate(x, (8, 8), mode="area")
    enlarged = torch.nn.functional.interpolate(small, (32, 32), mode="bicubic").clamp(-1, 1)
    models = {"kl": _first(lab), "vq": _first(lab, regularise="vq")}
    found = {name: _reconstructed(model, x) for name, model in models.items()}
    error = {name: _errors(x, y) for name, y in {"8x8 pixels, enlarged": enlarged, **found}.items()}
    worse = max(found, key=lambda name: float(error[name].mean()))
    margin = _interval(error["8x8 pixels, enlarged"] - error[worse])
    space = models["vq"].denoiser
    with torch.no_grad():
        index = space.quantiser.nearest(space.law(x).mean)
    numbers = {
        "measure": "mean square error of 184 held-out pictures in [-1, 1]; margin: that of pixels less the worse of kl and vq",
        **{name: float(e.mean()) for name, e in error.items()},
        "frechet": {name: lab.frechet(y, x) for name, y in {"8x8 pixels, enlarged": enlarged, **found}.items()},
        "perplexity of 512 codes": perplexity(index, len(space.quantiser.codes)),
    }
    rows = {"pictures": x, "kl, f = 4": found["kl"], "vq, f = 4": found["vq"], "8x8 pixels": enlarged}
    every = {name: y[torch.arange(5, ROWS, 13)] for name, y in rows.items()}
    return Finding.bootstrapped(*margin, numbers, [lab.gallery_of("ldm-reconstructions", every)])


@claim(LDM, "An autoencoder that shrinks by 16 loses more of the picture than one by 4", "2112.10752")
def sixteen_loses_more_than_four(lab) -> Finding:
    x = lab.held_out("emoji-twitter")
    four, sixteen = _first(lab), _first(lab, mult=(1, 2, 2, 2, 2), latent=16)
    found = {"f = 4": _reconstructed(four, x), "f = 16": _reconstructed(sixteen, x)}
    error = {name: _errors(x, y) for name, y in found.items()}
    margin = _interval(error["f = 16"] - error["f = 4"])
    numbers = {
        "measure": "mean square error of 184 held-out pictures in [-1, 1]",
        **{name: float(e.mean()) for name, e in error.items()},
        "frechet": {name: lab.frechet(y, x) for name, y in found.items()},
    }
    return Finding.bootstrapped(*margin, numbers)


def _cost(lab, model) -> float:
    """Seconds of the processor for a training step of 32 pictures, but for the optimiser's: the least of three."""
    batch, objective = lab.data("emoji-twitter").batch(range(32)), model.recipe.lesson(model.spec)
    cond, device, found = model.recipe.condition(batch), torch.device("cpu"), []
    for _ in range(3):
        start = time.process_time()
        with autocast(device, best_precision(device)):
            loss = objective(model.denoiser, batch.x, cond, Rng.from_seeds(range(32))).per_example.mean()
        loss.backward()
        found.append(time.process_time() - start)
        model.denoiser.zero_grad()
    return min(found)


@claim(
    LDM,
    "At about the same training time, diffusion in latents comes nearer to the pictures than diffusion in pixels",
    "2112.10752",
)
def latents_beat_pixels(lab) -> Finding:
    x, _, _ = _pictures(lab)
    models = {"latents": _latent(lab), "pixels": _in_pixels(lab)}
    found = {name: _samples(lab, model) for name, model in models.items()}
    value, low, high = lab.difference(lambda y: lab.sliced(y, x), found["pixels"], found["latents"])
    numbers: dict[str, Any] = {
        "measure": f"sliced_wasserstein[pixels] of a sample for each of {len(x)} captions to their pictures, {STEPS} steps"
    }
    for name, model in models.items():
        steps = model.recipe.training.steps
        numbers[name] = {
            "distance": lab.sliced(found[name], x),
            "frechet": lab.frechet(found[name], x),
            "steps of 32": steps,
            "seconds of the processor": steps * _cost(lab, model),
            "parameters": sum(p.numel() for p in model.denoiser.network.parameters()),
        }
    rows = {"pictures": x, **found}
    every = {name: y[torch.arange(3, 2 * ROWS, 31)] for name, y in rows.items()}
    return Finding.bootstrapped(value, low, high, numbers, [lab.gallery_of("ldm-pixels", every)])


@claim(LDM, "The same number of steps takes less time in latents, decoding included", "2112.10752")
def latents_are_faster(lab) -> Finding:
    sampling = Sampling(Ancestral(eta=0.0), Integers(STEPS, "shifted"))
    models = {"latents": _latent(lab), "pixels": _in_pixels(lab)}
    found: dict[str, list[float]] = {name: [] for name in models}
    for name in [*models, *(name for _ in range(3) for name in models)]:
        start = time.perf_counter()
        models[name].sample(range(32), sampling)
        found[name].append(time.perf_counter() - start)
    times = {name: seconds[1:] for name, seconds in found.items()}  # the first loads what is loaded once
    margins = tuple(p / z - 1 for z, p in zip(times["latents"], times["pixels"], strict=True))
    numbers = {
        "measure": f"seconds for 32 pictures by {STEPS} DDIM steps; margin: pixels over latents, less 1",
        **times,
    }
    return Finding(
        margins, (min(margins), max(margins)), "three timings in turns; the interval is their range", numbers
    )


@claim(
    LDM,
    "Stronger guidance makes samples agree more with their captions: an independent classifier finds the caption's category",
    "2112.10752",
)
def guidance_raises_agreement(lab) -> Finding:
    x, captions, label = _pictures(lab)
    model = _latent(lab)
    found = {w: _samples(lab, model, w) for w in WEIGHTS}
    right = {w: (lab.probabilities(y).argmax(1) == label).double() for w, y in found.items()}
    margin = _interval(right[WEIGHTS[1]] - right[WEIGHTS[0]])
    numbers = {
        "measure": f"share of {len(x)} captions whose sample classifier:emoji puts in the category of the caption's picture",
        "of the pictures themselves": float((lab.probabilities(x).argmax(1) == label).double().mean()),
        "of the most frequent category": float(label.bincount().max() / len(label)),
        **{
            f"weight {w:g}": {
                "all": float(r.mean()),
                "held-out": float(r[:ROWS].mean()),
                "seen": float(r[ROWS:].mean()),
            }
            for w, r in right.items()
        },
    }
    shown = [*range(7, ROWS, 30)][:6] + [*range(ROWS + 3, 2 * ROWS, 30)][:6]
    rows = {"picture": x, **{f"w = {w:g}": y for w, y in found.items()}}
    pictures = [_captioned(lab, "ldm-captions", rows, captions, shown)]
    return Finding.bootstrapped(*margin, numbers, pictures)


def _captioned(lab, name: str, rows: dict[str, Tensor], captions: list[str], shown: list[int]) -> str:
    """A figure: pictures under their captions, a column each."""

    def paint(axes):
        sheet = torch.cat([torch.cat(list(y[shown]), 2) for y in rows.values()], 1)
        axes.imshow(((sheet.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_yticks([32 * i + 16 for i in range(len(rows))], list(rows))
        axes.set_xticks([32 * i + 16 for i in range(len(shown))], [captions[i] for i in shown], rotation=60, ha="left")
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, labelsize=6)
        axes.grid(False)

    return lab.picture(name, paint)


def _told_pictures(lab, concat):
    """A prior that is told pictures; what it is told of the held-out ones, and these."""
    options = {} if concat is None else {"concat": concat}
    model = _prior(lab, 1000, captions=False, first_stage=str(_first(lab).path), **options)
    x = lab.held_out("emoji-twitter")
    return model, model.recipe.unprompted(model.spec, range(len(x))), x


DDIM_STEPS = Sampling(Ancestral(eta=0.0), Integers(STEPS, "shifted"))


@torch.no_grad()
def _replaced(model, x: Tensor, told: Mapping[str, Tensor], seen: Tensor, eta: float) -> Tensor:
    """Pictures x painted in their holes by a prior that is told nothing: before each step the latents that lie wholly outside of
    them are replaced by those of the pictures `seen`, with noise, and in the guess without."""
    rng, space, hole = Rng.from_seeds(range(len(x))), model.denoiser.space, told["map"] > 0
    z = space.told({"picture": seen})["picture"]
    known = torch.nn.functional.adaptive_max_pool2d(hole.to(x), z.shape[2:]) == 0
    denoiser = guided(model.denoiser, [imputation(inpainting(z, known), rng.spawn(2))])
    found = space.decode(sample(denoiser, Ancestral(eta=eta), DDIM_STEPS.grid, z.shape, rng=rng)).clamp(-1, 1)
    return torch.where(hole, found, x)


@claim(
    LDM,
    "Holes of held-out pictures are painted nearer to the truth by a prior that is told the rest beside its latents than by one "
    "that is told nothing and whose known latents are replaced by those of the same picture with its hole",
    "2112.10752",
)
def told_beats_replaced(lab) -> Finding:
    """Replaced by the latents of the whole picture, they tell of what is behind the hole: those wholly outside of it differ by a
    quarter of their deviation, for the encoder looks at all of the picture. That number is given beside."""
    model, told, x = _told_pictures(lab, "inpaint")
    plain, hole = _told_pictures(lab, None)[0], told["map"] > 0
    found: dict[str, dict[float, Tensor]] = {"told": {}, "replaced": {}, "replaced by the truth's": {}}
    for eta in (0.0, 1.0):
        painted = lab.samples(model, len(x), replace(DDIM_STEPS, step=Ancestral(eta=eta))).clamp(-1, 1)
        found["told"][eta] = painted
        found["replaced"][eta] = _replaced(plain, x, told, told["picture"], eta)
        found["replaced by the truth's"][eta] = _replaced(plain, x, told, x, eta)
    share = 3 * hole.flatten(1).sum(1)
    error = {
        name: {eta: ((y - x).square() * hole).flatten(1).sum(1) / share for eta, y in each.items()}
        for name, each in found.items()
    }
    best = {name: min(each, key=lambda eta: float(each[eta].mean())) for name, each in error.items()}
    numbers = {
        "measure": f"mean square error in the holes of {len(x)} held-out pictures in [-1, 1], {STEPS} steps, each way with the "
        "better eta of 0 and 1; margin: that of what was replaced less that of what was told",
        "share of the pictures in holes": float(hole.double().mean()),
        **{
            f"{name}, eta = {eta:g}": {"error": float(error[name][eta].mean()), "frechet": lab.frechet(y, x)}
            for name, each in found.items()
            for eta, y in each.items()
        },
    }
    rows = {"told": told["picture"], "painted": found["told"][best["told"]]}
    rows |= {"replaced": found["replaced"][best["replaced"]], "picture": x}
    every = {name: y[torch.arange(5, len(x), 15)] for name, y in rows.items()}
    margin = error["replaced"][best["replaced"]] - error["told"][best["told"]]
    return Finding.bootstrapped(*_interval(margin), numbers, [lab.gallery_of("ldm-inpainting", every)])


@claim(
    LDM,
    "Enlarged four times in latents, held-out pictures come nearer to the true ones, in the features of a classifier, than by "
    "interpolation, bicubic or of the nearest",
    "2112.10752",
)
def enlarged_beats_interpolated(lab) -> Finding:
    model, told, x = _told_pictures(lab, "enlarge")
    found = {"enlarged": lab.samples(model, len(x), DDIM_STEPS).clamp(-1, 1)}
    for name in ("bicubic", "nearest"):
        found[name] = torch.nn.functional.interpolate(told["map"], x.shape[2:], mode=name).clamp(-1, 1)
    best = min(("bicubic", "nearest"), key=lambda name: lab.frechet(found[name], x))
    value, low, high = lab.difference(lambda y: lab.frechet(y, x), found[best], found["enlarged"])
    again = {name: model.recipe.hint(y, Rng.from_seeds(range(len(x))))["map"] for name, y in found.items()}
    numbers = {
        "measure": f"Frechet distance in features of classifier:emoji, {len(x)} held-out pictures from 8x8, {STEPS} steps; margin: "
        "that of the better interpolation less that of what was enlarged",
        **{
            name: {
                "frechet": lab.frechet(y, x),
                "error": float(_errors(x, y).mean()),
                "error made smaller again": float(_errors(told["map"], again[name]).mean()),
            }
            for name, y in found.items()
        },
        "frechet of what the autoencoder makes of the pictures": lab.frechet(_reconstructed(_first(lab), x), x),
    }
    rows = {"told": found["nearest"], "bicubic": found["bicubic"], "enlarged": found["enlarged"], "picture": x}
    every = {name: y[torch.arange(5, len(x), 15)] for name, y in rows.items()}
    return Finding.bootstrapped(value, low, high, numbers, [lab.gallery_of("ldm-super-resolution", every)])


untestable(
    LDM,
    "LPIPS and a critic of patches keep detail that a mean error blurs",
    "2112.10752",
    "no package ships LPIPS's weights, and the critic needs tens of thousands of steps before it helps (`--critic STEPS`)",
)
untestable(
    LDM,
    "CelebA-HQ 256x256: FID 5.11; ImageNet: 3.60 with guidance 1.5; text to image on COCO: 12.63; inpainting of Places: 1.50; "
    "ImageNet from 64x64: 2.8",
    "2112.10752",
    "needs the published trainings (`unnoise train ldm --preset paper-celebahq`, paper-imagenet, paper, paper-inpainting, "
    "paper-super-resolution)",
)
