r"""Schedules: how much signal and how much noise at each time, x_t = alpha(t) x_0 + sigma(t) eps.

t runs from 0 (data) to 1 (noise). All arithmetic is in float64. A schedule is a module, because some papers learn it.
log-SNR is lambda = 2 log(alpha / sigma); the *noise-to-signal ratio* sigma / alpha is what EDM calls sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .errors import UsageProblem


def _double(t) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """df/dt at each t, of the shape of f(t), which may have axes after those of t (one coefficient per frequency).

    The derivative in `weights` of the backward pass, which is linear in them: forward mode costs milliseconds a call in torch.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        u = _double(t).detach().requires_grad_()
        value = f(u)
        if not value.requires_grad:
            return torch.zeros_like(value)
        weights = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, u, weights, create_graph=True, materialize_grads=True)
        (tangent,) = torch.autograd.grad(pulled, weights, torch.ones_like(u), create_graph=keep, materialize_grads=True)
    return tangent


class Schedule(nn.Module):
    """alpha(t) and sigma(t), float64, of the shape of t (or with trailing axes: one coefficient per frequency)."""

    prior_std: float | None = None
    """Standard deviation of the noise that sampling starts from; None: sigma at the first point of the grid."""

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """2 log(alpha / sigma); +inf where sigma = 0."""
        t = _double(t)
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor) -> Tensor:
        """The t in [0, 1] at which the log-SNR is `log_snr`: by bisection, unless a schedule knows better."""
        target = _double(log_snr)
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.log_snr(middle) > target
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt."""
        return derivative(self.alpha, t), derivative(self.sigma, t)


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1: given by log alpha(t)."""

    prior_std = 1.0

    def log_alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(_double(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(_double(t)))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        log_square = 2 * self.log_alpha(_double(t))
        return log_square - (-torch.expm1(log_square)).log()

    def dlog_alpha(self, t: Tensor) -> Tensor:
        """d log alpha / dt."""
        return derivative(self.log_alpha, t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _double(t)
        alpha, slope = self.alpha(t), self.dlog_alpha(t)
        return alpha * slope, -(alpha**2) * slope / self.sigma(t)


def _log_alpha_of(log_snr: Tensor) -> Tensor:
    """log alpha of a variance-preserving pair with this log-SNR: alpha^2 = sigmoid(lambda)."""
    return 0.5 * nn.functional.logsigmoid(log_snr)


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """DDPM's betas, evenly spaced; the published ends belong to 1000 steps and are scaled by 1000/steps otherwise."""
    if steps < 1 or 1000 / steps * last >= 1:
        raise UsageProblem(f"{steps} steps are too few for linear betas up to {last}·1000/steps; use 21 steps or more")
    scale = 1000 / steps
    return torch.linspace(scale * first, scale * last, steps, dtype=torch.float64)


def vp_betas(steps: int, beta_min: float = 0.1, beta_max: float = 20.0, start: float = 1e-3) -> Tensor:
    r"""The betas of a few large steps of the VP SDE: beta_i = 1 - abar(u_i) / abar(u_{i-1}), u_i = start + (1 - start) i / T,
    abar(u) = exp(-beta_min u - (beta_max - beta_min) u^2 / 2) (2112.07804)."""
    if steps < 1:
        raise UsageProblem(f"steps is {steps}, but a chain has 1 or more")
    u = start + (1 - start) * torch.arange(steps + 1, dtype=torch.float64) / steps
    log_abar = -(beta_min * u + (beta_max - beta_min) * u * u / 2)
    return -torch.expm1(log_abar.diff())


def sqrt_linear_betas(steps: int, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Latent diffusion's betas, whose square roots are evenly spaced (its code calls them "linear", other code "scaled
    linear"); the published ends belong to 1000 steps and are scaled by 1000/steps otherwise (2112.10752)."""
    if steps < 1 or 1000 / steps * last >= 1:
        raise UsageProblem(
            f"{steps} steps are too few for betas up to {last}·1000/steps; use {int(1000 * last) + 1} or more"
        )
    scale = 1000 / steps
    return torch.linspace((scale * first) ** 0.5, (scale * last) ** 0.5, steps, dtype=torch.float64) ** 2


def cosine_betas(steps: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    r"""beta_i = min(1 - f(i/T) / f((i-1)/T), largest), f(u) = cos^2((u + s)/(1 + s) pi/2) (2102.09672, eq. 17)."""
    if steps < 1:
        raise UsageProblem(f"steps is {steps}, but a chain has 1 or more")
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=largest)


class FromBetas(VariancePreserving):
    r"""The chain of the discrete-time papers: alpha(i/T)^2 = prod_{j<=i} (1 - beta_j), alpha(0) = 1.

    Between the integers log alpha is a cubic with continuous slope that falls throughout (Fritsch & Butland, 1984), so that
    continuous-time solvers run on the same model at their full order; on straight pieces Heun stops improving at 1/T.
    """

    cubic: Tensor
    """(4, T): coefficients of each step, in powers of t T - i."""

    def __init__(self, betas: Tensor):
        super().__init__()
        betas = _double(betas)
        if betas.ndim != 1 or not (betas.is_meta or bool(((betas > 0) & (betas < 1)).all())):
            raise UsageProblem("betas must be a vector of numbers strictly between 0 and 1")
        self.steps = len(betas)
        falls = 0.5 * torch.log1p(-betas)
        inner = 2 / (1 / falls[1:] + 1 / falls[:-1])  # the harmonic mean keeps the cubic from overshooting
        before = torch.cat([torch.zeros(1, dtype=torch.float64), falls.cumsum(0)[:-1]])
        first, last = torch.cat([falls[:1], inner]), torch.cat([inner, falls[-1:]])
        cubic = torch.stack([before, first, 3 * falls - 2 * first - last, first + last - 2 * falls])
        self.register_buffer("cubic", cubic, persistent=False)

    def _apply(self, fn, recurse=True):
        exact = self.cubic
        super()._apply(fn, recurse)
        self.cubic = exact.to(self.cubic.device)  # a model cast to lower precision keeps its schedule in float64
        return self

    def _piece(self, t: Tensor) -> tuple[Tensor, Tensor]:
        at = t * self.steps
        i = at.detach().floor().clamp(0, self.steps - 1).long()
        return self.cubic.to(t.device)[:, i], at - i

    def log_alpha(self, t: Tensor) -> Tensor:
        (a, b, c, d), u = self._piece(t)
        return a + u * (b + u * (c + u * d))

    def dlog_alpha(self, t: Tensor) -> Tensor:
        (_, b, c, d), u = self._piece(t)
        return self.steps * (b + u * (2 * c + u * 3 * d))


class StraightBetas(FromBetas):
    r"""The same chain, but between the integers alpha itself runs straight, as DiffWave aligns noise levels with steps.

    (2009.09761, appendix B: t_s = t + (alpha_t - alpha) / (alpha_t - alpha_{t+1}).) The slope jumps at the integers, so
    solvers of higher order stop improving at steps of 1/T.
    """

    def _line(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log alpha at the integer before, alpha after it / alpha there - 1, and the part of the way."""
        (a, b, c, d), u = self._piece(t)
        return a, torch.expm1(b + c + d), u

    def log_alpha(self, t: Tensor) -> Tensor:
        before, fall, u = self._line(t)
        return before + torch.log1p(u * fall)

    def dlog_alpha(self, t: Tensor) -> Tensor:
        _, fall, u = self._line(t)
        return self.steps * fall / (1 + u * fall)


class LinearVP(VariancePreserving):
    r"""score-sde's VP: beta(t) linear from beta_min to beta_max, log alpha = -(beta_min t / 2 + (beta_max - beta_min) t^2 / 4)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        super().__init__()
        if not (0 <= beta_min <= beta_max and 0 < beta_max < math.inf):
            raise UsageProblem(
                f"beta_min is {beta_min} and beta_max {beta_max}, but 0 <= beta_min <= beta_max must hold"
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def log_alpha(self, t: Tensor) -> Tensor:
        return -(self.beta_min * t / 2 + (self.beta_max - self.beta_min) * t * t / 4)

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return -(self.beta_min + (self.beta_max - self.beta_min) * t) / 2

    def time_of(self, log_alpha: Tensor) -> Tensor:
        """The t at which log alpha is this."""
        c, d = -2 * log_alpha, self.beta_max - self.beta_min
        return 2 * c / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * d * c))  # stable root of d t^2/2 + b t = c

    def time(self, log_snr: Tensor) -> Tensor:
        return self.time_of(_log_alpha_of(_double(log_snr)))


class SubVP(Schedule):
    r"""score-sde's sub-VP: VP's drift, g^2 = beta (1 - e^{-2B}), so alpha = e^{-B/2} and sigma = 1 - e^{-B}, VP's sigma squared.

    B(t) = int_0^t beta as in LinearVP (2011.13456, eq. 29). With rho = sigma/alpha, log alpha = -asinh(rho / 2).
    """

    prior_std = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        super().__init__()
        self.vp = LinearVP(beta_min, beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return self.vp.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.vp.log_alpha(_double(t)))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _double(t)
        alpha, slope = self.alpha(t), self.vp.dlog_alpha(t)
        return alpha * slope, -2 * alpha**2 * slope

    def time(self, log_snr: Tensor) -> Tensor:
        return self.vp.time_of(-torch.asinh(torch.exp(-_double(log_snr) / 2) / 2))


class Cosine(VariancePreserving):
    r"""alpha = cos(pi t / 2), cut to log-SNR in [log_snr_min, log_snr_max]: lambda(t) = -2 log tan(a t + b).

    (2207.12598, sec. 2: b = arctan e^{-lambda_max/2}, a = arctan e^{-lambda_min/2} - b.)
    """

    def __init__(self, log_snr_min: float = -20.0, log_snr_max: float = 20.0):
        super().__init__()
        self.log_snr_min, self.log_snr_max = log_snr_min, log_snr_max
        self.offset = math.atan(math.exp(-log_snr_max / 2))
        self.slope = math.atan(math.exp(-log_snr_min / 2)) - self.offset

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.tan(self.slope * _double(t) + self.offset).log()

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self.slope * t + self.offset).log()

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return -self.slope * torch.tan(self.slope * t + self.offset)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self.slope * _double(t) + self.offset)

    def time(self, log_snr: Tensor) -> Tensor:
        return (torch.atan(torch.exp(-_double(log_snr) / 2)) - self.offset) / self.slope


class VE(Schedule):
    """score-sde's variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t."""

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise UsageProblem(
                f"noise levels go from 0 < sigma_min to a larger sigma_max, not {sigma_min} to {sigma_max}"
            )
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(_double(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** _double(t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma(t)
        return torch.zeros_like(sigma), math.log(self.sigma_max / self.sigma_min) * sigma

    def time(self, log_snr: Tensor) -> Tensor:
        return (-_double(log_snr) / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


class ExponentialVE(Schedule):
    """Variance exploding by the SDE dx = base^t dw from no noise at t = 0: alpha = 1, sigma^2 = (base^{2t} - 1) / (2 ln base).

    score-sde's tutorial has base 25; near t = 0 the variance is t, where `VE` has sigma_min.
    """

    def __init__(self, base: float = 25.0):
        super().__init__()
        if base <= 1:
            raise UsageProblem(f"the base of an exponential diffusion is {base:g}, but must be above 1")
        self.base, self.rate = base, 2 * math.log(base)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(_double(t))

    def sigma(self, t: Tensor) -> Tensor:
        return (torch.expm1(self.rate * _double(t)) / self.rate).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _double(t)
        return torch.zeros_like(t), torch.exp(self.rate * t) / (2 * self.sigma(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.log1p(self.rate * torch.exp(-_double(log_snr))) / self.rate


class Brownian(Schedule):
    """Brownian motion of `std` at t = 1, dx = std dw: alpha = 1, sigma = std sqrt(t)."""

    def __init__(self, std: float = 1.0):
        super().__init__()
        if not 0 < std < math.inf:
            raise UsageProblem(f"the deviation of a Brownian motion is {std}, but must be positive")
        self.std = std

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(_double(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.std * _double(t).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _double(t)
        return torch.zeros_like(t), self.std / (2 * t.sqrt())

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-_double(log_snr)) / self.std**2


class Geometric(VE):
    r"""NCSN's ladder: `steps` levels with one ratio gamma, from sigma_max at t = 1 to sigma_min at t = 1 / steps (1907.05600).

    There is no limit t -> 0: the last level is where training and sampling end. The formula goes on to sigma_min / gamma.
    """

    def __init__(self, sigma_min: float, sigma_max: float, steps: int):
        if steps < 2 or not 0 < sigma_min < sigma_max:
            raise UsageProblem(
                f"a ladder needs 2 levels or more, and 0 < sigma_min < sigma_max; not {steps}, {sigma_min:g} and {sigma_max:g}"
            )
        gamma = (sigma_max / sigma_min) ** (1 / (steps - 1))
        super().__init__(sigma_min / gamma, sigma_max)
        self.steps, self.gamma = steps, gamma


class EDM(Schedule):
    """EDM's choice, noise level as time: alpha = 1, sigma = sigma_max t (2206.00364, table 1)."""

    def __init__(self, sigma_max: float = 80.0):
        super().__init__()
        if not sigma_max > 0:
            raise UsageProblem(f"sigma_max is {sigma_max}, but must be positive")
        self.sigma_max = sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(_double(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * _double(t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _double(t)
        return torch.zeros_like(t), torch.full_like(t, self.sigma_max)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-_double(log_snr) / 2) / self.sigma_max


class Rectified(Schedule):
    """The straight path of rectified flows and of flow matching: alpha = 1 - t, sigma = sigma_min + (1 - sigma_min) t."""

    def __init__(self, sigma_min: float = 0.0):
        super().__init__()
        if not 0 <= sigma_min < 1:
            raise UsageProblem(f"sigma_min is {sigma_min}, but must lie in [0, 1)")
        self.sigma_min = sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - _double(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min + (1 - self.sigma_min) * _double(t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = _double(t)
        return -torch.ones_like(t), torch.full_like(t, 1 - self.sigma_min)

    def time(self, log_snr: Tensor) -> Tensor:
        if not self.sigma_min:
            return torch.sigmoid(-_double(log_snr) / 2)
        signal = torch.exp(_double(log_snr) / 2)
        return (1 - self.sigma_min * signal) / (1 + (1 - self.sigma_min) * signal)


class Learned(VariancePreserving):
    r"""VDM's schedule: gamma(t) = -log-SNR is a monotone network between two learned ends (2107.00630, app. H).

    gamma(t) = gamma_0 + (gamma_1 - gamma_0) m(t),   m(t) = (n(t) - n(0)) / (n(1) - n(0)),
    n(t) = |w| t + sum_j |c_j| sigmoid(|a_j| (2t - 1) + b_j) / units.

    It begins nearly linear in t, and without units it is linear. The ends are `log_snr_max` and `log_snr_max -
    exp(log_range)`, so they never cross; the bound moves them, and the interior moves the bound's variance alone. Kept in
    float64 whatever the model is cast to.
    """

    def __init__(self, log_snr_min: float = -5.0, log_snr_max: float = 13.3, units: int = 1024):
        super().__init__()
        if log_snr_min >= log_snr_max:
            raise UsageProblem(f"log_snr_min is {log_snr_min}, but must lie below log_snr_max = {log_snr_max}")
        self.log_snr_max = nn.Parameter(_double(log_snr_max))
        self.log_range = nn.Parameter(_double(log_snr_max - log_snr_min).log())
        centres = torch.linspace(-1, 1, units, dtype=torch.float64)  # each unit bends the curve somewhere else
        self.slope = nn.Parameter(_double(1.0))
        self.steepness = nn.Parameter(torch.full_like(centres, 4.0))
        self.offset = nn.Parameter(-4.0 * centres)
        self.height = nn.Parameter(torch.full_like(centres, 0.05))
        for parameter in (self.slope, self.steepness, self.offset, self.height):
            parameter.requires_grad_(units > 0)

    def _apply(self, fn, recurse=True):
        exact = {name: p.data for name, p in self.named_parameters()}
        super()._apply(fn, recurse)
        for name, p in self.named_parameters():
            p.data = exact[name].to(p.device)
        return self

    @property
    def log_snr_min(self) -> Tensor:
        return self.log_snr_max - self.log_range.exp()

    @property
    def interior(self) -> list[nn.Parameter]:
        """What bends the curve between its ends: by it the bound's expectation does not move."""
        return [self.slope, self.steepness, self.offset, self.height] if len(self.height) else []

    def _bends(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The units at t (*t, units), how steep each is in t, and their shares of n."""
        steepness = 2 * self.steepness.abs()
        bends = torch.sigmoid((t[..., None] - 0.5) * steepness + self.offset)
        return bends, steepness, self.height.abs() / max(len(self.height), 1)

    def _monotone(self, t: Tensor) -> Tensor:
        bends, _, shares = self._bends(t)
        return self.slope.abs() * t + bends @ shares

    def course(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m(t), the share of the way from the clean end to the noisy one, m'(t) and m''(t)."""
        t = _double(t)
        low, high = self._monotone(torch.tensor([0.0, 1.0], dtype=torch.float64, device=t.device))
        bends, steepness, shares = self._bends(t)
        first = bends * (1 - bends) * steepness
        second = first * (1 - 2 * bends) * steepness
        rise = self.slope.abs() * t + bends @ shares - low, self.slope.abs() + first @ shares, second @ shares
        return rise[0] / (high - low), rise[1] / (high - low), rise[2] / (high - low)

    def log_snr(self, t: Tensor) -> Tensor:
        t = _double(t)
        low, high = self._monotone(torch.tensor([0.0, 1.0], dtype=torch.float64, device=t.device))
        return self.log_snr_max - self.log_range.exp() * (self._monotone(t) - low) / (high - low)

    def log_alpha(self, t: Tensor) -> Tensor:
        return _log_alpha_of(self.log_snr(t))

    def dlog_alpha(self, t: Tensor) -> Tensor:
        share, slope, _ = self.course(t)
        log_snr = self.log_snr_max - self.log_range.exp() * share
        return -0.5 * torch.sigmoid(-log_snr) * self.log_range.exp() * slope  # alpha^2 = sigmoid(log-SNR)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self.log_snr(t)).sqrt()
