r"""Generalisation along training: a score model first comes nearer to the law of its data, then to the data themselves.

dx = s^t dw,   L(A) = E_t E sigma^2 |A phi(x_t, t) / (m sigma) - grad log p(x_t | x_0)|^2,   dA/dtau = -grad L_n(A)

With random features phi and n examples, gradient flow has a closed form in the training time tau, so KL(data || model) can be
followed from tau = 0 to infinity (`Line`). Of images, a U-Net is trained on few of them and looked at on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..denoisers import Denoiser, NetworkDenoiser, Preconditioning
from ..denoisers import preconditioning as pre
from ..errors import UsageProblem
from ..metrics import nearest_neighbour_distance
from ..networks import UNetOptions
from ..networks.embeddings import FOURIER_SCALE
from ..networks.random_features import GradientFlow, RandomFeaturesOptions
from ..objectives import Matching, Objective, Uniform
from ..oracles import Mixture, density_output, divergence, finite_set
from ..processes import Gaussian
from ..processes.gaussian import Point
from ..recipe import LAPTOP_NETWORK, LAPTOP_TRAINING, Recipe, Sampling, Spec, Training
from ..rng import Rng, stream
from ..samplers import Ancestral, Heun, Karras
from ..scalars import Scalar, sqrt
from ..schedules import ExponentialVE
from ..training.options import TrainingOptions
from ..verify import Finding, check, claim, untestable
from . import paper


class Whitened(Preconditioning):
    """The score times sigma, from a state scaled to unit variance for data of deviation `std`; told ln(sigma / alpha)."""

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def relation(self, point: Point) -> tuple[Scalar, Scalar]:
        p, q = pre.relation("eps", point)
        return -p, -q

    def c_in(self, point: Point) -> Scalar:
        return 1 / sqrt(point.alpha**2 * self.std**2 + point.sigma**2)

    def c_noise(self, t: Tensor, log_snr: Tensor) -> Tensor:
        return -log_snr / 2


@paper(
    "2311.01797",
    "On the Generalization Properties of Diffusion Models",
    "Puheng Li, Zhong Li, Huishuai Zhang, Jiang Bian",
    2023,
    "NeurIPS 2023",
)
@dataclass(frozen=True)
class Generalization(Recipe):
    """Score models along their training time: early stopping, the distance between modes, capacity, memorisation."""

    base: float = 25.0
    """s of the diffusion dx = s^t dw."""
    features: int = 0
    """Random features m of the theory's model, of which only the last layer is trained (at --lr 3, say, for the output is
    divided by m); 0 for the U-Net."""
    sampling_steps: int = 18
    """Heun steps of the probability flow."""
    network: UNetOptions = replace(LAPTOP_NETWORK, embedding="fourier")
    training: Training = replace(LAPTOP_TRAINING, lr=8e-4)

    @classmethod
    def paper(cls) -> Generalization:
        """MNIST, batches of 32, Adam at 8e-4, no averaging; the U-Net of score-sde's tutorial in width and depth. 1000
        epochs of a pair of clusters of about 3,200 images."""
        return cls(
            data="mnist",
            sampling_steps=250,
            network=UNetOptions(channels=32, mult=(1, 2, 4, 8), blocks=1, attention=(), embedding="fourier"),
            training=TrainingOptions(
                steps=100_000, batch_size=32, lr=8e-4, clip=None, ema=None, precision="fp32", log_every=50
            ),
        )

    def process(self) -> Gaussian:
        return Gaussian(ExponentialVE(self.base))

    def build_network(self, spec: Spec, outputs: int = 1):
        if not self.features:
            return super().build_network(spec, outputs)
        if self.conditional:
            raise UsageProblem("random features take no labels; pass --no-conditional, or --features 0 for the U-Net")
        return RandomFeaturesOptions(self.features).build(spec.shape)

    def denoiser(self, spec: Spec) -> Denoiser:
        tutorial = pre.Raw("eps", scale=30 / FOURIER_SCALE)  # whose random frequencies of t have deviation 30
        chosen = Whitened(spec.std) if self.features else tutorial
        return NetworkDenoiser(self.build_network(spec), self.process(), chosen)

    def objective(self, spec: Spec) -> Objective:
        return Matching("eps", Uniform(1e-5))  # sigma^2 times the error of the score

    def sampling(self) -> Sampling:
        return Sampling(Heun(), Karras(self.sampling_steps))


# The theory's experiment on the line: two modes, random features, gradient flow. All integrals by quadrature.

START = 0.065
"""The time at which the learned density is read off, the paper's experiment's; sigma^2 is 0.081 there."""


def two_modes(mu: float) -> Mixture:
    """N(-mu, 1) and N(mu, 1), half each."""
    return Mixture(torch.tensor([[-mu], [mu]], dtype=torch.float64), 1.0)


def score_moments(denoiser: NetworkDenoiser, data: Mixture, times: int = 96, nodes: int = 400) -> GradientFlow:
    """The flow of denoising score matching on data of the line, for the random features of `denoiser`.

    The noise is integrated, as is the time over [1e-5, 1] (Gauss-Legendre): of `data` a finite set, this is the empirical
    loss L_n itself, for the targets enter by their means given x_t alone. The loss counts errors of sigma times the score.
    Too few times leave a flow free between them: with 32, some rise at tau = 10^12 to what none learns with 96.
    """
    import numpy as np

    process, exact = denoiser.process, data.denoiser(denoiser.process)
    network: Any = denoiser.network
    at, weights = np.polynomial.legendre.leggauss(times)
    features, targets, mass = [], [], []
    for t, weight in zip(1e-5 + (1 - 1e-5) * (at + 1) / 2, weights / 2, strict=True):
        point = process.point(float(t))
        narrow, wide = ((v + point.sigma**2).sqrt().item() for v in (data.variances.min(), data.variances.max()))
        low, high = data.means.min().item() - 6 * wide, data.means.max().item() + 6 * wide
        x = torch.linspace(low, high, max(nodes, int(1.5 * (high - low) / narrow)), dtype=torch.float64)[:, None]
        told = torch.full((len(x),), float(t), dtype=torch.float64)
        p = data.log_prob(x, process, told).exp()
        scaled = denoiser.preconditioning.c_in(point) * x
        noise = denoiser.preconditioning.c_noise(told, torch.full_like(told, point.log_snr))
        features.append(network.features(scaled, noise))
        targets.append(point.sigma * exact.score(x, told))
        mass.append(weight * p / p.sum())
    return GradientFlow.of(torch.cat(features), torch.cat(targets), torch.cat(mass), power=1.0)


class Line:
    """Random features on two modes at +-mu: population and empirical gradient flows, and the density that any A learned."""

    def __init__(self, mu: float, width: int = 200, seed: int = 0, limit: float = 13.0):
        self.data = two_modes(mu)
        network = RandomFeaturesOptions(width, seed=seed).build((1,)).double()
        process = Gaussian(ExponentialVE())
        self.denoiser = NetworkDenoiser(network, process, Whitened(math.sqrt(1 + mu * mu)))
        self.x = torch.linspace(-limit, limit, 2001, dtype=torch.float64)[:, None]
        point = process.point(START)
        told = torch.full((len(self.x),), point.half_log_snr, dtype=torch.float64)
        scaled = self.denoiser.preconditioning.c_in(point) * self.x
        self.phi = network.features(scaled, -told) / (width * point.sigma)
        self.p = self.data.log_prob(self.x, process, process.point(0.0)).exp()

    def examples(self, n: int, seed: int) -> Mixture:
        """n draws of the data, as the finite set that they are."""
        return finite_set(self.data.sample(Rng([(seed, n, i) for i in range(n)])))

    def flow(self, data: Mixture | None = None) -> GradientFlow:
        """Of the population, or of a finite set."""
        return score_moments(self.denoiser, data or self.data)

    def density(self, score: Tensor) -> Tensor:
        """The density on the grid `x` whose score at START is this."""
        rises = (score[1:] + score[:-1]) / 2 * (self.x[1:] - self.x[:-1])
        log_q = torch.cat([torch.zeros(1, 1, dtype=torch.float64), rises.cumsum(0)])[:, 0]
        return (log_q - log_q.logsumexp(0)).exp() / float(self.x[1] - self.x[0])

    def divergence(self, A: Tensor) -> float:
        """KL(p_0 || q), nats, q the density learned at START."""
        return divergence(self.p, self.density(self.phi @ A.double().T), self.x[:, 0])

    def floor(self) -> float:
        """The divergence that the exact score has, since q belongs to the time START."""
        told = torch.full((len(self.x),), START, dtype=torch.float64)
        score = self.data.denoiser(self.denoiser.process).score(self.x, told)
        return divergence(self.p, self.density(score), self.x[:, 0])


TAUS = [10 ** (i / 5) for i in range(66)]
"""Training times, 1 to 10^13."""
DRAWS = 4
"""Draws of features and examples over which a seed's numbers are averaged."""


