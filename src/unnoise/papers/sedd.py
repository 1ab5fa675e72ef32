r"""SEDD: text by the ratios of its law. Tokens jump at random; a network that knows p_t(y)/p_t(x) lets them jump back.

    dp/dt = sigma(t) Q p,     backwards x -> y at the rate sigma(t) Q[x, y] s(x, t)_y,     s(x, t)_y ~ p_t(x with y) / p_t(x)
    -log p(x_0) <= int_0^1 sigma(t) E sum_i sum_{y != x^i} Q[x^i, y] (s_y - r_y log s_y + r_y (log r_y - 1)) dt + KL at t = 1

Absorbing, with log-linear noise and normalised ratios, the integrand is the masked cross-entropy over t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from tyro.conf import arg

from ..denoisers import Denoiser, Guidance, RatioDenoiser, clamped, prompted
from ..errors import UsageProblem
from ..kinds.text import Text
from ..likelihood import Continuous, likelihood, score_entropy_nats
from ..networks import TransformerOptions
from ..objectives import Objective, ScoreEntropy, SquaredRatios, Stratified
from ..oracles import Joint, MarkovChain, Trigrams
from ..oracles.walks import exact_bound, states_of, together, walk_output
from ..processes import GRAPHS, AbsorbGraph, GeometricTotal, Jump, LogLinear, Ratios, UniformGraph
from ..recipe import Recipe, Sampling, Spec, Training
from ..rng import Rng, stream
from ..samplers import Ancestral, TauLeaping, Uniform, sample
from ..training.options import PUBLISHED, TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper

SMALL = TransformerOptions(width=768, depth=12, heads=12, features=256, told=128, dropout=0.1)
"""SEDD small; medium is 24 blocks of 1024 with 16 heads."""


@paper(
    "2310.16834",
    "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
    "Aaron Lou, Chenlin Meng, Stefano Ermon",
    2023,
    "ICML 2024",
)
@dataclass(frozen=True)
class SEDD(Recipe):
    """Discrete diffusion in continuous time: ratios learned by score entropy, walked back by tau-leaping or analytically."""

    data: str = "state-of-the-union"
    """A text: the built-in one, or a file."""
    graph: Literal["absorb", "uniform"] = "absorb"
    """Whether a struck token is masked, or drawn anew."""
    noise: Literal["log-linear", "geometric"] = "log-linear"
    """How the total noise grows."""
    eps: Annotated[float, arg(name="left")] = 1e-3  # the optimizer has an --eps
    """log-linear: the fraction of tokens that is left at t = 1."""
    low: float = 1e-4
    """geometric: total noise at t = 0."""
    high: float = 20.0
    """geometric: total noise at t = 1."""
    normalised: bool = False
    """absorb: ratios of a normalised law, whose score entropy is the weighted masked cross-entropy."""
    loss: Literal["score-entropy", "l2", "scaled-l2"] = "score-entropy"
    """Or the squared error of the ratios (concrete score matching), as it is or in the scale that they have at each time."""
    t_min: float = 1e-3
    """Smallest time of training."""
    sampler: Literal["analytic", "tau-leaping"] = "analytic"
    """The step to sample by."""
    sampling_steps: int = 64
    """Steps of the sampler; the last reads the tokens off."""
    tokens: int = 27
    """Symbols of the alphabet; taken from the text."""
    network: TransformerOptions = TransformerOptions()  # type: ignore[assignment]
    training: Training = TrainingOptions(
        steps=4500, batch_size=64, lr=2e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=500
    )

    takes: ClassVar[tuple[str, ...]] = ("text",)

    def __post_init__(self) -> None:
        if self.flip:
            raise UsageProblem("text is not read backwards; leave --flip out")
        if self.normalised and self.graph != "absorb":
            raise UsageProblem(
                "normalised ratios need the absorbing graph; take --graph absorb, or leave --normalised out"
            )
        self.process()

    @classmethod
    def paper(cls) -> SEDD:
        """SEDD small, absorbing, for text8 (a file) in windows of 256 (`--size`): 1.39 bits per character. The same network trains
        on OpenWebText, in windows of 1024 of GPT-2's 50,257 tokens."""
        return cls(
            data="text8",
            network=SMALL,
            sampling_steps=1024,
            training=replace(
                PUBLISHED,
                steps=1_300_000,
                batch_size=512,
                lr=3e-4,
                warmup=2500,
                clip=1.0,
                precision="bf16",
                ema=3_550_000,  # 0.9999 a step
                ema_rampup=0.077,  # (1 + n) / (10 + n) a step, n steps
            ),
        )

    def fitted(self, data: Any) -> SEDD:
        """With the alphabet of this text."""
        return replace(self, tokens=len(data.alphabet))

    def process(self) -> Jump:
        noise = LogLinear(self.eps) if self.noise == "log-linear" else GeometricTotal(self.low, self.high)
        return Jump(GRAPHS[self.graph](self.tokens), noise)

    def denoiser(self, spec: Spec) -> Denoiser[Any]:
        process = replace(self, tokens=len(spec.alphabet or ())).process()
        network = self.network.build(process.graph.states, process.graph.tokens, self.classes_told(spec))
        return RatioDenoiser(network, process, self.normalised)

    def objective(self, spec: Spec) -> Objective:
        times = Stratified(start=self.t_min)
        return ScoreEntropy(times) if self.loss == "score-entropy" else SquaredRatios(times, self.loss == "scaled-l2")

    def sampling(self) -> Sampling:
        step = Ancestral() if self.sampler == "analytic" else TauLeaping()
        return Sampling(step, Uniform(self.sampling_steps, end=1e-5))

    def prompt(self, spec: Spec, text: str) -> tuple[None, tuple[Guidance, ...]]:
        """The text's first words, or one with gaps: "the _____ of the union"."""
        return None, (prompted(spec, text),)


