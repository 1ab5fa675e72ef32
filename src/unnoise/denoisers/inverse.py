r"""Linear inverse problems, y = A x_0 + noise: inpainting, colourisation, enlargement, any linear A. No training is needed.

If x_0 given x_t were normal, with the denoiser's mean and a covariance C, its mean given y as well would be Kalman's,

    x_0_guess + C A^T (A C A^T + std^2)^-1 (y - A x_0_guess),

so a problem is solved by a denoiser in, a denoiser out, with every sampler. There are two choices of C:

    equal      C = c I, c = v sigma^2 / (alpha^2 v + sigma^2). Exact for data N(m, v I), otherwise an approximation. Without noise
               it is the projection x_0_guess + A^+ (y - A x_0_guess) (2212.00490). The walk then holds the measured
               part of its state at alpha y + sigma eps, eps its own noise, and that is score-sde's imputation
               (2011.13456), which draws this noise afresh instead: `imputation`.
    jacobian   C = sigma^2 / alpha dx_0_guess/dx_t, Tweedie's formula for Cov[x_0 | x_t] (2310.06721). Exact for any normal data,
               otherwise an approximation, though one to which what was measured tells of the rest. Each of the
               `iterations` of conjugate gradients is a pass backwards through the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageProblem, unknown
from ..laws import Estimate, sum_event
from ..processes import Gaussian, Identity
from ..rng import Rng
from ..scalars import column, times
from ..spaces.space import in_data
from .denoiser import Cond, Denoiser
from .guidance import Guidance, Guided, moved, needs_gaussian

Operator = Callable[[Tensor], Tensor]
COVARIANCES = ("equal", "jacobian")


@dataclass(frozen=True)
class Measurement:
    """y = A x_0 + std N(0, I), of one image for a whole batch (y of length 1) or of one for each example.

    `operator` is A, any linear function of a batch that torch can differentiate; its transpose and pseudo-inverse follow.
    """

    y: Tensor
    operator: Operator
    std: float = 0.0

    def __post_init__(self) -> None:
        if self.std < 0:
            raise UsageProblem(f"the noise of a measurement has standard deviation {self.std}, but must have 0 or more")

    def residual(self, x0: Tensor) -> Tensor:
        """y - A x_0. Raises UsageProblem where they do not fit together."""
        measured, y = self.operator(x0), self.y.to(x0)
        if y.shape[1:] != measured.shape[1:] or len(y) not in (1, len(x0)):
            raise UsageProblem(
                f"measurements of shape {tuple(y.shape)} do not fit a batch whose own are {tuple(measured.shape)}; "
                "give one for all, or one for each"
            )
        return y - measured

    def adjoint(self, like: Tensor) -> Operator:
        """A^T, for data like these. Raises UsageProblem for an A that is not linear."""
        with torch.enable_grad():
            x = torch.zeros_like(like).requires_grad_()
            y = self.operator(x)
        if bool(y.any()):
            raise UsageProblem("the operator of a measurement must be linear, and this one does not send 0 to 0")
        return lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0]


def inpainting(image: Tensor, known: Tensor) -> Measurement:
    """The pixels of `image` (1 or batch, channel, height, width) where `known` is true; it broadcasts to the image."""
    if not known.any() or known.all():
        raise UsageProblem("a mask must leave something to paint and something to go by; this one does not")
    return Measurement(image * known.to(image), lambda x: x * known.to(x))


def colourisation(image: Tensor) -> Measurement:
    """The grey of an image, the mean of its three channels: one axis of score-sde's decoupling, whatever the other two."""
    if image.shape[1] != 3:
        raise UsageProblem(f"only images of three channels can be given colour, not of {image.shape[1]}")
    return Measurement(grey(image), grey)


def grey(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)


def enlargement(image: Tensor, factor: int) -> Measurement:
    """The means of squares of `factor` pixels: an image that was shrunk."""
    if factor < 2:
        raise UsageProblem(f"the factor of an enlargement is {factor}, but must be 2 or more")
    return Measurement(image, lambda x: F.avg_pool2d(x, factor))