def curve(mu: float, n: int, draw: int, width: int = 200) -> Tensor:
    """KL at each of TAUS, trained on n examples; features and examples are drawn anew by `draw`."""
    line = Line(mu, width, seed=draw)
    flow = line.flow(line.examples(n, draw))
    return torch.tensor([line.divergence(flow.weights(tau)) for tau in TAUS])


def curves(lab, mu: float, n: int, width: int = 200) -> Tensor:
    """(seeds, draws, times)."""
    return torch.stack(
        [torch.stack([curve(mu, n, DRAWS * seed + i, width) for i in range(DRAWS)]) for seed in lab.seeds]
    )


# Exact checks.


@check(
    Generalization,
    "KL of the exact score at t = 0.065 for modes at +-3, grid [-13, 13], nats",
    "exact",
    1e-4,
)
def floor_of_the_reading():
    return Line(3.0).floor(), 0.00145


@check(Generalization, "untrained, the density is uniform: KL less log 26 and the data's entropy, nats", "exact", 1e-3)
def untrained_is_uniform():
    line = Line(3.0)
    inside = line.p > 0
    entropy = -float((line.p[inside] * line.p[inside].log()).sum() * (line.x[1] - line.x[0]))
    return line.divergence(torch.zeros(1, 200)) - math.log(26) + entropy, 0.0


