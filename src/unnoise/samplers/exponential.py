r"""One identity behind the whole family of fast solvers: the flow in a gauge.

Along x = alpha x_0 + sigma eps, for every gauge g(alpha, sigma) that is homogeneous of degree 1,

    d(x / g) = m dc,    m = g_alpha eps - g_sigma x_0,    dc = (alpha dsigma - sigma dalpha) / g^2

(g_alpha, g_sigma: partial derivatives), so a gauge chooses what a solver takes to be smooth, and treats the rest exactly:

    gauge                 m                                           clock c              known as
    x0        -sigma      x_0                                         -alpha/sigma         DPM-Solver++, xAB
    eps       alpha       eps                                         sigma/alpha          DDIM, DPM-Solver, PNDM, DEIS, zAB
    velocity  d alpha + sigma             d eps - x_0                 sigma/(d alpha + sigma), / d    rectified flows, vAB
    v         |(d alpha, sigma)|          v-prediction at d = 1       angle, / d           EDM's F, SEEDS-F, Rosenbrock (REAB)

(d: `scale`, the data's standard deviation.) A solver of order k replaces m by the polynomial through k values of it, in a
coordinate xi of the noise level, and integrates polynomial times dc exactly:

    x_s = g_s / g_t x_t + sum_j B_j m_j,    B_j = g_s \int_t^s l_j(xi) dc,    l_j Lagrange's polynomials of the k nodes.

Exponential integrators take xi = log(alpha/sigma), plain ones their own clock, DEIS's tAB the process's time. The reverse
SDE of strength eta on the variance, d(x/alpha) = (1 + eta) (...) + noise, has the same form with the gauge g |g/alpha|^eta,
the clock (1 + eta) |g/alpha|^-eta dc and Gaussian noise whose variance is an integral too (2305.14267, 2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageProblem, unknown
from ..processes import Gaussian
from ..processes.gaussian import Point
from ..scalars import Scalar, combine, expm1, log, sqrt

LEAVING = -5.1
"""Half log-SNR below which a solver in eps takes DDIM's step, or the ancestral one: where DDPM's chain of 1000 linear betas
begins. A step in eps magnifies whatever it misses of the guess by alpha_s/alpha_t, 200 in the first step of a cosine chain."""

NODES = [(float(x + 1) / 2, float(w) / 2) for x, w in zip(*np.polynomial.legendre.leggauss(16), strict=True)]
"""Gauss-Legendre on [0, 1]: exact to rounding for these integrands, until a step spans a factor of 10^3 in noise."""


def _exp(a: Scalar) -> Scalar:
    return a.exp() if isinstance(a, Tensor) else math.exp(a)


def _arc(b: Scalar, a: Scalar) -> Scalar:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.atan2(*torch.broadcast_tensors(torch.as_tensor(b), torch.as_tensor(a)))
    return math.atan2(b, a)


def _finite(a: Scalar) -> bool:
    return bool(a.isfinite().all()) if isinstance(a, Tensor) else math.isfinite(a)


def _deep(half_log_snr: Scalar) -> bool:
    return bool((half_log_snr < LEAVING).any()) if isinstance(half_log_snr, Tensor) else half_log_snr < LEAVING


def _cos_sin(a: Scalar) -> tuple[Scalar, Scalar]:
    return (a.cos(), a.sin()) if isinstance(a, Tensor) else (math.cos(a), math.sin(a))


# A gauge: (alpha, sigma, d) -> (g, its derivative in alpha).
GAUGES: dict[str, Callable[[Scalar, Scalar, float], tuple[Scalar, Scalar]]] = {
    "x0": lambda a, b, d: (-b, 0.0),
    "eps": lambda a, b, d: (a, 1.0),
    "velocity": lambda a, b, d: (d * a + b, d),
    "v": lambda a, b, d: (g := sqrt((d * a) ** 2 + b * b), d * d * a / g),
}


@dataclass(frozen=True)
class Coordinate:
    """xi(alpha, sigma, d); and back: alpha, sigma up to a factor, with alpha dsigma - sigma dalpha per dxi."""

    of: Callable[[Scalar, Scalar, float], Scalar]
    back: Callable[[Scalar, float], tuple[Scalar, Scalar, Scalar]]


def _on_circle(xi: Scalar, d: float) -> tuple[Scalar, Scalar, Scalar]:
    cos, sin = _cos_sin(xi)
    return cos / d, sin, 1 / d


def _on_log_sine(xi: Scalar, d: float) -> tuple[Scalar, Scalar, Scalar]:
    sin = _exp(-xi)
    cos = sqrt(1 - sin * sin)
    return cos / d, sin, -sin / (d * cos)


def _on_log_angle(xi: Scalar, d: float) -> tuple[Scalar, Scalar, Scalar]:
    alpha, sigma, turn = _on_circle(_exp(-xi), d)
    return alpha, sigma, -turn * _exp(-xi)


def _half_log_snr(a: Scalar, b: Scalar, d: float) -> Scalar:
    return Point(0.0, a, b).half_log_snr


COORDINATES: dict[str, Coordinate] = {
    "log-snr": Coordinate(_half_log_snr, lambda xi, d: (1.0, r := _exp(-xi), -r)),
    "ratio": Coordinate(lambda a, b, d: b / a, lambda xi, d: (1.0, xi, 1.0)),
    "signal": Coordinate(lambda a, b, d: a / b, lambda xi, d: (xi, 1.0, -1.0)),
    "rectified": Coordinate(lambda a, b, d: b / (d * a + b), lambda xi, d: ((1 - xi) / d, xi, 1 / d)),
    "angle": Coordinate(lambda a, b, d: _arc(b, d * a), _on_circle),
    "log-sine": Coordinate(lambda a, b, d: -_half_log_snr(b, sqrt((d * a) ** 2 + b * b), d), _on_log_sine),
    "log-angle": Coordinate(lambda a, b, d: -log(_arc(b, d * a)), _on_log_angle),
}
CLOCKS = {"x0": "signal", "eps": "ratio", "velocity": "rectified", "v": "angle"}
BESIDE = ("clock", "time", "steps")


@dataclass(frozen=True)
class Flow:
    """The flow (eta = 0) or the reverse SDE in a gauge, with values interpolated in a coordinate.

    `gauge` x0, eps, velocity or v; `coordinate` log-snr, ratio, signal, rectified, angle, log-sine, log-angle, `clock` (the
    gauge's own among them), `time` (the process's; see `on`), or `steps`: weights of even steps, whatever the steps (PNDM).
    `scale` is d above.
    """

    gauge: str = "x0"
    coordinate: str = "log-snr"
    eta: float = 0.0
    scale: float = 1.0
    inner: dict[tuple[float, float], list[float]] = field(default_factory=dict, compare=False, repr=False)
    """The times of the nodes of each step's integral, for the coordinate `time`."""

    def __post_init__(self) -> None:
        if self.gauge not in GAUGES:
            raise unknown("variable", self.gauge, GAUGES)
        if self.coordinate not in (*COORDINATES, *BESIDE):
            raise unknown("coordinate", self.coordinate, [*COORDINATES, *BESIDE])
        if not self.eta >= 0:
            raise UsageProblem(
                f"eta is {self.eta}, but must be 0 (the flow), 1 (the reverse SDE) or another positive number"
            )
        if not self.scale > 0:
            raise UsageProblem(f"scale is {self.scale}, but the standard deviation of the data is positive")

    @property
    def chart(self) -> str:
        """The coordinate in which integrals are taken."""
        if self.coordinate == "steps":
            return "log-snr"
        return CLOCKS[self.gauge] if self.coordinate in ("clock", "time") else self.coordinate

    def on(self, process: Gaussian, points: Sequence[Point]) -> Flow:
        """This flow ready to walk along `points`: the coordinate `time` looks up when its integrals pass which noise."""
        if self.coordinate != "time":
            return self
        steps = [(t, s) for t, s in zip(points, points[1:], strict=False) if self.reaches(t) and self.reaches(s)]
        if any(isinstance(t.alpha, Tensor) for t, _ in steps):
            raise UsageProblem(
                "the coordinate time needs one noise level, and this process has one for each frequency; take clock"
            )
        back, log_snr = COORDINATES[self.chart].back, []
        for t, s in steps:
            a, b = self.at(t), self.at(s)
            for u, _ in NODES:
                alpha, sigma, _ = back(a + u * (b - a), self.scale)
                log_snr.append(2 * (log(alpha) - log(sigma)))
        times = process.schedule.time(torch.tensor(log_snr, dtype=torch.float64)).tolist()
        n = len(NODES)
        return replace(self, inner={(t.t, s.t): times[i * n : i * n + n] for i, (t, s) in enumerate(steps)})

    def at(self, point: Point) -> Scalar:
        """Where a point lies in the chart; infinite or not a number where this flow cannot start or end."""
        try:
            return COORDINATES[self.chart].of(point.alpha, point.sigma, self.scale)
        except ZeroDivisionError:
            return math.inf

    def between(self, t: Point, s: Point, fraction: float) -> float:
        """The log-SNR at a fraction of the way from t to s in the chart."""
        a, b = self.at(t), self.at(s)
        alpha, sigma, _ = COORDINATES[self.chart].back(a + fraction * (b - a), self.scale)
        return float(2 * (log(alpha) - log(sigma)))

    def reaches(self, point: Point) -> bool:
        """Whether gauge and coordinate are regular at a point, and steps of them sound: not so in eps at alpha near 0."""
        if self.gauge == "eps" and _deep(point.half_log_snr):
            return False
        g, xi = self._gauge(point), self.at(point)
        regular = bool((g != 0).all()) if isinstance(g, Tensor) else g != 0
        return regular and _finite(g) and _finite(xi)

    def value(self, x: Tensor, u0: Tensor, t: Point) -> Tensor:
        """m = (g_alpha x_t - g x_0) / sigma, `u0` being the guess in the coordinates of the state."""
        g, slope = GAUGES[self.gauge](t.alpha, t.sigma, self.scale)
        if self.gauge == "x0":
            return u0
        return combine((-g / t.sigma, u0), (slope / t.sigma, x))

    def _gauge(self, t: Point) -> Scalar:
        """g |g / alpha|^eta."""
        g = GAUGES[self.gauge](t.alpha, t.sigma, self.scale)[0]
        if not self.eta or self.gauge == "eps":
            return g
        if not isinstance(t.alpha, Tensor) and t.alpha == 0:
            return math.inf
        return g * abs(g / t.alpha) ** self.eta

    def carry(self, t: Point, s: Point) -> Scalar:
        """The factor on x_t."""
        return self._gauge(s) / self._gauge(t)

    def weights(self, nodes: Sequence[Point], t: Point, s: Point) -> list[Scalar]:
        """B_j of the values at `nodes`, for the step from t to s."""
        if self.coordinate == "steps" and len(nodes) > 1:
            total = self.weights(nodes[:1], t, s)[0]
            return [b * total for b in adams(len(nodes))]
        if len(nodes) == 1 and not self.eta and self.gauge != "v":  # linear gauges: DDIM, exactly
            return [(t.alpha * s.sigma - s.alpha * t.sigma) / self._gauge(t)]
        where = (self.gauge, self.chart, self.eta, self.scale)
        if self.coordinate == "time":
            times = tuple(float(n.t) for n in nodes)
            found = _integrals(where, times, self.at(t), self.at(s), self.inner[float(t.t), float(s.t)])
        else:
            integrals = _integrals if isinstance(t.alpha, Tensor) else _remembered
            found = integrals(where, tuple(self.at(n) for n in nodes), self.at(t), self.at(s))
        return [self._gauge(s) * b for b in found]

    def spread(self, t: Point, s: Point) -> Scalar:
        r"""Standard deviation of the noise of a step: with r = sigma/alpha, g_s sqrt(\int 2 eta r (alpha/g)^(2 + 2 eta) dr)."""
        if not self.eta:
            return 0.0
        h = s.half_log_snr - t.half_log_snr
        if self.gauge == "x0":
            return s.sigma * sqrt(-expm1(-2 * self.eta * h))
        if self.gauge == "eps":
            return s.sigma * sqrt(self.eta * expm1(2 * h))
        total = 0.0
        for u, w in NODES:
            r = _exp(-(t.half_log_snr + u * h))
            total = total + w * 2 * self.eta * r * r / GAUGES[self.gauge](1.0, r, self.scale)[0] ** (2 + 2 * self.eta)
        return self._gauge(s) * sqrt(total * h)


