"""The one ancestral step: guess x_0, then draw from the posterior. DDPM, DDIM and all between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from torch import Tensor

from ..errors import UsageProblem
from ..laws import Estimate, Law
from ..processes import Gaussian, Jump, Process
from ..processes.gaussian import Point, decay
from ..rng import Rng
from ..scalars import Scalar, plus, sqrt
from .loop import Denoise, Step
from .noise import Noise, check_path, needs_one_level, one_path

Variance = Literal["small", "large", "learned", "optimal"]


@dataclass(frozen=True)
class Ancestral(Step):
    r"""x_s ~ q(x_s | x_t, x_0_guess), with the variance of the reverse step chosen:

    small     beta~ = sigma_s^2 (1 - r), the posterior's; times eta^2 (eta = 0: DDIM, deterministic, order 1)
    large     beta  = sigma_t^2 (1 - r), the forward step's
    learned   between the two in the logarithm, where the denoiser says (its `fraction`)
    optimal   beta~ + (alpha_s (1 - r))^2 Var[x_0 | x_t], for denoisers that know the variance
    `mix`     a number in [0, 1]: between small (0) and large (1) in the logarithm, the same everywhere (2207.12598)

    with r = exp(lambda_t - lambda_s). `keep_eps` uses the noise estimate from before thresholding beside the clipped x_0.
    `brownian`: the draws are increments of one path, whatever the steps (brownian.py); at eta = 1 and the small variance
    they are exactly the SDE's, elsewhere they are so in the limit of small steps.
    No noise is added in the step to clean data.
    """

    name: ClassVar[str] = "ancestral"
    needs: ClassVar[type[Process]] = Process
    eta: float = 1.0
    variance: Variance = "small"
    mix: float | None = None
    keep_eps: bool = False
    brownian: bool = field(
        default=False, repr=False
    )  # whence the noise comes, not what is sampled: no part of its name

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageProblem(f"eta is {self.eta}, but must lie between 0 (deterministic) and 1 (the Markov chain)")
        if self.mix is not None and not 0 <= self.mix <= 1:
            raise UsageProblem(f"mix is {self.mix}, but must lie between 0 (small variance) and 1 (large variance)")
        if self.eta < 1 and not self._plain:
            raise UsageProblem(f"eta {self.eta} scales the small variance; leave variance at 'small' and mix out")
        check_path(self.brownian, self.eta)

    @property
    def _plain(self) -> bool:
        return self.variance == "small" and self.mix is None

    @property
    def order(self) -> int | None:  # type: ignore[override]
        return 1 if self.eta == 0 else None

    @property
    def weak_order(self) -> int:  # type: ignore[override]
        return 1

    @property
    def strong_order(self) -> int | None:  # type: ignore[override]
        """Of Gaussian processes: 1, as the noise is additive."""
        return 1 if self.eta else None

    def check(self, process: Process) -> None:
        super().check(process)
        if self.brownian:
            needs_one_level(process)
        if self.eta < 1 and isinstance(process, Jump):
            raise UsageProblem(f"eta is {self.eta}, but tokens that jump have one chain only; take eta 1")
        if not self._plain and not isinstance(process, Gaussian):
            raise UsageProblem(
                f"variance {self.variance!r} needs a Gaussian process; this model's is {type(process).__name__}"
            )

    def init(self, denoise: Denoise, x: Tensor, points: Sequence[Point]) -> Noise | None:
        """The one path, or None: every step then samples its law."""
        self.fits(len(points) - 1)
        return one_path(self.eta, points) if self.brownian else None

    def step(
        self, denoise: Denoise[Process], x: Tensor, t: Point, s: Point, state: Noise | None, rng: Rng
    ) -> tuple[Tensor, Noise | None]:
        guess = denoise(x, t)
        law = self.law(denoise.process, guess, x, t, s, rng=rng)
        if s.is_clean:
            return law.draw(rng), state
        if state is None:
            return law.sample(rng), None
        return plus(law.mean, law.std, state.standard(law.mean, t, s, rng)), state  # type: ignore[attr-defined]

    def law(self, process: Process, guess: Law, xt: Tensor, t, s, before=None, rng: Rng | None = None) -> Law:
        """p(x_s | x_t). Where s is clean data the small variance is 0, so the bound's decoder takes the next step's,
        from `before` to t, in its place."""
        if not isinstance(process, Gaussian):
            return process.reverse_law(guess, xt, t, s, self.eta, rng)
        x0, eps = guess.draw(rng), None  # type: ignore[arg-type]
        if self.keep_eps and isinstance(guess, Estimate) and guess.unclipped is not None:
            eps = process.noise(xt, guess.unclipped, t)
        law = process.posterior(xt, x0, t, s, self.eta, eps)
        if self._plain and (before is None or not process.at(s, xt).is_clean):
            return law
        return replace(law, std=self._std(process, guess, xt, t, s, before))

    def _std(self, process: Gaussian, guess: Law, xt: Tensor, t, s, before) -> Scalar:
        t, s = process.at(t, xt), process.at(s, xt)
        fresh = decay(t, s)
        small, large = s.sigma**2 * fresh, t.sigma**2 * fresh
        if self.variance == "optimal":
            if not isinstance(guess, Estimate) or guess.variance is None:
                raise UsageProblem(
                    "the optimal variance needs a denoiser that knows Var[x_0 | x_t]; choose small or large"
                )
            return sqrt(small + (s.alpha * fresh) ** 2 * guess.variance.double())
        if self.variance == "learned":
            if not isinstance(guess, Estimate) or guess.fraction is None:
                raise UsageProblem("this model has no learned variances; choose variance small or large")
            fraction = guess.fraction.double()
        else:
            fraction = self.mix if self.mix is not None else float(self.variance == "large")
        if before is not None and s.is_clean:
            small = t.sigma**2 * decay(process.at(before, xt), t)
            large = small if self.variance == "large" else large  # DDPM's fixedlarge decodes with it too
        return sqrt(small ** (1 - fraction) * large**fraction)


@dataclass(frozen=True)
class DDIM(Ancestral):
    """The ancestral step with eta = 0 by default: deterministic, invertible, good at few steps (2010.02502)."""

    name: ClassVar[str] = "ddim"
    eta: float = 0.0