@check(
    Generalization,
    "closed form against 2000 small steps of gradient descent, relative difference at tau = 40",
    "exact",
    1e-3,
)
def flow_is_gradient_descent():
    line = Line(2.0, width=20)
    flow = line.flow(line.examples(10, 0))
    A, rate = torch.zeros(1, 20, dtype=torch.float64), 40 / 2000
    for _ in range(2000):
        A = A - rate * 2 * (A @ flow.gram / 20 - flow.cross) / 20
    return float((A - flow.weights(40.0)).norm() / A.norm()), 0.0


@check(
    Generalization,
    "steps of tau at which population loss of the population's flow, or empirical loss of the empirical flow, rises",
    "exact",
    0,
)
def own_losses_fall():
    line = Line(3.0, width=50)
    rises = 0
    for flow in (line.flow(), line.flow(line.examples(10, 0))):
        losses = [flow.loss(flow.weights(tau)) for tau in TAUS]
        rises += sum(b > a + 1e-10 for a, b in zip(losses, losses[1:], strict=False))  # they round at 1e-12
    return rises, 0


@check(
    Generalization,
    "at t = 1/2 denoising and exact score matching differ by the same constant for two models: the relative difference",
    "exact",
    1e-5,
)
def denoising_is_score_matching():
    line = Line(2.0, width=30)
    process = line.denoiser.process
    network: Any = line.denoiser.network
    point, told = process.point(0.5), torch.tensor([0.5], dtype=torch.float64)

    def output(x: Tensor, A: Tensor) -> Tensor:
        noise = torch.full((len(x),), -point.half_log_snr, dtype=torch.float64)
        return network.features(line.denoiser.preconditioning.c_in(point) * x, noise) @ A.T / 30

    x0, z = (torch.linspace(-9, 9, 601, dtype=torch.float64), torch.linspace(-7, 7, 301, dtype=torch.float64))
    joint = line.data.log_prob(x0[:, None], process, process.point(0.0)).exp()[:, None] * torch.exp(-z * z / 2)
    joint = (joint / joint.sum()).reshape(-1)
    noised, noise = (x0[:, None] + point.sigma * z).reshape(-1, 1), z.repeat(len(x0))[:, None]
    xt = torch.linspace(-30, 30, 4001, dtype=torch.float64)[:, None]
    p = line.data.log_prob(xt, process, told.expand(len(xt))).exp()
    score = line.data.denoiser(process).score(xt, told.expand(len(xt)))
    constants = []
    for i in (0, 1):
        A = 3 * torch.randn(1, 30, generator=stream(7, i), dtype=torch.float64)
        denoising = (joint * (output(noised, A) + noise).square()[:, 0]).sum()
        exact = (p * (output(xt, A) - point.sigma * score).square()[:, 0]).sum() / p.sum()
        constants.append(float(denoising - exact))
    return constants[0] / constants[1] - 1, 0.0