# Exact checks, on all sequences of a few tokens.


def _joint(length: int) -> Joint:
    return Joint(torch.rand((3,) * length, generator=stream(2310, length), dtype=torch.float64) ** 2)


def _graphs() -> tuple[UniformGraph, AbsorbGraph]:
    return UniformGraph(3), AbsorbGraph(3)


def _generator(graph) -> Tensor:
    """Q, from its definition."""
    jumps = torch.stack([graph.edges(torch.tensor(x)) for x in range(graph.states)])
    return jumps - torch.diag(jumps.sum(0))


@check(SEDD, "score entropy is 0 where the ratios are those given x_0, on both graphs", "2310.16834", 1e-9)
def entropy_of_true_ratios():
    worst = 0.0
    for graph in _graphs():
        for total in (0.01, 1.0, 5.0):
            e = torch.matrix_exp(total * _generator(graph))
            for z in range(3):
                x = torch.tensor([i for i in range(graph.states) if e[i, z] > 0])
                found = graph.score_entropy(
                    (e[:, z] / e[x, z][:, None]).log(), x, torch.full_like(x, z), torch.tensor([total])
                )
                worst = max(worst, float(found.abs().max()))
    return worst, 0.0


@check(
    SEDD,
    "the analytic step is (exp(-ds Q) s)_y exp(ds Q)[x, y], by matrix exponentials, on both graphs",
    "2310.16834",
    1e-12,
)
def analytic_step():
    worst, law = 0.0, _joint(2)
    for graph in _graphs():
        process = Jump(graph, LogLinear())
        t, s = process.points([0.7, 0.4])
        x = torch.cartesian_prod(torch.arange(graph.states), torch.arange(graph.states))
        log_ratios = process.log_ratios(law.denoiser(process)(x, t.over(x)), x, t)
        found = process.leap(Ratios(graph, t.total, x, log_ratios), x, t, s).mean
        ds = t.total - s.total
        staggered = log_ratios.exp() @ torch.matrix_exp(-ds * _generator(graph)).T
        wanted = staggered * torch.matrix_exp(ds * _generator(graph))[x]
        worst = max(worst, float((found - wanted).abs().max()))
    return worst, 0.0


@check(SEDD, "with exact ratios the integral of the score entropy is -log p, on both graphs", "2310.16834", 5e-6)
def bound_is_tight():
    law = _joint(3)
    x = law.every[::4]
    gaps = [exact_bound(law, Jump(graph, LogLinear(1e-9)), x) + law.log_prob(x) for graph in _graphs()]
    return float(torch.cat(gaps).abs().max()), 0.0


@check(SEDD, "the analytic sampler of one token is exact in 1, 2 and 7 steps, on both graphs", "2310.16834", 1e-12)
def one_token_is_exact():
    law, worst = _joint(1), 0.0
    for graph in _graphs():
        for steps in (1, 2, 7):
            process = Jump(graph, LogLinear())
            found = walk_output(law, process, Ancestral(), Uniform(steps)(process))
            worst = max(worst, float((found - law.log_prob(law.every).exp()).abs().max()))
    return worst, 0.0


