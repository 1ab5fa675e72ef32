r"""DDPMs in six simple steps: no variational story, only T small Gaussian regressions along a chain of noisings.

x^(t) = lambda_t x^(t-1) + sqrt(1 - lambda_t^2) eps,   q(x^(t-1) | x^(t), x^(0)) = N(a_t x^(0) + b_t x^(t), v_t)
max_theta sum_t E_q log N(x^(t-1); a_t x0_theta(x^(t), t) + b_t x^(t), s_t^2),   s_t^2 = v_t + a_t^2/d E|x^(0) - x0_theta|^2

Here lambda_t is the coefficient of the autoregressive chain: beta_t = 1 - lambda_t^2, alpha(t) = prod_{s<=t} lambda_s.
Images are used as they are, in [-1, 1] (deviation 0.5 or so), where the note standardises its data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..denoisers import Denoiser, Matched
from ..denoisers import preconditioning as pre
from ..denoisers.denoiser import Cond
from ..laws import Estimate, Normal
from ..likelihood import Discretised, bits_per_dim
from ..networks import published
from ..objectives import Bound, Loss, Objective, UniformSteps
from ..oracles import Mixture, density_output, divergence, even_grid, gaussian, gaussian_output
from ..processes import Gaussian
from ..recipe import Recipe, Sampling, Spec
from ..rng import Rng
from ..samplers import Ancestral, Integers
from ..samplers.ancestral import Variance
from ..schedules import FromBetas, cosine_betas, linear_betas
from ..training.options import PUBLISHED
from ..verify import Finding, check, claim
from . import paper

SCHEDULES = ("cosine", "linear", "log-snr", "constant")


def betas(schedule: str, levels: int) -> Tensor:
    """1 - lambda_t^2 of a chain of `levels`.

    cosine    cos^2 of improved-ddpm, no beta above 0.999
    linear    DDPM's 1000 betas, of which every (1000 / levels)-th level is kept
    log-snr   SNR evenly spaced in its logarithm from e^9 to e^-9
    constant  one lambda for all levels, c_T^2 = e^-10: the schedule to avoid
    """
    if schedule == "cosine":
        return cosine_betas(levels)
    if schedule == "constant":
        return -torch.expm1(torch.full((levels,), -10 / levels, dtype=torch.float64))
    if schedule == "linear":
        i = torch.arange(1, levels + 1, dtype=torch.float64) / levels
        signal = FromBetas(linear_betas(1000)).alpha(i) ** 2
    else:
        signal = torch.sigmoid(torch.linspace(9, -9, levels, dtype=torch.float64))
    return 1 - signal / torch.cat(
        [torch.ones(1, dtype=torch.float64), signal[:-1]]
    )  # kept levels have their own lambda


class ChainRegression(Objective):
    r"""The Gaussian regression of x^(t-1) on x^(t) for one level t of the chain, drawn for each example.

    regression   -log p(x^(t-1) | x^(t)) of a drawn x^(t-1), less its entropy: a noisy estimate of the next
    variational  its mean given x^(t) and x^(0), KL(q || p): (SNR_{t-1} - SNR_t)/2 |x^(0) - x0_theta|^2, in bits/dim
    simple       the weight dropped: |eps - eps_theta|^2, mean over dimensions

    The first two have s_t^2 = v_t; at the first level x^(0) is decoded into its grey levels. A denoiser that keeps count
    of its errors is told them.
    """

    def __init__(self, steps: int, loss: str, levels: int):
        super().__init__()
        self.steps, self.loss = steps, loss
        self.bound = Bound(steps, UniformSteps(steps), Ancestral(), Discretised(levels))

    def forward(self, denoiser: Denoiser, x0: Tensor, cond: Cond, rng: Rng, turn: str = "denoiser") -> Loss:
        process = denoiser.process
        t, importance = self.bound.times.sample(process, rng)
        xt = process.corrupt(x0, t, rng)
        guess = denoiser(xt, t, cond)
        if isinstance(denoiser, Matched) and denoiser.training:
            denoiser.learn(t, guess.mean, x0)
        if self.loss == "simple":
            error = process.noise(xt, guess.mean, t) - process.noise(xt, x0, t)
            return Loss(error.square().flatten(1).mean(1), t=t)
        loss = self.bound.compare_at(denoiser, x0, xt, t, guess, importance)
        if self.loss == "variational":
            return loss
        first, lower = t * self.steps < 1.5, (t - 1 / self.steps).clamp(min=1 / self.steps)
        upper = lower + 1 / self.steps
        q = process.posterior(xt, x0, upper, lower)
        xs = q.sample(rng)
        drawn = q.log_prob(xs) - self.bound.reverse.law(process, guess, xt, upper, lower).log_prob(xs)
        per_example = self.steps * bits_per_dim(drawn, x0).to(x0.dtype)
        return replace(loss, per_example=torch.where(first, loss.per_example, per_example))


@paper(
    "2402.04384",
    "Denoising Diffusion Probabilistic Models in Six Simple Steps",
    "Richard E. Turner, Cristiana-Diana Diaconu, Stratis Markou, Aliaksandra Shysheya, Andrew Y. K. Foong, Bruno Mlodozeniec",
    2024,
    "arXiv",
)
@dataclass(frozen=True)
class SixSteps(Recipe):
    """A chain of Gaussian regressions, each with the variance of greatest likelihood, and schedules compared exactly."""

    timesteps: int = 1000
    """Levels T of the chain."""
    schedule: Literal["cosine", "linear", "log-snr", "constant"] = "cosine"
    """How the noise of the levels grows."""
    loss: Literal["simple", "variational", "regression"] = "simple"
    """The unweighted error of eps; the likelihood with x^(t-1) averaged out (Gaussian denoisers); with x^(t-1) drawn."""
    variance: Literal["matched", "small", "large"] = "matched"
    """s_t^2: of greatest likelihood, by running means of the errors; v_t; 1 - lambda_t^2."""
    sampling_steps: int = 100
    """Levels that the sampler visits."""

    @classmethod
    def paper(cls) -> SixSteps:
        """The note trains nothing: DDPM's configuration for CIFAR-10, to which its six steps lead."""
        return cls(
            data="cifar10",
            schedule="linear",
            flip=True,
            sampling_steps=1000,
            network=published.DDPM_CIFAR10,
            training=replace(
                PUBLISHED,
                steps=800_000,
                batch_size=128,
                lr=2e-4,
                warmup=5000,
                ema=887_000,  # 0.9999 a step
            ),
        )

    def process(self) -> Gaussian[FromBetas]:
        return Gaussian(FromBetas(betas(self.schedule, self.timesteps)))

    def reverse(self) -> Ancestral:
        return Ancestral(variance="optimal" if self.variance == "matched" else self.variance)

    def denoiser(self, spec: Spec) -> Denoiser:
        process = self.process()
        told = pre.DDPM(process.schedule, scale=1000 / self.timesteps)
        return Matched(self.build_network(spec), process, told, self.timesteps)

    def objective(self, spec: Spec) -> Objective:
        return ChainRegression(self.timesteps, self.loss, spec.levels)

    def sampling(self) -> Sampling:
        return Sampling(self.reverse(), Integers(self.sampling_steps), threshold="clip")