@check(
    Generalization,
    "by how much the divergence after the reverse SDE exceeds Girsanov's bound, half the score's error along the way, nats",
    "exact",
    0.0,
)
def girsanov_bounds_the_divergence():
    line = Line(2.0, width=50)
    denoiser, process = line.denoiser, line.denoiser.process
    exact = line.data.denoiser(process)
    with torch.no_grad():
        denoiser.network.A.copy_(line.flow().weights(1e4))  # type: ignore[union-attr]
        log_snr = torch.linspace(process.point(1.0).log_snr, process.point(START).log_snr, 51, dtype=torch.float64)
        points = process.points(process.schedule.time(log_snr))
        x = torch.linspace(-60, 60, 1301, dtype=torch.float64)
        q = density_output(denoiser, Ancestral(), points, x)
        errors = []
        for point in points:
            told = point.over(x)
            error = process.noise(x[:, None], denoiser(x[:, None], told).mean, point)
            error = error - process.noise(x[:, None], exact(x[:, None], told).mean, point)
            p = line.data.log_prob(x[:, None], process, told).exp()
            errors.append((p * error[:, 0].square()).sum() / p.sum())
        prior = process.prior((len(x), 1), points[0]).log_prob(x[:, None]).exp()
        top, end = (line.data.log_prob(x[:, None], process, point).exp() for point in (points[0], points[-1]))
        bound = float(torch.trapezoid(torch.stack(errors), log_snr)) / 2 + divergence(top, prior, x)
    return max(0.0, divergence(end, q, x) - bound), 0.0


# Claims of the theory, in closed form; a seed's numbers are means over four draws of features and examples.


def _log_axes(axes, **labels):
    axes.set(xscale="log", yscale="log", **labels)
    axes.legend()


@claim(
    Generalization,
    "Trained on 10 or on 30 examples, the divergence falls and later rises by at least half: stop early",
    "theorem 1, figures",
)
def early_stopping(lab) -> Finding:
    found = {n: curves(lab, 3.0, n).mean(1) for n in (10, 30, 100, 1000)}

    def paint(axes):
        for n, values in found.items():
            axes.plot(TAUS, values.mean(0), label=f"{n} examples")
            axes.plot(TAUS[int(values.mean(0).argmin())], values.mean(0).min(), "o", color=axes.lines[-1].get_color())
        axes.axhline(Line(3.0).floor(), color="grey", linestyle=":", label="exact score")
        _log_axes(axes, xlabel="training time τ = learning rate × steps", ylabel="KL(data || model), nats")
        axes.set(title="200 random features, modes at ±3, gradient flow")

    margins = [
        min(math.log(found[n][i, -1] / found[n][i].min() / 1.5) for n in (10, 30)) for i in range(len(lab.seeds))
    ]
    numbers = {
        f"{n} examples": {"least": values.min(1).values.tolist(), "at tau = 1e13": values[:, -1].tolist()}
        for n, values in found.items()
    }
    return Finding.over_seeds(margins, numbers, [lab.picture("early-stopping", paint)])