def _order(law: Joint, process: Jump, step) -> float:
    true = law.log_prob(law.every).exp()
    errors = [float((walk_output(law, process, step, Uniform(n)(process)) - true).abs().sum()) for n in (128, 256)]
    return float(torch.tensor(errors[0] / errors[1]).log2())


@check(SEDD, "tau-leaping of one token has order 1 (uniform graph, geometric noise)", "2310.16834", 0.05)
def tau_leaping_has_order_one():
    return _order(_joint(1), Jump(UniformGraph(3), GeometricTotal(1e-3, 4.0)), TauLeaping()), 1.0


@check(SEDD, "of several tokens the analytic sampler has order 1: positions leap independently", "2310.16834", 0.05)
def analytic_has_order_one():
    return _order(_joint(2), Jump(AbsorbGraph(3), LogLinear(1e-2)), Ancestral()), 1.0


@check(
    SEDD,
    "a gap between known tokens is filled by the conditional law, in any number of steps (absorb)",
    "2310.16834",
    1e-7,
)
def infilling_is_conditional():
    law, process = _joint(2), Jump(AbsorbGraph(3), LogLinear(1e-10))
    p = law.log_weights.exp()
    guide = clamped(torch.tensor([0, 2]), torch.tensor([False, True]))
    found = walk_output(law, process, Ancestral(), Uniform(3)(process), guide).reshape(3, 3)
    return float((found[:, 2] - p[:, 2] / p[:, 2].sum()).abs().max()), 0.0


@check(SEDD, "normalised, absorbing and log-linear, it is the masked cross-entropy over t", "2310.16834", 1e-9)
def it_is_masked_cross_entropy():
    process, t = Jump(AbsorbGraph(5), LogLinear()), torch.tensor([0.3, 0.8], dtype=torch.float64)
    x0 = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    xt = torch.tensor([[0, 5, 2, 5], [5, 5, 2, 5]])
    log_q = torch.randn(2, 4, 5, generator=stream(5), dtype=torch.float64).log_softmax(-1)
    total = process.at(t, xt).total
    log_ratios = torch.nn.functional.pad(log_q - torch.expm1(total).log(), (0, 1))  # type: ignore[arg-type]
    found = score_entropy_nats(process, Ratios(process.graph, total, xt, log_ratios), x0, xt, t)
    cross = -log_q.gather(-1, x0[..., None])[..., 0] * (xt == 5)
    return float((found - cross.sum(1) / t).abs().max()), 0.0


@check(
    SEDD,
    "absorbing and log-linear, tau-leaping is the analytic step: the difference that the paper finds needs another graph or noise",
    "2310.16834",
    1e-12,
)
def tau_leaping_is_analytic_where_it_absorbs():
    law, process = _joint(2), Jump(AbsorbGraph(3), LogLinear())
    walks = [walk_output(law, process, step, Uniform(9)(process)) for step in (Ancestral(), TauLeaping())]
    return float((walks[0] - walks[1]).abs().max()), 0.0


@check(
    SEDD,
    "to no step is tau-leaping nearer than the analytic one, in divergence from the true law of x_s given x_t: cases of 12",
    "2310.16834",
    0,
)
def analytic_steps_are_the_best():
    """What the paper proves: of all steps that move positions independently the analytic one is the nearest."""
    law, nearer = _joint(2), 0
    for process in (Jump(graph, noise) for graph in _graphs() for noise in (LogLinear(), GeometricTotal(1e-3, 4.0))):
        x = states_of(process, 2)
        for t, s in (process.points(pair) for pair in ((0.9, 0.6), (0.5, 0.4), (0.3, 0.05))):
            before = law.log_prob(law.every).exp() @ together(process.marginal(law.every, s).mean, x)
            both = before * together(process.transition(x, s, t).mean, x).T  # of (x_t, x_s)
            guess = law.denoiser(process)(x, t.over(x))
            steps = (together(step(guess, x, t, s).mean, x) for step in (process.leap, process.tau_leap))
            analytic, tau = (-float(torch.special.xlogy(both, p).sum()) for p in steps)
            nearer += tau < analytic - 1e-12
    return nearer, 0


# Claims, on the built-in text in 27 symbols and windows of 64. Bounds: networks of 0.2 M parameters, three seeds. Samples: the
# laptop preset at a third of its length, one seed. Samplers: sequences of a known chain, that of the text's pairs of letters, with
# its exact ratios.