def measured(
    measurement: Measurement,
    covariance: Literal["equal", "jacobian"] = "equal",
    iterations: int = 3,
    variance: float = 0.25,
) -> Guidance:
    """The guess that also knows a measurement: see the head of this file for what is exact, and when.

    covariance   equal (one call of the network) or jacobian (and `iterations` passes backwards).
    iterations   of conjugate gradients with the jacobian; for `equal` there are as many as it takes (1 where the rows of A
                 are orthogonal and of one length, as those of masks, grey and means of squares are).
    variance     v, of the data; it matters where there is noise, for `equal`.

    Measurements without noise are met exactly in every guess, whatever the iterations. Where no signal is left (alpha = 0)
    the Jacobian is 0 / 0, and `equal` is taken.
    """
    if covariance not in COVARIANCES:
        raise unknown("covariance", covariance, COVARIANCES)
    if iterations < 1:
        raise UsageProblem(f"iterations is {iterations}, but conjugate gradients take 1 or more")

    def rule(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond) -> Estimate:
        process: Gaussian = denoiser.process  # type: ignore[assignment]
        point = process.at(t, xt)
        if covariance == "equal" or not bool(torch.as_tensor(point.alpha > 0).all()):
            estimate: Estimate = denoiser(xt, t, cond)  # type: ignore[assignment]
            spread = variance * point.sigma**2 / (point.alpha**2 * variance + point.sigma**2)
            return kalman(estimate, measurement, lambda v: times(spread, v))
        with torch.enable_grad():
            x = xt.detach().requires_grad_()
            estimate = denoiser(x, t, cond)  # type: ignore[assignment]
        mean, reach = estimate.mean, point.sigma**2 / point.alpha

        def tweedie(v: Tensor) -> Tensor:
            (pulled,) = torch.autograd.grad(mean, x, v, retain_graph=True)
            return process.data(times(reach, pulled))

        estimate = kalman(detached(estimate), measurement, tweedie, iterations)
        if measurement.std:
            return estimate
        return kalman(estimate, measurement, lambda v: v)  # what the iterations left over

    def guide(denoiser: Denoiser) -> Denoiser:
        needs_gaussian(denoiser, "a measurement")
        in_data(denoiser, "a measurement")
        return Guided(denoiser, rule)

    return guide


def kalman(estimate: Estimate, measurement: Measurement, covariance: Operator, iterations: int = 50) -> Estimate:
    """The mean given y, for a covariance given as a function: C A^T (A C A^T + std^2)^-1 (y - A x_0) is added."""
    operator, back = measurement.operator, measurement.adjoint(estimate.mean)

    def of_residual(v: Tensor) -> Tensor:
        return operator(covariance(back(v))) + measurement.std**2 * v

    solution = conjugate_gradients(of_residual, measurement.residual(estimate.mean), iterations)
    return moved(estimate, covariance(back(solution)))


def conjugate_gradients(apply: Operator, b: Tensor, iterations: int) -> Tensor:
    """The solution of apply(x) = b, symmetric and not negative, each example by itself; of least norm where there are many.

    An example stops at a residual of rounding size, or where `apply` turns out not to be positive.
    """
    x, r, p = torch.zeros_like(b), b, b
    size = squared(b)
    enough = size * (8 * torch.finfo(b.dtype).eps) ** 2
    going = size > 0
    for _ in range(iterations):
        if not bool(going.any()):
            break
        q = apply(p)
        curvature = sum_event(p * q)
        going = going & (curvature > 0)
        step = column(torch.where(going, size / curvature, 0.0), b)
        x, r = x + step * p, r - step * q
        before, size = size, squared(r)
        going = going & (size > enough)
        p = r + torch.where(going, size / before, 0.0).reshape(step.shape) * p
    return x


def squared(x: Tensor) -> Tensor:
    return sum_event(x * x)


def detached(estimate: Estimate) -> Estimate:
    fraction, unclipped = (None if v is None else v.detach() for v in (estimate.fraction, estimate.unclipped))
    return Estimate(estimate.mean.detach(), fraction=fraction, unclipped=unclipped)


def imputation(measurement: Measurement, rng: Rng) -> Guidance:
    r"""score-sde's imputation: before each call the measured part of the state is set to alpha y + sigma A z, z fresh.

    For A with orthogonal rows, a mask or grey, and any solver that is elementwise, this is the published algorithm, which
    sets that part after each step. An approximation wherever what is measured and what is not depend on each other. `rng` has
    a stream for each example. Solvers that assume a smooth guess (multistep, adaptive) lose their order by fresh noise.
    """

    def rule(denoiser: Denoiser, xt: Tensor, t: Tensor, cond: Cond) -> Estimate:
        process: Gaussian = denoiser.process  # type: ignore[assignment]
        if not isinstance(process.basis, Identity):
            raise UsageProblem(
                "imputation needs one noise level for all; take `measured` for a process in another basis"
            )
        if len(rng) != len(xt):
            raise UsageProblem(f"imputation was given {len(rng)} streams of noise for {len(xt)} examples")
        point = denoiser.process.at(t, xt)  # type: ignore[attr-defined]
        noised = times(point.alpha, measurement.y.to(xt)) + times(
            point.sigma, measurement.operator(rng.normal_like(xt))
        )
        at_t = kalman(Estimate(xt), Measurement(noised, measurement.operator), lambda v: v).mean
        return kalman(denoiser(at_t, t, cond), measurement, lambda v: v)  # type: ignore[arg-type]

    def guide(denoiser: Denoiser) -> Denoiser:
        needs_gaussian(denoiser, "imputation")
        if not isinstance(denoiser.process.basis, Identity):
            raise UsageProblem(
                "imputation needs one noise level for all; take `measured` for a process in another basis"
            )
        return Guided(denoiser, rule)

    return guide