COUNTS = (10, 30, 100, 1000)


def _counted(lab) -> tuple[Tensor, Tensor]:
    """The divergence at the best stop, and what it has risen by at tau = 10^13: (counts, seeds) each."""
    found = torch.stack([curves(lab, 3.0, n).mean(1) for n in COUNTS])
    least = found.min(2).values
    return least, found[:, :, -1] - least


@claim(
    Generalization,
    "The more examples, the smaller the divergence at the best stop: 10, 30, 100, 1000",
    "theorem 1: n^(-2/5)",
)
def more_examples_are_better(lab) -> Finding:
    least, _ = _counted(lab)
    falls = (least[:-1] / least[1:]).log().min(0).values
    return Finding.over_seeds(falls.tolist(), {"examples": COUNTS, "nats at the best stop": least.tolist()})


@claim(
    Generalization,
    "The more examples, the less is lost by going on from the best stop: 10, 30, 100, 1000",
    "theorem 1",
)
def more_examples_lose_less(lab) -> Finding:
    _, lost = _counted(lab)
    falls = (lost[:-1] - lost[1:]).min(0).values
    return Finding.over_seeds(falls.tolist(), {"examples": COUNTS, "nats lost at tau = 1e13": lost.tolist()})


MODES = (1, 2, 3, 4, 5, 6)


def _shifted(lab):
    return {mu: curves(lab, float(mu), 300).mean(1) for mu in MODES}


def _reached(values: Tensor, level: float = 0.5) -> Tensor:
    """log10 of the time at which each curve, (seeds, times), first falls below a level, infinite where none does; between
    two times by a straight line."""
    below = values < level
    after = below.double().argmax(1, keepdim=True).clamp(min=1)
    a, b = (values.gather(1, i).log() for i in (after - 1, after))
    times = torch.tensor(TAUS, dtype=torch.float64).log10()
    found = times[after - 1] + (a - math.log(level)) / (a - b) * (times[after] - times[after - 1])
    return torch.where(below.any(1), found[:, 0], math.inf)


@claim(
    Generalization,
    "The further apart the modes, the larger the divergence at the best stop (300 examples, modes at ±1 to ±6)",
    "theorem 2",
)
def distant_modes_are_harder(lab) -> Finding:
    found = _shifted(lab)
    least = {mu: values.min(1).values for mu, values in found.items()}

    def paint(left, right):
        for mu, values in found.items():
            left.plot(TAUS, values.mean(0), label=f"±{mu}")
        _log_axes(left, xlabel="training time τ = learning rate × steps", ylabel="KL(data || model), nats")
        left.set(title="300 examples, modes at ±μ")
        right.errorbar(MODES, *_range(least), fmt="o-", capsize=3, label="at the best stop")
        right.errorbar(
            MODES,
            *_range({mu: v[:, TAUS.index(1e5)] for mu, v in found.items()}),
            fmt="s-",
            capsize=3,
            label="at τ = 1e5",
        )
        right.set(yscale="log", xlabel="μ, half the distance of the modes", ylabel="KL(data || model), nats")
        right.set(title="mean and range of the seeds")
        right.legend()

    falls = torch.stack([(least[b] / least[a]).log() for a, b in zip(MODES, MODES[1:], strict=False)])
    numbers = {f"mu {mu}": value.tolist() for mu, value in least.items()}
    return Finding.over_seeds(falls.min(0).values.tolist(), numbers, [lab.picture("modes", paint, 2)])


