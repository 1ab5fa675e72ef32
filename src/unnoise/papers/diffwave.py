r"""DiffWave: DDPM on the samples of a sound, by a WaveNet that hears both ways; a vocoder where it is told a mel spectrogram.

x_t = alpha_t x_0 + sigma_t eps,   L = E_{t, x_0, eps} |eps - eps_theta(x_t, t, told)|^2

and fast sampling: a chain of six variances eta_s, whose noise levels are those of the steps t_s between the trained ones,
alpha(t_s)^2 = prod_{r <= s} (1 - eta_r), serves a model that was trained with 50 or 200.

alpha is not 0 at t = 1 (alpha^2 = 0.28 after the published 50 steps, 0.13 after 200), and sampling starts from N(0, 1)
nevertheless: speech is quiet. It must not be brought to unit variance here. For the same reason a network that predicts the noise
spends its first hours on copying it: the presets of minutes predict what the best linear guess leaves, see the octave of steps
near the speech as often as those far above it, and a place of theirs holds eight samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..data import DataSet, load, load_like
from ..data.sound import read_sound
from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem
from ..mel import QUIETEST, SPEECH, Mel, picture
from ..networks import wavenet
from ..networks.wavenet import WaveNetOptions
from ..objectives import Cropped, LogUniform, Matching, Objective, UniformSteps
from ..oracles import gaussian
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec, Training
from ..rng import Rng, stream
from ..samplers import Ancestral, Integers, Reduced, sample
from ..samplers.reduced import DIFFWAVE, DIFFWAVE_LARGE
from ..schedules import StraightBetas
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper

SHORT = TrainingOptions(
    steps=5000, batch_size=8, lr=2e-3, warmup=100, decay="linear", ema=5_000, checkpoint_every=500, preview_every=1000
)
WHOLE = WaveNetOptions(channels=128, layers=12, cycle=8, fold=8)
"""Hears 4328 samples: the whole of a word."""


@paper(
    "2009.09761",
    "DiffWave: A Versatile Diffusion Model for Audio Synthesis",
    "Zhifeng Kong, Wei Ping, Jiaji Huang, Kexin Zhao, Bryan Catanzaro",
    2020,
    "ICLR 2021",
)
@dataclass(frozen=True)
class DiffWave(Recipe):
    """Noise and denoise the samples of a sound themselves: words by their class, or a vocoder of mel spectrograms."""

    data: str = "spoken-digits"
    conditional: bool = True
    vocode: bool = False
    """Whether the network is told the mel spectrogram of the sound, to make the sound of it."""
    timesteps: int = 200
    """Length T of the chain."""
    largest: float = 0.05
    """The last beta; the first is 0.0001, and between they lie evenly."""
    predict: Literal["noise", "rest"] = "rest"
    """What the network is for: the noise, as published; or what is left when the best linear guess of speech as loud as the data
    is made, so that a network of some minutes need not first learn to copy noise far louder than the speech (EDM's scaling)."""
    times: Literal["steps", "octaves"] = "octaves"
    """Which steps are trained: all alike, as published, or every octave of them, since most of the chain is far louder than
    speech, and a hiss is left by its first few steps."""
    variances: tuple[float, ...] = ()
    """Those of a shorter chain to sample by, from data to noise; none: all steps."""
    crop: int = 0
    """Samples that the network trains on at a time, from a random frame on; 0: all."""
    mel: Mel = field(default_factory=Mel)
    """What a vocoder is told; its hop must be the network's, and its rate is that of the data."""
    network: WaveNetOptions = WHOLE  # type: ignore[assignment]
    training: Training = SHORT

    takes: ClassVar[tuple[str, ...]] = ("sound",)
    presets: ClassVar[tuple[str, ...]] = ("laptop", "vocoder", "paper", "paper-large", "paper-sc09")

    def __post_init__(self) -> None:
        if self.vocode and self.conditional:
            raise UsageProblem("a vocoder is told a mel spectrogram and no label; add --no-conditional")
        if self.vocode and self.mel.hop != self.network.hop:
            raise UsageProblem(
                f"the mel spectrogram has a frame every {self.mel.hop} samples, and the network stretches it by "
                f"{self.network.hop} (--network.upsample); make them equal"
            )
        self.sampling().grid(self.process())

    @classmethod
    def vocoder(cls) -> DiffWave:
        """Sounds from mel spectrograms, minutes on two cores."""
        return cls(
            conditional=False,
            vocode=True,
            timesteps=50,
            crop=2048,
            mel=replace(SPEECH, rate=0, scale="decibel"),  # in [0, 1]: a short training needs no time to find the range
            network=WaveNetOptions(channels=128, layers=12, cycle=6, fold=8, upsample=(8,)),
            training=replace(SHORT, steps=4000),
        )

    @classmethod
    def paper(cls) -> DiffWave:
        """The vocoder BASE on LJ Speech (a folder of its .wav files): MOS 4.38 by 50 steps, 4.37 by 6."""
        return cls(
            data="LJSpeech-1.1/wavs",
            conditional=False,
            vocode=True,
            timesteps=50,
            predict="noise",
            times="steps",
            crop=16_128,  # 63 frames; in the paper 16,000 samples
            network=wavenet.BASE,
            training=replace(PUBLISHED, steps=1_000_000, batch_size=16, lr=2e-4, clip=None, ema=None),
        )

    @classmethod
    def paper_large(cls) -> DiffWave:
        """The vocoder LARGE: MOS 4.44 by 200 steps, 4.42 by 6."""
        return replace(cls.paper(), timesteps=200, largest=0.02, network=wavenet.LARGE)

    @classmethod
    def paper_sc09(cls) -> DiffWave:
        """Spoken digits of one second by their class (SC09, a folder of its files by digit): 91.2 % recognised."""
        network, training = wavenet.SC09, cls.paper().training
        return cls(data="SC09", predict="noise", times="steps", largest=0.02, network=network, training=training)

    def fitted(self, data: Any) -> DiffWave:
        if not self.vocode or self.mel.rate == data.rate:
            return self
        if self.mel.rate:
            raise UsageProblem(f"--mel.rate is {self.mel.rate}, but {data.name} has {data.rate} Hz; leave it out")
        return replace(self, mel=replace(self.mel, rate=data.rate))

    def process(self) -> Gaussian[StraightBetas]:
        if self.timesteps < 2:
            raise UsageProblem(f"timesteps is {self.timesteps}, but a chain from beta 0.0001 to another has 2 or more")
        return Gaussian(StraightBetas(torch.linspace(1e-4, self.largest, self.timesteps, dtype=torch.float64)))

    def build_network(self, spec: Spec, outputs: int = 1) -> torch.nn.Module:
        bands = self.mel.bands if self.vocode else None
        return self.network.build(spec.shape[0], outputs * spec.shape[0], self.classes_told(spec), bands)

    def denoiser(self, spec: Spec) -> Denoiser:
        process = self.process()
        scaling = pre.DDPM(process.schedule) if self.predict == "noise" else Rest(spec.std, self.timesteps)
        return NetworkDenoiser(self.build_network(spec), process, scaling)  # type: ignore[arg-type]

    def objective(self, spec: Spec) -> Objective:
        steps = UniformSteps(self.timesteps) if self.times == "steps" else LogUniform(1 / self.timesteps)
        matching = Matching("F", steps)
        return Cropped(matching, self.crop, self.mel.hop if self.vocode else 1) if self.crop else matching

    def condition(self, batch: Any) -> dict[str, Tensor] | None:
        return {"mel": self.mel(batch.x)} if self.vocode else super().condition(batch)

    def prompt(self, spec: Spec, text: str):
        """The sound of the file `text`, as the vocoder hears it: what is longer than the model's sounds is left out."""
        if not self.vocode:
            raise UsageProblem("this model is no vocoder, so it takes no prompt; --label chooses the word")
        x = torch.zeros(1, spec.shape[-1])
        heard = torch.from_numpy(read_sound(text, spec.rate)[0])[: spec.shape[-1]]
        x[0, : len(heard)] = heard
        return {"mel": self.mel(x)}, ()

    def unprompted(self, spec: Spec, seeds: Sequence[int]) -> dict[str, Tensor] | None:
        """The held-out sounds of the data, in turn by seed, as the vocoder hears them."""
        if not self.vocode:
            return None
        data = _examples(self.data, spec)
        return self.condition(data.batch([seed % len(data) for seed in seeds]))

    def sampling(self) -> Sampling:
        if self.variances:
            return Sampling(Ancestral(), Reduced(len(self.variances), self.variances))
        return Sampling(Ancestral(), Integers(self.timesteps))


class Rest(pre.EDM):
    """EDM's scaling, told the index of the step."""

    def __init__(self, sigma_data: float, steps: int):
        super().__init__(sigma_data)
        self.steps = steps

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return t * self.steps - 1


@lru_cache(maxsize=1)
def _examples(name: str, spec: Spec) -> DataSet:
    return load_like(name, spec, "held-out")


# Exact checks.

FIFTY, LONG = DiffWave(timesteps=50), DiffWave(largest=0.02)
"""The chains of BASE and LARGE."""


def _indices(recipe: DiffWave, variances: tuple[float, ...]) -> Tensor:
    """Where on the trained chain, counted from 0, the short one's levels lie, from data to noise."""
    process = recipe.process()
    times = [point.t for point in Reduced(len(variances), variances)(process)[:-1]]
    return torch.tensor(times[::-1], dtype=torch.float64) * recipe.timesteps - 1


@check(DiffWave, "aligned steps of BASE: furthest from the published table", "appendix B", tolerance=6e-5)
def aligned_steps():
    expected = torch.tensor([0, 0.8941, 4.0867, 10.4518, 22.9925, 42.9186], dtype=torch.float64)
    return float((_indices(FIFTY, DIFFWAVE) - expected).abs().max()), 0.0


@check(DiffWave, "aligned steps of LARGE: furthest from the published table", "appendix B", tolerance=6e-5)
def aligned_steps_of_large():
    expected = torch.tensor([0, 3.2007, 13.4303, 33.8203, 73.9825, 170.6051], dtype=torch.float64)
    return float((_indices(LONG, DIFFWAVE_LARGE) - expected).abs().max()), 0.0


@check(DiffWave, "signal left after the 50 steps of BASE, alpha^2", "the paper", tolerance=5e-5)
def signal_left():
    return FIFTY.process().point(1.0).alpha ** 2, 0.2797


@check(DiffWave, "signal left after the 200 steps of LARGE, alpha^2", "the paper", tolerance=5e-5)
def signal_left_of_large():
    return LONG.process().point(1.0).alpha ** 2, 0.1322


def _chain(variances: list[float], mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of what the reverse of a chain makes of N(0, 1), by the best guess of the noise for N(mean, variance)
    data: x <- (x - eta eps / sqrt(1 - g)) / sqrt(1 - eta) + sqrt((1 - g') / (1 - g) eta) z, g the products up to here and
    g' up to before."""
    products = [1.0]
    for eta in variances:
        products.append(products[-1] * (1 - eta))
    m, v = 0.0, 1.0
    for s in range(len(variances), 0, -1):
        eta, g, before = variances[s - 1], products[s], products[s - 1]
        slope = (1 - g) ** 0.5 / (g * variance + 1 - g)  # of eps in x - sqrt(g) mean
        keep = (1 - eta / (1 - g) ** 0.5 * slope) / (1 - eta) ** 0.5
        shift = eta / (1 - g) ** 0.5 * slope * g**0.5 * mean / (1 - eta) ** 0.5
        noise = (1 - before) / (1 - g) * eta if s > 1 else 0.0
        m, v = keep * m + shift, keep * keep * v + noise
    return m, v


def _walked(grid, count: int = 100_000) -> Tensor:
    """What the sampler makes of N(0.3, 0.04) data's own denoiser."""
    oracle = gaussian(torch.tensor([0.3], dtype=torch.float64).expand(1000), 0.04).denoiser(FIFTY.process())
    return sample(oracle, Ancestral(), grid, (count // 1000, 1000), dtype=torch.float64)


@check(DiffWave, "50 steps on N(0.3, 0.04) data: variance of 10^5 samples, over that of the recursion", "exact", 0.01)
def chain_of_all_steps():
    betas = torch.linspace(1e-4, 0.05, 50, dtype=torch.float64).tolist()
    return float(_walked(Integers(50)).var()) / _chain(betas, 0.3, 0.04)[1], 1.0


@check(DiffWave, "6 aligned steps there: variance of 10^5 samples, over that of the recursion", "exact", 0.01)
def chain_of_aligned_steps():
    return float(_walked(Reduced()).var()) / _chain(list(DIFFWAVE), 0.3, 0.04)[1], 1.0


@check(DiffWave, "6 aligned steps there: mean of 10^5 samples, less that of the recursion", "exact", 0.003)
def mean_of_aligned_steps():
    return float(_walked(Reduced()).mean()) - _chain(list(DIFFWAVE), 0.3, 0.04)[0], 0.0


def _millions(options: WaveNetOptions) -> float:
    with torch.device("meta"):
        network = options.build(bands=80)
    return sum(p.numel() for p in network.parameters()) / 1e6


@check(DiffWave, "million parameters of BASE", "the paper", tolerance=0.005)
def size_of_base():
    return _millions(wavenet.BASE), 2.64


@check(DiffWave, "million parameters of LARGE", "the paper", tolerance=0.005)
def size_of_large():
    return _millions(wavenet.LARGE), 6.91


@check(DiffWave, "samples that one output of BASE depends on, by its gradient", "the paper", tolerance=0)
def receptive_field():
    network = replace(wavenet.BASE, channels=2).build().double()
    for bias in (network.stem.bias, network.last.bias):
        torch.nn.init.constant_(bias, 9.0)  # so that no rectifier is shut
    torch.nn.init.ones_(network.head.weight)
    x = torch.linspace(-1, 1, 8001, dtype=torch.float64).requires_grad_()
    network(x[None, None], torch.zeros(1, dtype=torch.float64))[0, 0, 4000].backward()
    heard = x.grad.abs() > 0  # type: ignore[union-attr]
    span = heard.nonzero()
    return float(span.max() - span.min() + 1), 6139.0


@check(
    DiffWave, "loss of an untrained network, whose last layer is zero, on the spoken digits", "exact", tolerance=0.02
)
def untrained_loss():
    data, recipe = load("spoken-digits"), DiffWave(predict="noise", network=WaveNetOptions(channels=4, layers=2))
    spec, batch = Spec.like(data), data.batch(range(16))
    loss = recipe.objective(spec)(recipe.denoiser(spec), batch.x, batch.cond, Rng.from_seeds(range(16)))
    return float(loss.per_example.detach().mean()), 1.0


@check(DiffWave, "samples that BASE makes of 7 frames", "the paper", tolerance=0)
def stretched():
    with torch.device("meta"):
        return float(wavenet.Upsampler(wavenet.BASE)(torch.empty(1, 80, 7)).shape[2]), 7 * 256.0


# Claims, on spoken digits of half a second at 8 kHz: the two presets of minutes, networks of 3.1 M parameters, one seed.


def _vocoder(lab):
    return lab.train(DiffWave.vocoder(), lab.seeds[0])


def _speaker(lab):
    return lab.train(DiffWave(), lab.seeds[0])


SIX = {
    "aligned": Sampling(Ancestral(), Reduced()),
    "evenly strided": Sampling(Ancestral(), Integers(6)),
}


WORDS = 40
"""Held-out words that are vocoded."""
SPOKEN = 60
"""Words that are spoken from their class, six of each."""


def _held_out(lab):
    return lab.data("spoken-digits", "held-out").batch(range(WORDS))


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean difference of two sounds' mel spectrograms, in nepers, for each pair; 60 dB below full scale is silence."""
    heard = [SPEECH(sound.clamp(-1, 1)).clamp(min=QUIETEST) for sound in (x, y)]
    return (heard[0] - heard[1]).abs().mean((1, 2))


def _resampled(margin: Callable[[Tensor], float], count: int, numbers: dict[str, Any], pictures=()) -> Finding:
    """The margin of all rows, with its bootstrap interval over rows."""
    random = stream(0, 7)
    draws = [margin(torch.randint(count, (count,), generator=random)) for _ in range(1000)]
    low, high = (
        torch.tensor(draws, dtype=torch.float64).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    )
    return Finding.bootstrapped(margin(torch.arange(count)), low, high, numbers, pictures)


MEASURE = "mean absolute difference of log-mel spectrograms (40 bands) to 40 held-out words"


def _vocoded(lab) -> dict[str, Tensor]:
    """The held-out words made again from their mel spectrograms: by all steps, and by six."""
    model, count = _vocoder(lab), WORDS
    return {
        "all 50 steps": lab.samples(model, count),
        **{f"6 steps, {name}": lab.samples(model, count, sampling) for name, sampling in SIX.items()},
    }


def _spoken(lab) -> Tensor:
    """A word of the same class for each held-out word, by the model that is told the class alone."""
    labels = _held_out(lab).label
    made = lab.samples(_speaker(lab), SPOKEN).unflatten(0, (-1, 10))  # the classes take turns
    taken = [0] * 10
    rows = []
    for label in labels.tolist():
        rows.append(made[taken[label] % len(made), label])
        taken[label] += 1
    return torch.stack(rows)


def _shown(lab, name: str, rows: dict[str, Tensor], every: int = 8) -> str:
    """A picture of some sounds of each row, as mel spectrograms."""
    return lab.gallery_of(name, {label: picture(SPEECH(x[::every])) for label, x in rows.items()}, columns=10)


@claim(
    DiffWave,
    "Told its mel spectrogram, the network makes a sound nearer to a word than one that is told the word",
    "the paper",
)
def the_vocoder_follows(lab) -> Finding:
    batch = _held_out(lab)
    made, spoken = _vocoded(lab), _spoken(lab)
    noise = batch.x.std() * Rng.from_seeds(range(len(batch))).normal(*batch.x.shape[1:])  # as loud as the words
    found = {name: _distance(x, batch.x) for name, x in {**made, "told the word": spoken, "noise": noise}.items()}
    near, far = found["all 50 steps"], found["told the word"]
    shown = _shown(lab, "vocoded", {"target": batch.x, **made, "told the word": spoken})
    right = _recognised(lab, made["all 50 steps"], batch.label)
    numbers = {"measure": MEASURE, **{name: float(row.mean()) for name, row in found.items()}}
    numbers |= {"recognised, of those vocoded by 50 steps": float(right.mean())}
    return _resampled(lambda rows: float((far - near)[rows].mean()), len(batch), numbers, [shown])


def _recognised(lab, x: Tensor, labels: Tensor) -> Tensor:
    """1 for each sound that classifier:spoken-digits hears as its word, else 0."""
    return (lab.probabilities(picture(SPEECH(x))).argmax(1) == labels).double()


@claim(DiffWave, "Six aligned steps vocode with an error at most a fifth larger than that of all 50 steps", "table 1")
def six_aligned_steps_suffice(lab) -> Finding:
    x, made = _held_out(lab).x, _vocoded(lab)
    full, six = (_distance(made[name], x) for name in ("all 50 steps", "6 steps, aligned"))
    numbers = {"measure": MEASURE, "50 steps": float(full.mean()), "6 aligned": float(six.mean())}
    return _resampled(lambda rows: float(1.2 - six[rows].mean() / full[rows].mean()), len(x), numbers)


@claim(DiffWave, "Six aligned steps vocode with a smaller error than six evenly strided of the 50", "appendix B")
def alignment_matters(lab) -> Finding:
    x, made = _held_out(lab).x, _vocoded(lab)
    six, strided = (_distance(made[f"6 steps, {name}"], x) for name in SIX)
    numbers = {"measure": MEASURE, "6 aligned": float(six.mean()), "6 evenly strided": float(strided.mean())}
    return _resampled(lambda rows: float((strided - six)[rows].mean()), len(x), numbers)


@claim(DiffWave, "Digits spoken from their class alone are recognised, three times as often as by chance", "table 3")
def digits_are_recognised(lab) -> Finding:
    x, heard = lab.samples(_speaker(lab), SPOKEN), _held_out(lab)
    right, real = _recognised(lab, x, torch.arange(SPOKEN) % 10), _recognised(lab, heard.x, heard.label)
    numbers = {
        "measure": "accuracy of classifier:spoken-digits on 60 sounds of 200 steps",
        "made": float(right.mean()),
        "by digit": right.unflatten(0, (-1, 10)).mean(0).tolist(),
        "held-out words": float(real.mean()),
    }
    first = torch.stack([heard.x[heard.label == k][0] for k in range(10)])
    shown = _shown(lab, "spoken", {"words": first, **{f"made {i}": x[10 * i : 10 * i + 10] for i in range(4)}}, every=1)
    return _resampled(lambda rows: float(right[rows].mean()) - 0.3, SPOKEN, numbers, [shown])


untestable(
    DiffWave,
    "LJ Speech: mean opinion 4.44 by LARGE in 200 steps and 4.37 by BASE in six, against 4.52 of the recordings",
    "table 1",
    "needs listeners, and 1M steps of training on 24 hours of speech (`unnoise train diffwave --preset paper --data DIR`)",
)
untestable(
    DiffWave,
    "SC09: FID 1.287 unconditionally, 91.2 % of digits recognised class-conditionally; WaveNet 60.7 %",
    "tables 2 and 3",
    "needs 1M steps of a network of 256 channels, and a data set that is not here (`--preset paper-sc09 --data DIR`)",
)