# The worked example: two modes on the line, of mean 0 and variance 1, and all densities on a grid.


def two_modes() -> Mixture:
    """0.6 N(-0.95, 0.2^2) + 0.4 N(0.95, 0.2^2), standardised."""
    means, weights = (torch.tensor(v, dtype=torch.float64) for v in ([[-0.95], [0.95]], [0.6, 0.4]))
    raw = Mixture(means, 0.04, weights)
    std = float(raw.covariance.sqrt())
    return Mixture((means - raw.mean) / std, 0.04 / std**2, weights)


class Pooled(Denoiser):
    """An exact denoiser that knows of its variance only the mean over x_t and dimensions: what one s_t^2 can match."""

    def __init__(self, data: Mixture, process: Gaussian):
        super().__init__()
        self.exact, self.process = data.denoiser(process), process
        self.line = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]

    def pooled(self, t: Tensor) -> Tensor:
        """E Var[x_0 | x_t] / d at one time."""
        data = self.exact.mixture
        if len(data.means) == 1:  # of a Gaussian it does not depend on x_t
            return self.exact(torch.zeros(1, *data.event, dtype=torch.float64), t[:1]).variance.mean()
        p = data.log_prob(self.line, self.process, t[:1].expand(len(self.line))).exp()
        variance = self.exact(self.line, t[:1].expand(len(self.line))).variance[:, 0]
        return (p * variance).sum() / p.sum()

    def forward(self, xt: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        return Estimate(self.exact(xt, t).mean, self.pooled(t).expand(xt.shape))


def chain(schedule: str, levels: int):
    """The process of a schedule, and all its levels, noise first."""
    process = Gaussian(FromBetas(betas(schedule, levels)))
    return process, Integers(levels)(process)


def line_divergence(schedule: str, levels: int, variance: str = "matched") -> float:
    """KL(q(x^(0)) || p(x^(0))), nats, of the chain for the two modes; "pointwise": s_t^2 that depends on x^(t) as well.

    The small variance, 0 at the first level, is the matched one there.
    """
    data, (process, points) = two_modes(), chain(schedule, levels)
    denoiser = data.denoiser(process) if variance == "pointwise" else Pooled(data, process)
    best = Ancestral(variance="optimal")
    reverse = best if variance in ("matched", "pointwise") else Ancestral(variance=variance)  # type: ignore[arg-type]
    last = best if variance == "small" else None
    x = even_grid(denoiser, reverse, points, -6.5, 6.5, last)
    q = data.log_prob(x[:, None], process, points[-1]).exp()
    return divergence(q, density_output(denoiser, reverse, points, x, last), x)


def gaussian_divergence(schedule: str, levels: int, variances: Tensor) -> float:
    """The same in nats per dimension for data N(0, diag(variances)), one matched s_t^2 for all dimensions."""
    data, (process, points) = gaussian(torch.zeros_like(variances), variances), chain(schedule, levels)
    p = gaussian_output(Pooled(data, process), Ancestral(variance="optimal"), points, variances.shape)
    q = Normal(torch.zeros(1, len(variances), dtype=torch.float64), variances.sqrt())
    return float(q.kl(p)) / len(variances)


def slope(divergences: dict[int, float]) -> float:
    """The power of the number of levels with which a divergence falls: log against log, least squares."""
    x, y = (torch.tensor(list(v), dtype=torch.float64).log() for v in (divergences.keys(), divergences.values()))
    return float(-((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum())


# Exact checks.


@check(SixSteps, "a_t^2 / v_t is the fall of SNR = c^2 / (1 - c^2) over level 7 of 20", "exact", tolerance=1e-9)
def weights_are_falls_of_snr():
    process, points = chain("cosine", 20)
    t, s = points[13], points[14]
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    q = process.posterior(zero, one, t, s)  # its mean is a_t, for x^(0) = 1 and x^(t) = 0
    return float(q.mean / q.std) ** 2, (s.alpha / s.sigma) ** 2 - (t.alpha / t.sigma) ** 2


@check(
    SixSteps,
    "with data N(0, 1) and s_t^2 = 1 - lambda_t^2 three levels are exact: the divergence, nats",
    "exact",
    1e-12,
)
def three_levels_of_a_gaussian():
    data = gaussian(torch.zeros(1), 1.0)
    process = Gaussian(FromBetas(torch.tensor([0.3, 0.6, 0.5])))
    points = Integers(3)(process)
    p = gaussian_output(data.denoiser(process), Ancestral(variance="large"), points, (1,))
    return float(p.kl(Normal(torch.zeros(1, 1), 1.0))), 0.0


@check(
    SixSteps, "v_t <= s_t^2 <= 1 - lambda_t^2 at every one of 40 levels for the two modes: how many fail", "exact", 0
)
def variances_are_in_order():
    process, points = chain("cosine", 40)
    denoiser, wrong = Pooled(two_modes(), process), 0
    for t, s in zip(points[:-2], points[1:-1], strict=True):
        x = torch.zeros(1, 1, dtype=torch.float64)
        guess = denoiser(x, t.over(x))
        stds = [
            float(Ancestral(variance=v).law(process, guess, x, t, s).std)  # type: ignore[attr-defined]
            for v in ("small", "optimal", "large")
        ]
        wrong += stds != sorted(stds)
    return wrong, 0


@check(
    SixSteps,
    "halving the levels' noise from 40 to 80: log2 of the fall of the divergence, one s_t^2 a level",
    "exact",
    0.2,
)
def second_order_with_matched_variances():
    return math.log2(line_divergence("cosine", 40) / line_divergence("cosine", 80)), 2.0


def line_bound(schedule: str, levels: int) -> tuple[float, float]:
    """The chain's bound on -E log p(x^(0)) for the two modes with matched variances, and the entropy of the data, nats.

    Matched, each level costs KL = log(s_t / v_t^(1/2)), the first -E log p(x^(0) | x^(1)) = log(2 pi e s_1^2) / 2, and the
    prior (c_T^2 - c_T^2 - log(1 - c_T^2)) / 2 for data of variance 1.
    """
    data, (process, points) = two_modes(), chain(schedule, levels)
    denoiser = Pooled(data, process)
    total = -math.log1p(-(points[0].alpha ** 2)) / 2
    x = torch.zeros(1, 1, dtype=torch.float64)
    for t, s in zip(points[:-1], points[1:], strict=True):
        guess = denoiser(x, t.over(x))
        law = Ancestral(variance="optimal").law(process, guess, x, t, s)
        std = float(law.std)  # type: ignore[attr-defined]
        if s.is_clean:
            total += math.log(2 * math.pi * math.e * std**2) / 2
        else:
            total += math.log(std / float(process.posterior(x, x, t, s).std))
    line = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    log_q = data.log_prob(line[:, None], process, points[-1])
    return total, float(-(log_q.exp() * log_q).sum() * (line[1] - line[0]))


# Claims. The first are computed exactly, on the line and for Gaussians; the others train on the 8x8 digits.

LEVELS = (10, 20, 40, 80, 160)


@claim(
    SixSteps,
    "Gaussian regressions become adequate as the levels multiply: the divergence falls as the square of their number",
    "the step to Gaussian regressions",
)
def levels_buy_accuracy(lab) -> Finding:
    found = {s: {n: line_divergence(s, n) for n in LEVELS[: 4 if s == "log-snr" else 5]} for s in SCHEDULES}
    powers = {s: slope({n: d for n, d in found[s].items() if n >= 40}) for s in SCHEDULES}
    bounds = {n: line_bound("cosine", n) for n in LEVELS}
    gaps = {n: bound - entropy for n, (bound, entropy) in bounds.items()}

    def paint(left, right):
        for name in SCHEDULES:
            left.loglog(found[name].keys(), found[name].values(), "o-", label=name)
        left.set(title="schedules, matched variance")
        right.loglog(LEVELS, list(found["cosine"].values()), "o-", label="KL of the data from the output")
        right.loglog(LEVELS, list(gaps.values()), "s-", color="tab:red", label="gap of the chain's bound")
        right.set(title="cosine schedule, matched variance")
        for axes in (left, right):
            axes.set(xlabel="levels T of the chain", ylabel="nats", xticks=LEVELS, xticklabels=LEVELS)
            axes.minorticks_off()
            axes.legend()

    margins = [0.15 - abs(powers[s] - 2) for s in SCHEDULES if s != "constant"]
    margins.append(min(gaps[n] - found["cosine"][n] for n in LEVELS))
    numbers = {"divergence, nats": found, "power from 40 levels": powers, "gap of the bound, cosine": gaps}
    return Finding.computed(margins, numbers, [lab.picture("schedules", paint, 2)])


@claim(
    SixSteps,
    "One lambda for all levels is the schedule to avoid: at every number of levels its divergence is the largest",
    "the choice of the schedule",
)
def constant_coefficients_fail(lab) -> Finding:
    x = lab.data("digits").batch(range(1504)).x.flatten(1).double()
    spectrum = torch.linalg.eigvalsh(x.T.cov() + torch.eye(64) * (2 / 16) ** 2 / 12).flip(0)  # dequantised
    spectrum = spectrum / spectrum.mean()
    line = {s: {n: line_divergence(s, n) for n in LEVELS[:-1]} for s in SCHEDULES}
    digits = {s: {n: gaussian_divergence(s, n, spectrum) for n in LEVELS[:-1]} for s in SCHEDULES}

    def paint(left, right):
        for name in SCHEDULES:
            left.loglog(LEVELS[:-1], list(line[name].values()), "o-", label=name)
            right.loglog(LEVELS[:-1], list(digits[name].values()), "o-", label=name)
        left.set(title="two modes on the line", ylabel="KL, nats")
        right.set(title="Gaussian with the digits' covariance", ylabel="KL, nats per dimension")
        for axes in (left, right):
            axes.set(xlabel="levels T of the chain", xticks=LEVELS[:-1], xticklabels=LEVELS[:-1])
            axes.minorticks_off()
            axes.legend()

    margins = [
        math.log(found["constant"][n] / max(found[s][n] for s in SCHEDULES[:-1]))
        for found in (line, digits)
        for n in LEVELS[:-1]
    ]
    numbers = {"nats, two modes": line, "nats per dimension, Gaussian of the digits": digits}
    return Finding.computed(margins, numbers, [lab.picture("constant-lambda", paint, 2)])


@claim(
    SixSteps,
    "From 20 levels on, the variance of greatest likelihood beats both v_t and 1 - lambda_t^2 on the two modes",
    "the choice of the variance",
)
def matched_variance_wins_on_the_line(lab) -> Finding:
    kinds = {"matched": "matched", "1 - λ²": "large", "v": "small", "pointwise": "pointwise"}
    found = {name: {n: line_divergence("cosine", n, kind) for n in LEVELS} for name, kind in kinds.items()}
    powers = {name: slope({n: d for n, d in values.items() if n >= 40}) for name, values in found.items()}

    def paint(axes):
        for name, values in found.items():
            axes.loglog(LEVELS, list(values.values()), "o-", label=f"{name}:  $T^{{-{powers[name]:.1f}}}$")
        axes.set(xlabel="levels T of the chain", ylabel="KL of the data from the output, nats")
        axes.set(xticks=LEVELS, xticklabels=LEVELS, title="reverse variances, cosine schedule")
        axes.minorticks_off()
        axes.legend(title="power from 40 levels")

    margins = [min(found["1 - λ²"][n], found["v"][n]) / found["matched"][n] - 1 for n in LEVELS[1:]]
    numbers = {"divergence, nats": found, "power from 40 levels": powers}
    return Finding.computed(margins, numbers, [lab.picture("variances", paint)])


def _trained(lab, seed, **options):
    return lab.digits(SixSteps, seed, steps=1000, small=True, **options)


def _bits(lab, model, levels, variance: Variance = "optimal"):
    return float(lab.bits(model, Ancestral(variance=variance), Integers(levels)).total.mean())


@claim(SixSteps, "On images the likelihood improves with the levels of one chain: 10, 50, 200", "the chain of levels")
def bits_fall_with_levels(lab) -> Finding:
    found = [[_bits(lab, _trained(lab, seed), n) for n in (10, 50, 200)] for seed in lab.seeds]
    numbers = {"measure": "bits/dim of 48 held-out digits, matched variance; 10, 50, 200 of 1000 levels", "bits": found}
    return Finding.over_seeds([min(a - b, b - c) for a, b, c in found], numbers)


@claim(
    SixSteps,
    "On images with 10 levels, the variance of greatest likelihood beats both v_t and 1 - lambda_t^2",
    "the choice of the variance",
)
def matched_variance_wins_on_images(lab) -> Finding:
    found = [{v: _bits(lab, _trained(lab, seed), 10, v) for v in ("optimal", "small", "large")} for seed in lab.seeds]
    margins = [min(bits["small"], bits["large"]) - bits["optimal"] for bits in found]
    return Finding.over_seeds(margins, {"measure": "bits/dim of 48 held-out digits, 10 of 1000 levels", "bits": found})


@claim(SixSteps, "On images with 10 levels, the cosine schedule beats the linear one", "the choice of the schedule")
def cosine_beats_linear(lab) -> Finding:
    cosine, linear = (
        [_bits(lab, _trained(lab, seed, schedule=name), 10) for seed in lab.seeds] for name in ("cosine", "linear")
    )
    numbers = {"measure": "bits/dim of 48 held-out digits, 10 of 1000 levels", "cosine": cosine, "linear": linear}
    return Finding.over_seeds([b - a for a, b in zip(cosine, linear, strict=True)], numbers)


@claim(
    SixSteps,
    "Replacing x^(t-1) by its mean given x^(0) and x^(t) lowers the variance of the gradient",
    "the step to Gaussian denoisers",
)
def denoising_lowers_gradient_variance(lab) -> Finding:
    """Noise of the whole gradient on one batch of 64, over 24 draws of levels and noise."""
    variances: dict[str, list[float]] = {"regression": [], "variational": []}
    for seed in lab.seeds:
        model = _trained(lab, seed)
        x0, denoiser = lab.held_out("digits")[:64], model.denoiser
        for loss in variances:
            objective = SixSteps(loss=loss).objective(model.spec)  # type: ignore[arg-type]
            gradients = []
            for draw in range(24):
                value = objective(denoiser, x0, None, Rng.for_step(seed, draw, range(64))).per_example.mean()
                parts = torch.autograd.grad(value, list(denoiser.parameters()))
                gradients.append(torch.cat([g.flatten() for g in parts]).double())
            variances[loss].append(float(torch.stack(gradients).var(0).sum()))
    margins = [a / b - 1 for a, b in zip(variances["regression"], variances["variational"], strict=True)]
    return Finding.over_seeds(margins, {"measure": "summed variance of the gradient", **variances})


@claim(
    SixSteps,
    "Trained for 300 steps, the Gaussian denoisers have fewer bits per dimension than the plain regressions",
    "the step to Gaussian denoisers",
)
def denoising_learns_faster(lab) -> Finding:
    def bits(loss, seed):
        model = lab.digits(SixSteps, seed, steps=300, small=True, timesteps=200, loss=loss)
        return _bits(lab, model, 200, "small")

    plain, denoising = ([bits(loss, seed) for seed in lab.seeds] for loss in ("regression", "variational"))
    numbers = {"measure": "bits/dim of 48 held-out digits, 200 levels", "plain": plain, "denoising": denoising}
    return Finding.over_seeds([a - b for a, b in zip(plain, denoising, strict=True)], numbers)