def _range(values):
    """Means, and how far the lowest and the highest lie from them, as error bars take them."""
    means = [float(v.mean()) for v in values.values()]
    low = [float(v.mean() - v.min()) for v in values.values()]
    return means, [low, [float(v.max() - v.mean()) for v in values.values()]]


@claim(
    Generalization,
    "The further apart the modes, the longer the training until the divergence is below half a nat, if ever it is",
    "theorem 2",
)
def distant_modes_are_slower(lab) -> Finding:
    times = {mu: _reached(values) for mu, values in _shifted(lab).items()}
    waits = torch.stack([times[b] - times[a] for a, b in zip(MODES, MODES[1:], strict=False)])
    waits = waits.nan_to_num(nan=math.inf)  # never, and never: no comparison
    numbers = {f"log10 tau, mu {mu}": ["never" if v == math.inf else v for v in times[mu].tolist()] for mu in MODES}
    return Finding.over_seeds(waits.min(0).values.tolist(), numbers)


@claim(
    Generalization,
    "The wider the model, the smaller the divergence at the best stop: 25, 100, 400 features, 1000 examples",
    "theorem 1: m^(-4/5)",
)
def capacity_helps(lab) -> Finding:
    least = {m: curves(lab, 3.0, 1000, m).mean(1).min(1).values for m in (25, 100, 400)}
    falls = torch.stack([(least[25] / least[100]).log(), (least[100] / least[400]).log()])
    numbers = {f"{m} features": value.tolist() for m, value in least.items()}
    return Finding.over_seeds(falls.min(0).values.tolist(), numbers)


# Claims on the 8x8 digits: a U-Net of 0.2 M parameters, no dropout and no averaging, batches of 64.


def _trained(lab, seed, steps, **data):
    network = UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), embedding="fourier")
    training = TrainingOptions(
        steps=steps, batch_size=64, lr=1e-3, warmup=100, ema=None, checkpoint_every=50, keep_every=50
    )
    return lab.train(Generalization(data="digits", network=network, training=training), seed, **data)


@torch.no_grad()
def _held_out_loss(model, x0: Tensor) -> float:
    """The training loss on images, 8 noisings of each."""
    objective = model.recipe.objective(model.spec)
    draws = [objective(model.denoiser, x0, None, Rng.for_step(7, i, range(len(x0)))) for i in range(8)]
    return float(torch.cat([draw.per_example for draw in draws]).mean())


STEPS = range(50, 801, 50)


def _held_out_losses(lab, seed, limit):
    model = _trained(lab, seed, STEPS[-1], limit=limit)
    return [_held_out_loss(type(model).load(model.path, "model", step), lab.held_out("digits")) for step in STEPS]


@claim(
    Generalization,
    "Of a U-Net trained on 50 images the held-out loss falls, then rises by 5 % or more; on 1504 images it rises less",
    "figures; here on digits",
)
def networks_stop_early_too(lab) -> Finding:
    found = {n: torch.tensor([_held_out_losses(lab, seed, n) for seed in lab.seeds]) for n in (50, 1504)}

    def paint(axes):
        for n, values in found.items():
            line = axes.plot(STEPS, values.mean(0), "o-", label=f"{n} images")[0]
            axes.fill_between(STEPS, values.min(0).values, values.max(0).values, color=line.get_color(), alpha=0.2)
        axes.set(xlabel="steps of 64 images", ylabel="held-out loss: error of eps", yscale="log")
        axes.set(title="8x8 digits, U-Net; mean and range of the seeds")
        axes.legend()

    rise = {n: (values[:, -1] / values.min(1).values).log() for n, values in found.items()}
    fall = (found[50][:, 0] / found[50].min(1).values).log()
    margins = torch.stack([fall - math.log(1.05), rise[50] - math.log(1.05), rise[50] - rise[1504]]).min(0).values
    numbers = {f"{n} images, steps {list(STEPS)}": values.tolist() for n, values in found.items()}
    return Finding.over_seeds(margins.tolist(), numbers, [lab.picture("held-out-loss", paint)])