TEXT = "state-of-the-union"
SKETCH = TransformerOptions(width=64, depth=2, heads=2, told=64)
SHORT = TrainingOptions(
    steps=600, batch_size=64, lr=3e-3, warmup=50, decay="linear", decay_from=0.3, ema=10_000, checkpoint_every=300
)


def _sketch(lab, seed: int, **options):
    return lab.train(SEDD(network=SKETCH, training=SHORT, **options), seed)


def _writer(lab):
    recipe = SEDD()
    return lab.train(replace(recipe, training=replace(recipe.training, steps=1500)))


def _interval(values: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Mean, and a 90 % bootstrap interval of it."""
    rows = torch.randint(len(values), (2000, len(values)), generator=stream(seed, 90))
    low, high = values[rows].mean(1).quantile(torch.tensor([0.05, 0.95], dtype=values.dtype)).tolist()
    return float(values.mean()), low, high


def _windows(lab, count: int) -> Tensor:
    """Held-out windows, spread over the split."""
    x = lab.held_out(TEXT)
    return x[torch.linspace(0, len(x) - 1, count).long()]


def _bits(lab, **options) -> list[float]:
    """Bits per character of 128 held-out windows at most, for each seed."""
    x, method = _windows(lab, 128), Continuous(draws=32)
    return [float(likelihood(_sketch(lab, seed, **options), x, method).bits.mean()) for seed in lab.seeds]


@claim(SEDD, "The absorbing graph bounds text by fewer bits per character than the uniform one", "table 2")
def absorbing_gives_fewer_bits(lab) -> Finding:
    absorb, uniform = _bits(lab), _bits(lab, graph="uniform")
    numbers = {"measure": "bits per character of 128 held-out windows", "absorb": absorb, "uniform": uniform}
    return Finding.over_seeds([u - a for a, u in zip(absorb, uniform, strict=True)], numbers)


STEADY = replace(SHORT, steps=1600)


def _trained_well(lab, seed: int, **options):
    """On windows of 32, which are learned in half the time, and for longer: until seeds differ by little."""
    return lab.train(SEDD(network=SKETCH, training=STEADY, **options), seed, size=32)


@claim(
    SEDD,
    "Absorbing, score entropy is the weighted masked cross-entropy but for what the sum of the ratios costs, which is trained to "
    "less than 0.05 bits per character",
    "2310.16834",
)
def score_entropy_is_masked_cross_entropy(lab) -> Finding:
    """Of one network, by the same masks: the bound of its ratios, less that of the same ratios divided by their sum. Two networks
    that are trained by one loss each, though paired (of one seed, they begin alike and see the same windows, times and masks),
    end as far apart as seeds do, on either side."""
    x, method = lab.held_out(TEXT, 32), Continuous(draws=32)
    x = x[torch.linspace(0, len(x) - 1, 256).long()]
    found: dict[str, list[float]] = {
        "score entropy": [],
        "the same ratios, over their sum": [],
        "trained by cross-entropy": [],
    }
    for seed in lab.seeds:
        free, normalised = _trained_well(lab, seed), _trained_well(lab, seed, normalised=True)
        over_sum = RatioDenoiser(free.denoiser.network, free.denoiser.process, normalised=True)
        for row, denoiser in zip(found.values(), (free.denoiser, over_sum, normalised.denoiser), strict=True):
            row.append(float(likelihood(denoiser, x, method).bits.mean()))
    numbers = {"measure": "bits per character of 256 held-out windows of 32", **found}
    own = zip(found["score entropy"], found["the same ratios, over their sum"], strict=True)
    return Finding.over_seeds([0.05 - abs(a - b) for a, b in own], numbers)


@claim(
    SEDD,
    "Score entropy trains to fewer bits than the squared error of the ratios, as it is and in the scale of each time",
    "2310.16834",
)
def score_entropy_beats_squares(lab) -> Finding:
    found = {
        "score entropy": _bits(lab),
        "squared error": _bits(lab, loss="l2"),
        "squared error, scaled": _bits(lab, loss="scaled-l2"),
    }
    numbers = {"measure": "bits per character of 128 held-out windows, absorbing", **found}
    return Finding.over_seeds([min(b, c) - a for a, b, c in zip(*found.values(), strict=True)], numbers)


def _chain(lab) -> MarkovChain:
    data = lab.data(TEXT)
    return MarkovChain.fit(data.batch(range(0, len(data), 4)).x, len(data.alphabet), 64)


def _walks(chain: MarkovChain, process: Jump, step, steps: int, seed: int, count: int) -> float:
    """Mean nats per character that the chain gives to samples."""
    seeds = range(count * seed, count * (seed + 1))
    grid = Uniform(steps, end=1e-5)
    x = sample(chain.denoiser(process), step, grid, (count, chain.length), rng=Rng.from_seeds(seeds))
    return -float(chain.log_prob(x).mean()) / chain.length


@claim(
    SEDD,
    "With exact ratios on the uniform graph, analytic samples of 8, 16 and 32 steps are likelier than tau-leaping's",
    "2310.16834",
)
def analytic_beats_tau_leaping(lab) -> Finding:
    chain, counts = _chain(lab), (8, 16, 32)
    process = Jump(UniformGraph(chain.tokens), LogLinear())
    found = {
        name: [[_walks(chain, process, step, k, seed, 1024) for k in counts] for seed in lab.seeds]
        for name, step in (("analytic", Ancestral()), ("tau-leaping", TauLeaping()))
    }
    margins = [
        min(t - a for a, t in zip(*pair, strict=True))
        for pair in zip(found["analytic"], found["tau-leaping"], strict=True)
    ]
    numbers = {
        "measure": "nats per character of 1024 samples under the true chain, the least margin of all steps",
        "steps": counts,
        "entropy of the chain": chain.entropy / chain.length,
        **found,
    }
    return Finding.over_seeds(margins, numbers)


@claim(
    SEDD,
    "By the exact laws of their ends, analytic walks of 8, 16 and 32 steps err less than tau-leaping, whatever graph and noise "
    "(the paper proves it of a single step)",
    "derived",
)
def analytic_errs_less(lab) -> Finding:
    """Sequences of four of a chain of three tokens. Absorbing with log-linear noise is left out: there both steps are one."""
    chain = MarkovChain(torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]]), 4)
    sequences = torch.cartesian_prod(*[torch.arange(3)] * 4)
    law = Joint(chain.log_prob(sequences).exp().reshape(3, 3, 3, 3))
    true, counts = law.log_prob(law.every).exp(), (8, 16, 32)
    cases = {
        "uniform, log-linear": Jump(UniformGraph(3), LogLinear()),
        "uniform, geometric": Jump(UniformGraph(3), GeometricTotal()),
        "absorb, geometric": Jump(AbsorbGraph(3), GeometricTotal()),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for case, process in cases.items():
        found[case] = {}
        for name, step in (("analytic", Ancestral()), ("tau-leaping", TauLeaping())):
            ends = [walk_output(law, process, step, Uniform(k, end=1e-5)(process)) for k in counts]
            found[case][name] = [float((p - true).abs().sum() / 2) for p in ends]
    margins = [t - a for f in found.values() for a, t in zip(f["analytic"], f["tau-leaping"], strict=True)]
    numbers = {"measure": "total variation from the law of the data", "steps": counts, **found}
    return Finding.computed(margins, numbers)


@claim(SEDD, "Each doubling of the steps, from 4 to 32, makes samples likelier (absorb, exact ratios)", "2310.16834")
def more_steps_are_better(lab) -> Finding:
    chain, counts = _chain(lab), (4, 8, 16, 32, 64)
    process = Jump(AbsorbGraph(chain.tokens), LogLinear())
    found = [[_walks(chain, process, Ancestral(), k, seed, 256) for k in counts] for seed in lab.seeds]
    margins = [min(a - b for a, b in zip(row[:-1], row[1:-1], strict=False)) for row in found]
    entropy = chain.entropy / chain.length

    def paint(axes):
        for row in found:
            axes.plot(counts, row, "o-", color="C0", alpha=0.6)
        axes.axhline(entropy, color="0.4", linestyle=":", label="entropy of the chain")
        axes.set(
            xscale="log", xlabel="steps", ylabel="nats per character", title="64 characters, exact ratios, absorbing"
        )
        axes.set_xticks(counts, [str(k) for k in counts])
        axes.set_xticks([], minor=True)
        axes.legend()

    numbers = {"measure": "nats per character of 256 samples", "steps": counts, "nats": found, "entropy": entropy}
    return Finding.over_seeds(margins, numbers, [lab.picture("sedd-steps", paint)])


@claim(
    SEDD,
    "The bound of a trained model on held-out text lies below the exact code length of the best chain of letter pairs",
    "derived",
)
def bound_beats_letter_pairs(lab) -> Finding:
    x, chain = _windows(lab, 128), _chain(lab)
    per_character = chain.length * math.log(2)
    model = likelihood(_writer(lab), x, Continuous(draws=32)).bits
    pairs = -chain.log_prob(x) / per_character
    numbers = {
        "measure": "bits per character of 128 held-out windows",
        "absorb, at most": float(model.mean()),
        "pairs": float(pairs.mean()),
        "triples": -float(_triples(lab).log_prob(x).mean()) / per_character,
    }
    return Finding.bootstrapped(*_interval(pairs - model), numbers)


def _triples(lab) -> Trigrams:
    data = lab.data(TEXT)
    return Trigrams.fit(data.batch(range(0, len(data), 4)).x, len(data.alphabet))


GAP = slice(24, 40)


@claim(
    SEDD,
    "Infilling keeps what is given, and its letters are right more often than letters drawn by frequency",
    "table 5",
)
def infilling_beats_frequencies(lab) -> Finding:
    x = _windows(lab, 256)
    known = torch.ones(x.shape[1], dtype=torch.bool)
    known[GAP] = False
    filled = _writer(lab).sample(range(len(x)), guidance=[clamped(x, known)])
    drawn = x.flatten()[torch.randint(x.numel(), (len(x), 16), generator=stream(12))]
    right, by_frequency = ((found == x[:, GAP]).double().mean(1) for found in (filled[:, GAP], drawn))
    kept = bool((filled == x)[:, known].all())
    numbers = {
        "measure": "share of the 16 letters in the middle of 256 held-out windows that are right",
        "model": float(right.mean()),
        "by frequency": float(by_frequency.mean()),
        "given letters kept": kept,
    }
    return Finding.bootstrapped(*(_interval(right - by_frequency) if kept else (-1.0, -1.0, -1.0)), numbers)


def _words(row: Tensor, about) -> list[str]:
    """Whole words of three letters or more: those between two spaces."""
    return [word for word in Text().words(row, about).split(" ")[1:-1] if len(word) > 2]


@claim(
    SEDD,
    "Samples read like their corpus: more of their words are words of it than of a chain that knows its pairs of letters",
    "2310.16834",
)
def samples_read_like_their_corpus(lab) -> Finding:
    data, chain, model = lab.data(TEXT), _chain(lab), _writer(lab)
    about = data.facts
    corpus = {word for row in data.batch(range(0, len(data), 4)).x for word in _words(row, about)}

    def shares(rows: Tensor) -> Tensor:
        """Of each row's words, how many occur in the training text."""
        found = [[word in corpus for word in _words(row, about)] for row in rows]
        return torch.tensor([sum(row) / max(len(row), 1) for row in found], dtype=torch.float64)

    x = lab.samples(model, 128)
    of = {
        "samples": shares(x),
        "pairs of letters": shares(chain.sample(Rng.from_seeds(range(128)))),
        "held-out text": shares(_windows(lab, 128)),
    }
    gap = Text().words(_windows(lab, 6)[3], about)
    gap = gap[: GAP.start] + "_" * 16 + gap[GAP.stop :]
    page = {
        f"samples of {model.recipe.sampling_steps} steps": x[:8],
        f"a gap of a held-out line, filled\n    {gap}": model.sample(range(200, 204), prompt=gap),
        "gone on with, after: the american people": model.sample(range(300, 304), prompt="the american people "),
        "the corpus, held out": _windows(lab, 4),
    }
    lines = [
        line for title, rows in page.items() for line in (title, *(f"    {Text().words(r, about)}" for r in rows), "")
    ]

    def paint(axes):
        axes.axis("off")
        axes.text(0, 1, "\n".join(lines), family="monospace", fontsize=8, va="top", transform=axes.transAxes)

    numbers = {
        "measure": "share of the words between two spaces that occur in the training text, of 128 windows",
        **{name: float(share.mean()) for name, share in of.items()},
        "page": lines,
    }
    margin = _interval(of["samples"] - of["pairs of letters"])
    return Finding.bootstrapped(*margin, numbers, [lab.picture("sedd-page", paint)])


untestable(
    SEDD,
    "SEDD small matches GPT-2 small: perplexity bounds of 41.8 on WikiText-2, 40.6 on WikiText-103, 79.3 on One Billion Words",
    "table 1",
    "needs 1.3M steps of a network of 170 M parameters on OpenWebText: days of eight large GPUs",
)
untestable(
    SEDD,
    "Generative perplexity under a larger language model is 6 to 8 times better than un-annealed GPT-2's, and infilling is as "
    "good as nucleus sampling by MAUVE (0.957 against 0.955)",
    "table 5",
    "needs the trained model above, and GPT-2 large and MAUVE to judge it by",
)
