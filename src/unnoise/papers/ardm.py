r"""ARDM: autoregression in any order, trained like diffusion: hide a random part, guess all of it, count it right.

    log p(x) >= D E_{n ~ U{1..D}} E_order [ 1/n sum over the n hidden positions of log p(x_i | the others) ]

It is absorbing diffusion with at most D steps: each reveals a position. Since order does not matter, k positions revealed at
once where e are known cost k L_e, so the best schedule of any length is found by dynamic programming. "Upscale": symbols come
back digit by digit, the coarsest first. And -log2 p is a code length: files are compressed without loss.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from tyro.conf import Suppress

from ..compression import compress, decompress
from ..denoisers import Denoiser, Guidance, Levels, NextSymbols, Symbols, prompted
from ..disk import write_whole
from ..errors import UsageProblem
from ..kinds.text import Text
from ..laws import Categorical
from ..likelihood import OrderAgnostic as OrderAgnosticBound
from ..likelihood import independent_masks, likelihood, losses_by_step, per_symbol, variational_bound
from ..networks import TransformerOptions, UNetOptions, WaveNetOptions
from ..networks.wavenet import SC09
from ..objectives import LeftToRight, Objective, OrderAgnostic
from ..oracles import Joint, MarkovChain, Trigrams
from ..processes import Masking
from ..recipe import Recipe, Sampling, Spec, Training
from ..rng import Rng, stream
from ..samplers import Ancestral, Policy, Uniform, even_policy, policy_cost, sample, step_policy
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper

BODIES = {"images": "unet", "sound": "wavenet"}


@paper(
    "2110.02037",
    "Autoregressive Diffusion Models",
    "Emiel Hoogeboom, Alexey A. Gritsenko, Jasmijn Bastings, Ben Poole, Rianne van den Berg, Tim Salimans",
    2021,
    "ICLR 2022",
)
@dataclass(frozen=True)
class ARDM(Recipe):
    """Autoregression in any order: exact likelihood weighting, parallel steps on any budget, lossless compression."""

    data: str = "state-of-the-union"
    """A text: the built-in one, or a file; or images, whose grey levels are the symbols; or sounds."""
    order: Literal["random", "left-to-right"] = "random"
    """The order in which symbols come; left-to-right is plain autoregression, by the same network made causal."""
    branching: int | None = None
    """Symbols come digit by digit to this base, the coarsest first; none: at once."""
    parametrisation: Literal["data", "direct"] = "data"
    """branching: a logit for each symbol, or one for each digit at each stage."""
    plain: float = 1e-4
    """Share of the plain cross-entropy, without 1/n, in the loss."""
    sampling_steps: int = 0
    """Steps of the sampler; 0 for one for each symbol (in stages: digit)."""
    bits: int = 8
    """Sounds: bits of a sample."""
    total: Annotated[int, Suppress] = 64
    """Steps of the whole chain; taken from the data."""
    body: Literal["transformer", "unet", "wavenet"] = "transformer"
    """What guesses: a transformer of symbols, or of images and sounds the network of those."""
    network: TransformerOptions = TransformerOptions()  # type: ignore[assignment]
    unet: UNetOptions = UNetOptions(channels=32, mult=(1,), blocks=2, attention=(1,))
    """body unet: without smaller levels, as published."""
    wavenet: WaveNetOptions = WaveNetOptions(channels=32, layers=10, cycle=10)
    """body wavenet."""
    training: Training = TrainingOptions(
        steps=12_000,
        batch_size=16,
        lr=1.5e-3,
        warmup=100,
        decay="linear",
        decay_from=0.3,
        ema=20_000,
        checkpoint_every=1000,
    )

    takes: ClassVar[tuple[str, ...]] = ("text", "images", "sound")
    presets: ClassVar[tuple[str, ...]] = ("laptop", "paper", "paper-cifar10", "paper-sc09")

    def __post_init__(self) -> None:
        if self.order == "left-to-right" and (self.branching or self.parametrisation != "data"):
            raise UsageProblem("plain autoregression gives whole symbols; leave branching and parametrisation out")
        if self.order == "left-to-right" and self.body != "transformer":
            raise UsageProblem(
                f"plain autoregression needs a causal network, and a {self.body} is none; leave body out"
            )
        if not 1 <= self.bits <= 16:
            raise UsageProblem(f"bits is {self.bits}, but a sample of a sound has from 1 to 16")
        if self.parametrisation == "direct" and not self.branching:
            raise UsageProblem("a direct parametrisation is of digits; give a branching, or leave it out")
        if self.sampling_steps < 0 or self.plain < 0:
            raise UsageProblem(f"sampling_steps and plain are 0 or more, not {self.sampling_steps} and {self.plain}")

    @classmethod
    def paper(cls) -> ARDM:
        """text8 (a file) in windows of 250 (`--size`): 1.43 bits per character with 250 steps, 1.51 with 20."""
        return cls(
            data="text8",
            network=TransformerOptions(width=768, depth=12, heads=12, features=256, told=768),
            total=250,
            training=replace(
                PUBLISHED,
                steps=1_000_000,
                batch_size=512,
                lr=5e-4,
                warmup=5000,
                weight_decay=1e-3,
                clip=0.25,
            ),
        )

    @classmethod
    def paper_cifar10(cls) -> ARDM:
        """CIFAR-10 in four stages: 2.64 bits/dim augmented, 2.71 without; as files 2.71 in 500 steps."""
        return cls(
            data="cifar10",
            branching=4,
            plain=1e-3,
            body="unet",
            unet=UNetOptions(channels=256, mult=(1,), blocks=32, attention=(1,), conditioning="add"),
            total=4 * 3072,
            training=replace(
                PUBLISHED,
                steps=6000 * 391,
                batch_size=128,
                lr=1e-4,
                clip=100.0,
                ema=887_000,  # 0.9999 a step
            ),
        )

    @classmethod
    def paper_sc09(cls) -> ARDM:
        """Spoken digits of one second (SC09, a folder of its files), 16 bits, each a stage: 6.29 bits a sample."""
        return cls(
            data="SC09",
            branching=2,
            parametrisation="direct",
            bits=16,
            body="wavenet",
            wavenet=replace(SC09, carry="input", weight_norm=False),
            total=16 * 16_000,
            training=replace(
                PUBLISHED,
                steps=1_000_000,
                batch_size=256,
                lr=1e-4,
                warmup=15_000,
                clip=1000.0,
                ema=35_400,  # 0.995 a step
            ),
        )

    def fitted(self, data: Any) -> ARDM:
        """With the length of these data's chain."""
        return replace(self, total=self.masking(Spec.like(data)).steps)

    def masking(self, spec: Spec) -> Masking:
        """The process on data of a spec."""
        if spec.kind == "text":
            return Masking(len(spec.alphabet or ()), spec.shape, self.branching, self.order)
        if spec.kind == "sound":
            return Masking(2**self.bits, spec.shape, self.branching, self.order, scale=2**self.bits)
        return Masking(spec.levels, spec.shape, self.branching, self.order, scale=spec.levels - 1)

    def denoiser(self, spec: Spec) -> Denoiser[Any]:
        process = self.masking(spec)
        classes = self.classes_told(spec)
        outputs = Symbols.outputs(process, self.parametrisation)
        if self.body != "transformer":
            return self.levels(spec, process, outputs, classes)
        causal, places = self.order == "left-to-right", self.network.places if spec.kind == "text" else process.length
        options = replace(self.network, causal=causal, places=places)
        network = options.build(Symbols.vocabulary(process), outputs, classes)
        return NextSymbols(network, process) if causal else Symbols(network, process, self.parametrisation)

    def levels(self, spec: Spec, process: Masking, outputs: int, classes: int | None) -> Levels:
        """The denoiser by a network of images or sounds; a quarter of its channels are as wide as a symbol's vector."""
        if (fits := BODIES.get(spec.kind)) != self.body:
            remedy = f"take body {fits} or transformer" if fits else "leave body out"
            raise UsageProblem(f"a {self.body} does not see {spec.kind}; {remedy}")
        options, channels = self.unet if self.body == "unet" else self.wavenet, spec.shape[0]
        width = max(1, options.channels // 4)
        network = options.build(Levels.inputs(channels, width), channels * outputs, classes)
        return Levels(network, process, self.parametrisation, width)

    def objective(self, spec: Spec) -> Objective:
        return LeftToRight() if self.order == "left-to-right" else OrderAgnostic(self.masking(spec).steps, self.plain)

    def sampling(self) -> Sampling:
        return Sampling(Ancestral(), Uniform(self.sampling_steps or self.total))

    def prompt(self, spec: Spec, text: str) -> tuple[None, tuple[Guidance, ...]]:
        """The text's first words, or one with gaps: "the _____ of the union"."""
        return None, (prompted(spec, text),)


# Exact checks, on all sequences of three symbols out of three.


def _joint() -> Joint:
    return Joint(torch.rand(3, 3, 3, generator=stream(2110), dtype=torch.float64) ** 3)


def _expected_losses(law: Joint, tempered: float = 1.0, branching: int | None = None) -> Tensor:
    """L by the number of known symbols (in stages: digits), (steps,), in the mean over the law: all sequences and all orders; of
    the true guess, or that to a power."""
    process = Masking(law.tokens, (law.length,), branching)
    denoiser, x, p = law.denoiser(process), law.every, law.log_weights.exp().flatten()
    ranks = torch.cartesian_prod(*[torch.arange(law.length)] * law.length)
    ranks = ranks[(ranks.sort(1).values == torch.arange(law.length)).all(1)]  # every order
    losses = torch.zeros(process.steps, dtype=torch.float64)
    for known in range(process.steps):
        end = (known // law.length + 1) * law.length  # of the stage
        t, s = process.points([1 - known / process.steps, 1 - end / process.steps])
        for rank in ranks:
            xt = process.join(process.coarse(x, process.depth(rank.expand_as(x), t)), rank.expand_as(x))
            guess = Categorical((tempered * denoiser(xt, t.over(x)).log_probs).log_softmax(-1))
            nats = -process.reverse_law(guess, xt, t, s).log_prob(x)
            losses[known] += float(p @ nats) / (end - known) / len(ranks)
    return losses


def _entropy(law: Joint) -> float:
    return -float(torch.special.xlogy(law.log_weights.exp(), law.log_weights.exp()).sum())


@check(ARDM, "with the true conditionals the bound is the entropy: sum of L over all orders, nats", "2110.02037", 1e-10)
def bound_is_tight():
    law = _joint()
    return float(_expected_losses(law).sum()), _entropy(law)


@check(
    ARDM,
    "so it is in stages, digit by digit to bases 2 and 3, of symbols out of four: largest gap, nats",
    "2110.02037",
    1e-10,
)
def bound_is_tight_in_stages():
    law = Joint(torch.rand(4, 4, 4, generator=stream(2111), dtype=torch.float64) ** 3)
    return max(abs(float(_expected_losses(law, branching=b).sum()) - _entropy(law)) for b in (2, 3)), 0.0


@check(
    ARDM, "from left to right, step by step, the chain's bound is -log p of every sequence: largest gap", "exact", 1e-10
)
def left_to_right_is_the_likelihood():
    law = _joint()
    found = likelihood(law.denoiser(Masking(3, (3,), order="left-to-right")), law.every, "bound").nats
    return float((found + law.log_prob(law.every)).abs().max()), 0.0


@check(ARDM, "losses [3, 2, 1] cost 9, 7 and 6 with 1, 2 and 3 steps", "2110.02037", tolerance=0)
def schedules_of_three():
    losses = torch.tensor([3.0, 2.0, 1.0])
    costs = [policy_cost(losses, step_policy(losses, steps)) for steps in (1, 2, 3)]
    return 100 * costs[0] + 10 * costs[1] + costs[2], 976


@check(
    ARDM,
    "absorbing diffusion in T steps comes down to the bound as T grows: rises among 1, 2, ..., 4096",
    "2110.02037",
    0,
)
def absorbing_comes_down():
    bounds = [independent_masks(_expected_losses(_joint(), 0.5), 2**k) for k in range(13)]
    return sum(b >= a for a, b in zip(bounds, bounds[1:], strict=False)), 0


@check(
    ARDM, "absorbing diffusion in 10^5 steps: its bound less that over all orders, nats", "2110.02037", tolerance=1e-4
)
def absorbing_is_the_bound():
    losses = _expected_losses(_joint(), 0.5)
    return independent_masks(losses, 100_000) - float(losses.sum()), 0.0


@check(ARDM, "what a symbol costs with true conditionals falls with every one that is known: rises", "2110.02037", 0)
def losses_fall():
    losses = _expected_losses(_joint()).tolist()
    return sum(b >= a for a, b in zip(losses, losses[1:], strict=False)), 0


@check(
    ARDM,
    "letters of a chain of pairs, 64 of them: what they cost, one by one in any order, less its entropy",
    "exact",
    1e-9,
)
def costs_of_a_chain():
    p = torch.rand(5, 5, generator=stream(64), dtype=torch.float64) ** 2
    chain = MarkovChain(p / p.sum(1, keepdim=True), 64)
    return float(chain.costs().sum()) - chain.entropy, 0.0


@check(
    ARDM,
    "digit by digit, to bases 2, 3 and 5, laws multiply to that of the symbol: largest gap, nats",
    "2110.02037",
    1e-12,
)
def digits_telescope():
    worst = 0.0
    law = torch.randn(11, generator=stream(11), dtype=torch.float64).log_softmax(0)
    for base in (2, 3, 5):
        process, x0 = Masking(11, (1,), base), torch.arange(11)[:, None]
        x, total = process.prior((11, 1)).sample(Rng.from_seeds(range(11))), torch.zeros(11, dtype=torch.float64)
        for stage in range(process.stages):
            t, s = process.points([1 - stage / process.stages, 1 - (stage + 1) / process.stages])
            guess = Categorical((law + process.log_evidence(x, t)).log_softmax(-1))
            total += process.reverse_law(guess, x, t, s).log_prob(x0)
            x = process.posterior(x, x0, t, s).sample(Rng.from_seeds(range(11)))
        worst = max(worst, float((total - law).abs().max()))
    return worst, 0.0


# Claims. Text: the built-in one, in 27 symbols and windows of 64, by networks of 1 M parameters that see 64,000 windows. Images:
# the 8x8 digits in 17 grey levels. Sounds: spoken digits in 256 levels. One seed, and bootstrap intervals over what was held out.

TEXT = "state-of-the-union"
WRITER = TransformerOptions(width=128, depth=3, heads=4)
SKETCH = TransformerOptions(width=64, depth=3, heads=2, told=64)
PLAIN = TrainingOptions(
    steps=1000, batch_size=64, lr=2e-3, warmup=50, decay="linear", decay_from=0.3, ema=10_000, checkpoint_every=250
)
LONG = replace(PLAIN, steps=4000, batch_size=16, lr=1.5e-3)
SHORT = replace(PLAIN, steps=600)
PIXELS = replace(PLAIN, steps=2400, batch_size=32)
WAVES = replace(PLAIN, steps=600, batch_size=16, lr=1e-3)
BUDGETS = (2, 4, 8, 16, 32)


def _writer(lab):
    return lab.train(ARDM(network=WRITER, training=LONG))


def _plain(lab):
    """Autoregression from left to right; it learns much faster, so of the same windows four times as many a step."""
    return lab.train(ARDM(network=WRITER, training=PLAIN, order="left-to-right"))


def _held_out(lab, name: str, count: int) -> Tensor:
    """Held-out rows, spread over the split."""
    x = lab.held_out(name)
    return x[torch.linspace(0, len(x) - 1, count).long()]


def _losses(lab, model, count: int = 128) -> Tensor:
    """Bits of a symbol of held-out windows, by the number of those known: (windows, steps)."""
    x = _held_out(lab, model.recipe.data, count)
    return losses_by_step(model.denoiser, x, Rng.from_seeds(range(count))) / math.log(2)


def _interval(rows: Tensor, statistic, draws: int = 1000) -> tuple[float, float, float]:
    """A statistic of the mean over rows, and its 90 % bootstrap interval."""
    picks = torch.randint(len(rows), (draws, len(rows)), generator=stream(2110, 90))
    found = torch.tensor([statistic(rows[pick].mean(0)) for pick in picks], dtype=torch.float64)
    low, high = found.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return statistic(rows.mean(0)), low, high


def _unigram_bits(x: Tensor, tokens: int) -> float:
    p = torch.bincount(x.flatten(), minlength=tokens).double() / x.numel()
    return -float(torch.special.xlogy(p, p).sum()) / math.log(2)


@claim(
    ARDM,
    "The bound over all orders lies below the entropy of single characters, and below absorbing diffusion's in 16 and in 64 steps",
    "table 1",
)
def fewer_bits_than_absorbing(lab) -> Finding:
    model, data = _writer(lab), lab.data(TEXT)
    losses = _losses(lab, model)
    length = model.recipe.total
    unigrams = _unigram_bits(data.batch(range(0, len(data), 4)).x, len(data.alphabet))

    def bounds(mean: Tensor) -> dict[str, float]:
        return {f"absorbing, {steps} steps": independent_masks(mean, steps) / length for steps in (16, 64)}

    def margin(mean: Tensor) -> float:
        return min(unigrams, *bounds(mean).values()) - float(mean.mean())

    mean = losses.mean(0)
    numbers = {
        "measure": "bits per character of 128 held-out windows",
        "all orders": float(mean.mean()),
        "single characters": unigrams,
        **bounds(mean),
    }
    return Finding.bootstrapped(*_interval(losses, margin), numbers)


@claim(
    ARDM,
    "Plain autoregression by a network of the same size takes fewer bits than the bound over all orders",
    "table 1",
)
def left_to_right_takes_fewer_bits(lab) -> Finding:
    x = _held_out(lab, TEXT, 512)
    found = {
        name: likelihood(model, x, OrderAgnosticBound(draws)).bits
        for name, model, draws in (
            ("all orders", _writer(lab), 16),
            ("left to right", _plain(lab), 1),
        )
    }
    numbers = {"measure": "bits per character of 512 held-out windows"}
    numbers |= {name: float(bits.mean()) for name, bits in found.items()}
    difference = (found["all orders"] - found["left to right"])[:, None]
    return Finding.bootstrapped(*_interval(difference, lambda mean: float(mean[0])), numbers)


def _saved(losses: Tensor, policies: dict[int, list[int]]) -> dict[int, float]:
    """What schedules save on even steps, per symbol in the unit of the losses, by the number of steps."""
    length = len(losses)
    return {
        budget: (policy_cost(losses, even_policy(length, budget)) - policy_cost(losses, policy)) / length
        for budget, policy in policies.items()
    }


def _sounds(lab, **options):
    """On the first 1024 samples of words, in 256 levels: a WaveNet of 0.1 M parameters that hears 1023 of them."""
    network = WaveNetOptions(channels=32, layers=9, cycle=9)
    recipe = ARDM(data="spoken-digits", body="wavenet", wavenet=network, training=WAVES, **options)
    return lab.train(recipe, size=1024)


def _costs(model, x: Tensor, policy: list[int]) -> Tensor:
    """What a schedule costs each row, bits per symbol; all schedules by the same orders."""
    process, total = model.denoiser.process, torch.zeros(len(x), dtype=torch.float64)
    for start, end in pairwise([*policy, process.steps]):
        t = torch.full((len(x),), 1 - start / process.steps, dtype=torch.float64)
        with torch.no_grad():
            total += (end - start) * per_symbol(model.denoiser, x, t, Rng.from_seeds(range(len(x))))
    return total / process.length / math.log(2)


def _typical(model, x: Tensor) -> Tensor:
    """L in bits by the number of known symbols, (D,): measured at 33 numbers, the more of them the fewer are known, and on straight
    lines between."""
    length, denoiser = model.denoiser.process.length, model.denoiser
    known = [min(round(length * (i / 32) ** 2), length - 1) for i in range(33)]
    found = []
    with torch.no_grad():
        for e in known:
            t = torch.full((len(x),), 1 - e / length, dtype=torch.float64)
            found.append(float(per_symbol(denoiser, x, t, Rng.from_seeds(range(len(x)))).mean()) / math.log(2))
    lines = zip(pairwise(known), pairwise(found), strict=True)
    parts = [a + (b - a) * torch.arange(end - start).double() / (end - start) for (start, end), (a, b) in lines]
    return torch.cat([*parts, torch.tensor([found[-1]], dtype=torch.float64)])


@claim(
    ARDM,
    "The schedule found on what training sounds cost is cheaper on held-out ones than even steps, with 2, 4, 8, 16 and 32 steps",
    "2110.02037",
)
def schedules_are_cheaper(lab) -> Finding:
    """A sound is smooth: its first samples say the most of the others. In text each letter says as much as the one before it, so
    that even steps are all but the best: the next claim."""
    model, x = _sounds(lab), lab.held_out("spoken-digits", 1024)[::2]
    process, train = model.denoiser.process, lab.data("spoken-digits", "train", 1024)
    losses = _typical(model, train.batch(range(0, len(train), 4)).x)
    policies = {budget: step_policy(losses, budget) for budget in BUDGETS}
    rows = {
        "schedule": torch.stack([_costs(model, x, policy) for policy in policies.values()], 1),
        "even": torch.stack([_costs(model, x, even_policy(process.length, budget)) for budget in BUDGETS], 1),
    }
    mean = {name: cost.mean(0).tolist() for name, cost in rows.items()}

    def paint(axes, steps):
        for name, cost in mean.items():
            axes.plot(BUDGETS, cost, "o-", label={"schedule": "dynamic programming", "even": "even steps"}[name])
        axes.set(xscale="log", xlabel="steps", ylabel="bits per sample", title="held-out words, 1024 samples")
        axes.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axes.minorticks_off()
        axes.legend()
        steps.plot(range(len(losses)), losses)
        for start in policies[8]:
            steps.axvline(start, color="0.7", linewidth=0.8, zorder=0)
        steps.set(xlabel="samples known", ylabel="bits of an unknown one", title="training words, and the best 8 steps")

    numbers = {
        "measure": f"bits per sample of {len(x)} held-out words of 1024 samples, 8 bits",
        **{f"{b} steps": {name: cost[i] for name, cost in mean.items()} for i, b in enumerate(BUDGETS)},
    }
    margin = _interval(rows["even"] - rows["schedule"], lambda mean: float(mean.min()))
    return Finding.bootstrapped(*margin, numbers, [lab.picture("ardm-schedules", paint, 2)])


@claim(
    ARDM,
    "Of text even steps are all but the best: by exact costs, of its pairs of letters, no schedule of 2 to 32 saves 0.001 bits",
    "derived",
)
def text_asks_for_even_steps(lab) -> Finding:
    """What a letter costs falls on nearly a straight line, and on straight lines even steps are the best. The schedule of a
    trained model errs by the noise of what it saw."""
    data = lab.data(TEXT)
    costs = MarkovChain.fit(data.batch(range(0, len(data), 4)).x, len(data.alphabet), 64).costs() / math.log(2)
    saved = _saved(costs, {budget: step_policy(costs, budget) for budget in BUDGETS})
    model = _writer(lab)
    policies = {budget: step_policy(model.denoiser.process.losses, budget) for budget in BUDGETS}
    numbers = {
        "measure": "bits per character, even steps less the best schedule",
        **{f"{budget} steps": value for budget, value in saved.items()},
        "a trained model's schedule, 128 held-out windows": _saved(_losses(lab, model).mean(0), policies),
    }
    return Finding.computed([0.001 - value for value in saved.values()], numbers)


@claim(ARDM, "What the chain of a schedule takes on held-out text is what was computed for it, to 5 %", "2110.02037")
def schedules_cost_what_they_say(lab) -> Finding:
    model, x = _writer(lab), _held_out(lab, TEXT, 256)
    process, found = model.denoiser.process, {}
    rows = []
    for budget in (4, 16):
        said = policy_cost(process.losses, step_policy(process.losses, budget)) / process.length / math.log(2)
        bits = _chain_bits(model, x, Policy(budget))
        found[f"{budget} steps"] = {"computed in training": said, "taken": float(bits.mean())}
        rows.append(bits / said)
    numbers = {"measure": "bits per character of 256 held-out windows, one order each", **found}
    off = torch.stack(rows, 1)
    return Finding.bootstrapped(*_interval(off, lambda mean: 0.05 - float((mean - 1).abs().max())), numbers)


def _chain_bits(model, x: Tensor, grid) -> Tensor:
    """The variational bound of the chain that a grid walks, bits per symbol of each row."""
    return variational_bound(
        model.denoiser, Ancestral(), grid(model.denoiser.process), x, Rng.from_seeds(range(len(x)))
    ).total


@claim(
    ARDM,
    "Of text by a chain of second order the bound lies above the exact -log p, and below that of the best chain of first order",
    "derived",
)
def bound_against_an_exact_oracle(lab) -> Finding:
    data = lab.data(TEXT)
    letters = data.batch(range(0, len(data), 4)).x
    oracle = Trigrams.fit(letters, len(data.alphabet), 4096)
    file = lab.root / "texts" / "trigrams.txt"
    if not file.exists():
        rows = oracle.sample(Rng.from_seeds(range(128)))
        with write_whole(file) as aside:
            aside.write_text("".join(Text().words(row, data.facts) for row in rows))
    name = f"characters:{file}"
    if lab.data(name).alphabet != data.alphabet:
        raise UsageProblem(f"{file} is not the text of this experiment; remove it")
    model, x = lab.train(ARDM(data=name, network=SKETCH, training=SHORT)), _held_out(lab, name, 256)
    bits = {
        "exact": -Trigrams(oracle.transition, 64, oracle.initial).log_prob(x) / (64 * math.log(2)),
        "first order": -MarkovChain.fit(lab.data(name).batch(range(0, 20_000, 2)).x, 27).log_prob(x)
        / (64 * math.log(2)),
        "bound": likelihood(model, x, OrderAgnosticBound(16)).bits,
    }
    numbers = {"measure": "bits per character of 256 held-out windows"}
    numbers |= {key: float(value.mean()) for key, value in bits.items()}
    rows = torch.stack([bits["bound"] - bits["exact"], bits["first order"] - bits["bound"]], 1)
    return Finding.bootstrapped(*_interval(rows, lambda mean: float(mean.min())), numbers)


@claim(
    ARDM,
    "A file comes back bit for bit from a size within 2 % of the model's bits, and smaller than by zlib, bzip2 or LZMA",
    "table 3",
)
def files_are_compressed(lab) -> Finding:
    model = _writer(lab)
    windows = lab.held_out(TEXT)
    content = Text().words(windows[:64].flatten(), model.spec).encode()
    everything = Text().words(windows.flatten(), model.spec).encode()
    packed = compress(model, content)
    if decompress(model, packed.content) != content:
        return Finding.computed([-1.0], {"measure": "the file did not come back"})
    ideal = float(_chain_bits(model, windows[:64], Uniform(64)).sum()) * 64
    codecs = {
        "zlib": lambda b: zlib.compress(b, 9),
        "bzip2": bz2.compress,
        "LZMA": lambda b: lzma.compress(b, preset=9),
    }
    size = {name: 8 * len(codec(content)) / len(content) for name, codec in codecs.items()}
    ours = 8 * len(packed.content) / len(content)
    numbers = {
        "measure": f"bits per character of a file of {len(content):,} held-out characters, all headers included",
        "ardm": ours,
        "ardm, without its head": packed.bits / packed.symbols,
        "bound of the chain, other orders": ideal / len(content),
        **size,
        **{f"{name}, all {len(everything):,} held-out characters": 8 * len(codec(everything)) / len(everything)
           for name, codec in codecs.items()},
    }  # fmt: skip
    coded = _code_length(model, windows[:64])
    numbers["-log2 p in the order of the code"] = coded / len(content)
    margins = [min(size.values()) - ours, 1.02 - packed.bits / coded]
    return Finding.computed(margins, numbers)


def _code_length(model, x: Tensor) -> float:
    """-log2 p of rows in the one order that compression takes, bits, in float32."""
    process, total = model.denoiser.process, 0.0
    rank = process.ranks(Rng.from_seeds([0]), process.event).expand(len(x), -1)
    points = Uniform(process.length)(process)
    with torch.no_grad():
        for t, s in zip(points, points[1:], strict=False):
            xt = process.join(process.coarse(x, process.depth(rank, t)), rank)
            law = process.reverse_law(model.denoiser(xt, t.over(x)), xt, t, s)
            total -= float(law.log_prob(x).sum()) / math.log(2)
    return total


GAP = slice(28, 36)


@claim(
    ARDM,
    "A gap of 8 characters costs fewer bits, known what follows it, than plain autoregression pays for it",
    "2110.02037",
)
def gaps_are_read_from_both_sides(lab) -> Finding:
    x = _held_out(lab, TEXT, 512)
    both, left = _writer(lab), _plain(lab)
    process = both.denoiser.process
    hidden = torch.zeros(64, dtype=torch.bool)
    hidden[GAP] = True
    within = Rng.from_seeds(range(len(x))).uniform(64) + 2 * hidden  # what is known first, the gap then in any order
    rank, nats = within.argsort(1).argsort(1), torch.zeros(len(x), dtype=torch.float64)
    points = process.points([i / 64 for i in range(8, -1, -1)])
    with torch.no_grad():
        for t, s in zip(points, points[1:], strict=False):
            xt = process.join(process.coarse(x, process.depth(rank, t)), rank)
            nats -= process.reverse_law(both.denoiser(xt, t.over(x)), xt, t, s).log_prob(x)
        before = left.denoiser.conditionals(x).log_probs.double().gather(-1, x[..., None])[..., 0]
    plain = -before[:, GAP].sum(1)
    rows = torch.stack([nats, plain], 1) / (8 * math.log(2))
    numbers = {
        "measure": "bits per character of 8 in the middle of 512 held-out windows",
        "known both sides": float(rows[:, 0].mean()),
        "left to right": float(rows[:, 1].mean()),
    }
    found = _interval(rows, lambda mean: float(mean[1] - mean[0]))
    return Finding.bootstrapped(*found, numbers, [_page(lab, both, x)])


def _page(lab, model, x: Tensor) -> str:
    """Samples by a step for each character and by few, beginnings gone on with, gaps filled, and the text itself."""
    words = [Text().words(row, model.spec) for row in x[[40, 90, 140, 190]]]
    gapped = [f"{text[:24]}{'_' * 12}{text[36:]}" for text in words[:2]]
    few = Sampling(Ancestral(), Policy(16))
    page = {
        "samples of 64 steps": model.sample(range(6)),
        "samples of 16 steps, the best schedule": model.sample(range(8, 11), few),
        "after: the american people": model.sample(range(3), prompt="the american people "),
        **{f"filled: {gap}": model.sample(range(2), prompt=gap) for gap in gapped},
        "the corpus, held out": x[[40, 90, 140]],
    }
    lines = [
        line
        for title, rows in page.items()
        for line in (title, *(f"    {Text().words(r, model.spec)}" for r in rows), "")
    ]

    def paint(axes):
        axes.axis("off")
        axes.text(0, 1, "\n".join(lines), family="monospace", fontsize=6.8, va="top", transform=axes.transAxes)

    return lab.picture("ardm-page", paint)


def _sketch(lab, **options):
    return lab.train(ARDM(data="digits", network=SKETCH, training=PIXELS, plain=1e-3, **options))


@claim(
    ARDM,
    "Digits whose grey levels come coarse first, in two stages, take fewer bits than whole levels at once",
    "table 6",
)
def upscaling_takes_fewer_bits(lab) -> Finding:
    x = lab.held_out("digits")
    models = {"at once": _sketch(lab), "coarse first": _sketch(lab, branching=5)}
    bits = {name: likelihood(model, x, OrderAgnosticBound(32)).bits for name, model in models.items()}
    levels = ((x + 1) * 8).round().long()
    numbers = {
        "measure": f"bits per pixel of {len(x)} held-out digits, 17 levels",
        **{name: float(value.mean()) for name, value in bits.items()},
        "pixels for themselves": sum(_unigram_bits(levels[:, 0, i, j], 17) for i in range(8) for j in range(8)) / 64,
    }
    seen: dict[int, Tensor] = {}
    model = models["coarse first"]
    process = model.denoiser.process
    sample(
        model.denoiser,
        Ancestral(),
        Uniform(process.steps),
        (12, *model.spec.shape),
        watch=lambda i, point, state: seen.update({i: state}),
    )
    rows = {f"after stage {s}": seen[s * process.length] for s in range(1, process.stages + 1)}
    rows |= {"at once": models["at once"].sample(range(12)), "data": x}
    found = _interval(torch.stack(list(bits.values()), 1), lambda mean: float(mean[0] - mean[1]))
    return Finding.bootstrapped(*found, numbers, [lab.gallery_of("ardm-stages", rows)])


@claim(ARDM, "Sounds whose samples come bit by bit take fewer bits than whole samples at once", "table 4")
def upscaling_of_sounds_takes_fewer_bits(lab) -> Finding:
    x = lab.held_out("spoken-digits", 1024)
    models = {"at once": _sounds(lab), "bit by bit": _sounds(lab, branching=2, parametrisation="direct")}
    bits = {name: likelihood(model, x, OrderAgnosticBound(32)).bits for name, model in models.items()}
    numbers = {
        "measure": f"bits per sample of {len(x)} held-out words of 1024 samples, 8 bits",
        **{name: float(value.mean()) for name, value in bits.items()},
        "samples for themselves": _unigram_bits(models["at once"].denoiser.process.numbers(x), 256),
    }
    return Finding.bootstrapped(
        *_interval(torch.stack(list(bits.values()), 1), lambda mean: float(mean[0] - mean[1])), numbers
    )


untestable(
    ARDM,
    "text8: 1.43 bits per character in 250 steps and 1.51 in 20, against 1.45 and 1.56 for absorbing D3PM in 1000 and 20",
    "table 1",
    "needs about a million steps of 512 windows through a network of 86 M parameters (`unnoise train ardm --preset paper`)",
)
untestable(
    ARDM,
    "CIFAR-10: 2.64 bits/dim with four levels of upscaling, and 2.71 as a file; SC09: 6.29 bits",
    "tables 3, 4 and 6",
    "needs weeks of accelerators, on images of 3072 symbols and sounds of 16,000",
)