def _integrals(
    where: tuple[str, str, float, float],
    nodes: tuple[Scalar, ...],
    a: Scalar,
    b: Scalar,
    inner: Sequence[float] | None = None,
) -> list[Scalar]:
    r"""\int_a^b l_j dc for each node, a and b in the chart; the nodes too, unless `inner` says where they lie in theirs."""
    gauge, chart, eta, scale = where
    back, g = COORDINATES[chart].back, GAUGES[gauge]
    totals: list[Scalar] = [0.0] * len(nodes)
    for i, (u, w) in enumerate(NODES):
        xi = a + u * (b - a)
        alpha, sigma, turn = back(xi, scale)
        size = g(alpha, sigma, scale)[0]
        density = w * turn / size**2
        if eta:
            density = density * (1 + eta) * abs(alpha / size) ** eta
        for j, basis in enumerate(_lagrange(nodes, xi if inner is None else inner[i])):
            totals[j] = totals[j] + density * basis
    return [(b - a) * total for total in totals]


_remembered = lru_cache(maxsize=1 << 14)(_integrals)  # a grid is walked many times


def _lagrange(nodes: tuple[Scalar, ...], xi: Scalar) -> list[Scalar]:
    values: list[Scalar] = []
    for j, own in enumerate(nodes):
        value: Scalar = 1.0
        for k, other in enumerate(nodes):
            if k != j:
                value = value * ((xi - other) / (own - other))
        values.append(value)
    return values


@lru_cache
def adams(order: int) -> list[float]:
    """Adams-Bashforth weights of even steps, newest first: 3/2, -1/2; 23/12, -16/12, 5/12; 55/24, ..."""
    totals = [0.0] * order
    for u, w in NODES:
        for j, basis in enumerate(_lagrange(tuple(-float(k) for k in range(order)), u)):
            totals[j] += w * float(basis)
    return totals