@claim(
    Generalization,
    "After the best stop, samples of the U-Net trained on 50 images draw nearer to the training images",
    "the target of infinite training",
)
def later_samples_are_copies(lab) -> Finding:
    data = lab.data("digits").batch(range(50)).x.flatten(1)
    fresh = nearest_neighbour_distance(lab.held_out("digits").flatten(1), data).median()
    shown, found, best = [50 * 2**i for i in range(5) if 50 * 2**i <= STEPS[-1]], [], []
    for seed in lab.seeds:
        model = _trained(lab, seed, STEPS[-1], limit=50)
        losses = _held_out_losses(lab, seed, 50)
        best.append(STEPS[losses.index(min(losses))])
        row = {}
        for step in sorted({*shown, best[-1]}):
            x = type(model).load(model.path, "model", step).sample(range(100))
            row[step] = float(nearest_neighbour_distance(x.flatten(1), data).median() / fresh)
        found.append(row)

    def paint(axes):
        for row, stop, seed in zip(found, best, lab.seeds, strict=True):
            line = axes.plot(list(row), list(row.values()), "o-", label=f"seed {seed}")[0]
            axes.plot(stop, row[stop], "s", markersize=9, fillstyle="none", color=line.get_color())
        axes.axhline(1, color="grey", linestyle=":", label="held-out images")
        axes.set(xscale="log", yscale="log", xticks=shown, xticklabels=shown, xlabel="steps of 64 images")
        axes.set_xticks([], minor=True)
        axes.set(ylabel="distance to the nearest of 50 training images,\nrelative to held-out images")
        axes.set(title="samples of a U-Net; squares: least held-out loss")
        axes.legend()

    margins = [row[stop] - row[STEPS[-1]] for row, stop in zip(found, best, strict=True)]
    numbers = {
        "measure": "median distance in pixels over that of held-out digits, by step",
        "distance": found,
        "best": best,
    }
    return Finding.over_seeds(margins, numbers, [lab.picture("memorisation", paint)])


@claim(
    Generalization,
    "On images of the two farthest classes the held-out loss is larger than on the two nearest, at equal steps",
    "figures: nearest and farthest clusters of MNIST; here on digits",
)
def distant_classes_are_harder(lab) -> Finding:
    train, held_out = lab.data("digits"), lab.data("digits", "held-out")
    x = train.batch(range(len(train))).x.flatten(1)
    centres = torch.stack([x[train.labels == label].mean(0) for label in range(10)])
    apart = torch.cdist(centres, centres)
    pairs = {
        "farthest": divmod(int(apart.argmax()), 10),
        "nearest": divmod(int((apart + 1e3 * torch.eye(10)).argmin()), 10),
    }
    found: dict[str, list[float]] = {}
    for name, pair in pairs.items():
        rows = [int(i) for label in pair for i in (train.labels == label).nonzero()[:120, 0]]
        fresh = [int(i) for label in pair for i in (held_out.labels == label).nonzero()[:20, 0]]
        x0 = held_out.batch(fresh).x
        found[name] = [_held_out_loss(_trained(lab, seed, 500, rows=rows), x0) for seed in lab.seeds]
    margins = [far - near for far, near in zip(found["farthest"], found["nearest"], strict=True)]
    numbers = {"measure": "held-out error of eps, 40 digits, 500 steps on 240", "classes": pairs, **found}
    return Finding.over_seeds(margins, numbers)


untestable(
    Generalization,
    "The exponents of n^(-2/5) + m^(-4/5), and that no constant grows exponentially with the dimension",
    "theorem 1",
    "they bound the divergence from above, so that a measured rate can neither confirm nor refute them",
)
