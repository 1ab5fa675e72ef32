r"""The linear process: data beside k - 1 auxiliary variables that begin as noise, all moved by one linear SDE.

    du = A u dB + Q^(1/2) dw,   B(t) = int_0^t beta,   u_0 = (x_0, a_0) + noise,   Cov = C_0
    u_t | u_s ~ N(Phi u_s, N),   Phi(B) = e^{A B},   N(B) = int_0^B e^{A r} Q e^{A^T r} dr,   B = B(t) - B(s)
    u_t | x_0 ~ N(c x_0, S),     c = Phi e_1,   S = Phi C_0 Phi^T + N

The auxiliary variables are never conditioned on: their beginning is part of the noise (the *hybrid* kernel of 2112.07068). So
score and guess are one thing, score = -S^-1 (u - c E[x_0 | u]), and whatever guesses x_0 has a flow, reverse SDEs, a posterior.
Where Q does not reach a part, neither does the score: for 2112.07068 only that of the velocity is asked for.

About x_0, u_t says as much as c^T S^-1 u_t, one Gaussian observation of signal-to-noise ratio c^T S^-1 c.
N is a sum of positive terms (Gauss-Legendre): it keeps all its digits however small B is, where closed forms cancel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageProblem
from ..laws import Correlated, mixed
from ..rng import Rng
from .base import Diffusion

LONG = 8.0


@cache
def _gauss_legendre(count: int = 32) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((1 + nodes) / 2), torch.from_numpy(weights / 2)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A time, or one for each example, with what was said above: the clock B, beta, c (..., k) and S (..., k, k), float64."""

    t: float | Tensor
    clock: Tensor
    beta: Tensor
    gain: Tensor
    covariance: Tensor

    @property
    def is_clean(self) -> bool:
        return not isinstance(self.t, Tensor) and self.t == 0

    @property
    def alpha(self) -> Tensor:
        """The signal of the data part."""
        return self.gain[..., 0]

    @property
    def precision(self) -> Tensor:
        """S^-1."""
        return torch.linalg.inv(self.covariance)

    @property
    def snr(self) -> Tensor:
        """c^T S^-1 c."""
        return torch.einsum("...i,...ij,...j->...", self.gain, self.precision, self.gain)

    def over(self, x: Tensor) -> Tensor:
        """The time of a point that all share, once for each example of x: (batch,), float64."""
        return torch.full((len(x),), float(self.t), dtype=torch.float64, device=x.device)


def root(matrix: Tensor) -> Tensor:
    """Lower triangular L of a positive semidefinite matrix (..., k, k) = L L^T; columns of zeros where nothing is left."""
    k = matrix.shape[-1]
    columns: list[Tensor] = []
    for j in range(k):
        left = matrix[..., :, j] - sum((c * c[..., j : j + 1] for c in columns), torch.zeros_like(matrix[..., :, j]))
        pivot = left[..., j].clamp(min=0).sqrt()[..., None]
        column = torch.where(pivot > 0, left / torch.where(pivot > 0, pivot, 1), 0)
        columns.append(torch.where(torch.arange(k, device=matrix.device) >= j, column, 0))
    return torch.stack(columns, -1)


def _along(vector: Tensor, x: Tensor) -> Tensor:
    """A vector (k,) or (batch, k) times data x (batch, *event): a state (batch, k, *event), in the type of x."""
    shape = (*vector.shape[:-1], *[1] * (2 - vector.ndim), vector.shape[-1], *[1] * (x.ndim - 1))
    return vector.to(x).reshape(shape) * x[:, None]


class LinearSDE(Diffusion):
    """See the head of the file. The state is (batch, k, *event), the data its first part.

    drift A and spread Q (k, k), Q diagonal: dw moves each part by itself; start: C_0 (k, k); beta: its values at t = 0 and
    t = 1, linear between. Raises UsageProblem for a drift that does not come to rest, and for noise that parts share.
    """

    drift: Tensor
    spread: Tensor
    start: Tensor

    def __init__(self, drift: Tensor, spread: Tensor, start: Tensor, beta: tuple[float, float] = (4.0, 4.0)):
        super().__init__()
        for name, value in (("drift", drift), ("spread", spread), ("start", start)):
            self.register_buffer(name, value.double(), persistent=False)
        if not min(beta) > 0:
            raise UsageProblem(f"beta is {beta[0]:g} to {beta[1]:g}, but must be positive")
        if not drift.is_meta and float(torch.linalg.eigvals(drift).real.max()) >= 0:
            raise UsageProblem("this drift does not come to rest: every eigenvalue must have a negative real part")
        if not drift.is_meta and not torch.equal(spread, torch.diag(spread.diagonal())):
            raise UsageProblem("this spread is noise that parts share; give a diagonal one")
        self.beta = beta

    # Matrices of a stretch B of the clock, (...) -> (..., k, k).

    def flow(self, clock: Tensor, drift: Tensor | None = None) -> Tensor:
        """Phi(B) = e^{A B}."""
        return torch.matrix_exp((self.drift if drift is None else drift) * clock[..., None, None])

    def noise(self, clock: Tensor, drift: Tensor | None = None) -> Tensor:
        """N(B) = int_0^B e^{A r} Q e^{A^T r} dr; of a long stretch, what is missing from rest, S - Phi S Phi^T."""
        nodes, weights = (a.to(clock) for a in _gauss_legendre())
        long = clock * torch.linalg.matrix_norm(self.drift) > LONG
        moved = self.flow(clock.masked_fill(long, 0.0)[..., None] * nodes, drift)
        added = (weights[:, None, None] * (moved @ self.spread @ moved.mT)).sum(-3)
        flow, rest = self.flow(clock, drift), self.equilibrium
        left = rest - flow @ rest @ flow.mT
        return torch.where(long[..., None, None], left, added * clock[..., None, None])

    @property
    def equilibrium(self) -> Tensor:
        """The covariance at rest: A S + S A^T + Q = 0."""
        k = len(self.drift)
        one = torch.eye(k, dtype=torch.float64, device=self.drift.device)
        system = torch.kron(self.drift, one) + torch.kron(one, self.drift)
        return torch.linalg.solve(system, -self.spread.flatten()).reshape(k, k)

    @property
    def returning(self) -> Tensor:
        """The drift of the process seen backwards at rest, S A^T S^-1."""
        rest = self.equilibrium
        return rest @ self.drift.T @ torch.linalg.inv(rest)

    # Times.

    def kernel(self, t: Tensor) -> Kernel:
        """Of times (n,), or of one; computed once for each that differs."""
        times, place = t.unique(return_inverse=True)
        low, high = self.beta
        clock = times * (low + (high - low) * times / 2)
        flow = self.flow(clock)
        covariance = flow @ self.start.to(t) @ flow.mT + self.noise(clock)
        return Kernel(t, clock[place], low + (high - low) * t, flow[..., 0][place], covariance[place])

    def points(self, times: Sequence[float] | Tensor) -> list[Kernel]:
        t = torch.as_tensor(times, dtype=torch.float64)
        all_ = self.kernel(t)
        rows = zip(t.tolist(), all_.clock, all_.beta, all_.gain, all_.covariance, strict=True)
        return [Kernel(*row) for row in rows]

    def at(self, t: Tensor | Kernel, x: Tensor | None = None) -> Kernel:
        """The kernel at times t (batch,); a point is passed through."""
        return t if isinstance(t, Kernel) else self.kernel(t.double())

    with_derivatives = at  # beta is there already

    # Laws.

    def state(self, x0: Tensor) -> Tensor:
        return torch.stack([x0, *[torch.zeros_like(x0)] * (len(self.drift) - 1)], 1)

    def data(self, xt: Tensor) -> Tensor:
        return xt[:, 0]

    def prior(self, shape: Sequence[int], t=None) -> Correlated:
        """N(0, S) at rest."""
        return Correlated(torch.zeros(shape[0], len(self.drift), *shape[1:]), root(self.equilibrium))

    def marginal(self, x0: Tensor, t: Tensor | Kernel) -> Correlated:
        point = self.at(t)
        return Correlated(_along(point.gain, x0), root(point.covariance))

    def transition(self, xs: Tensor, s: Tensor | Kernel, t: Tensor | Kernel) -> Correlated:
        """q(u_t | u_s) for s < t."""
        clock = self.at(t).clock - self.at(s).clock
        return Correlated(mixed(self.flow(clock), xs), root(self.noise(clock)))

    def relaxed(self, xt: Tensor, t: Kernel, s: Kernel) -> Correlated:
        """The law of u_s given u_t where the process was at rest at all times: du = S A^T S^-1 u dB + Q^(1/2) dw, backwards."""
        clock = t.clock - s.clock
        return Correlated(mixed(self.flow(clock, self.returning), xt), root(self.noise(clock, self.returning)))

    def posterior(self, xt: Tensor, x0: Tensor, t: Tensor | Kernel, s: Tensor | Kernel, eta: float = 1.0) -> Correlated:
        """q(u_s | u_t, x_0). eta 0: c_s x_0 + L_s L_t^-1 (u_t - c_t x_0), of the same marginals, with S = L L^T."""
        if eta not in (0.0, 1.0):
            raise UsageProblem(f"eta is {eta}, but in a {type(self).__name__} process it is 0 or 1")
        t, s = self.at(t), self.at(s)
        centred = xt - _along(t.gain, x0)
        if eta == 0:
            keep = root(s.covariance) @ torch.linalg.inv(root(t.covariance))
            left = torch.zeros_like(keep)
        else:
            flow, fresh = self.flow(t.clock - s.clock), self.noise(t.clock - s.clock)
            keep = s.covariance @ flow.mT @ t.precision
            rest = torch.eye(len(self.drift)).to(keep) - keep @ flow
            left = root(rest @ s.covariance @ rest.mT + keep @ fresh @ keep.mT)
        return Correlated(_along(s.gain, x0) + mixed(keep, centred), left)

    def observation(self, xt: Tensor, t: Tensor | Kernel) -> tuple[Tensor, Tensor]:
        """y and its std, (batch,) or one number, float64: u_t says of x_0 what y = x_0 + std eps does, and no more."""
        point = self.at(t)
        snr = point.snr
        weight = (point.precision @ point.gain[..., None])[..., 0] / snr[..., None]
        return mixed(weight[..., None, :], xt.double())[:, 0], snr.rsqrt()

    # Dynamics.

    def score(self, xt: Tensor, x0: Tensor, t: Tensor | Kernel) -> Tensor:
        """grad log p(u_t), for the guess x_0: -S^-1 (u - c x_0), of the shape of the state."""
        point = self.at(t)
        return _along((point.precision @ point.gain[..., None])[..., 0], x0) - mixed(point.precision, xt)

    def reverse(self, xt: Tensor, x0: Tensor, t: Tensor | Kernel, noise: float) -> Tensor:
        point = self.at(t)
        pull = (1 + noise**2) / 2 * self.spread @ point.precision
        return self._moved(point, self.drift + pull, -(pull @ point.gain[..., None])[..., 0], xt, x0)

    def excess(self, xt: Tensor, x0: Tensor, t: Tensor | Kernel) -> Tensor:
        """What data add to the reverse SDE of a process at rest: beta Q (score + S^-1 u), S that of rest."""
        point = self.at(t)
        pull = self.spread @ point.precision
        toward = (pull @ point.gain[..., None])[..., 0]
        return self._moved(point, self.spread @ torch.linalg.inv(self.equilibrium) - pull, toward, xt, x0)

    def _moved(self, point: Kernel, on_state: Tensor, on_data: Tensor, xt: Tensor, x0: Tensor) -> Tensor:
        """beta (on_state u + on_data x_0)."""
        beta = point.beta[..., None]
        return mixed(beta[..., None] * on_state, xt) + _along(beta * on_data, x0)

    def diffusion(self, t: Tensor | Kernel, xt: Tensor) -> Tensor:
        """g = (beta Q)^(1/2), 0 for the parts that no noise enters."""
        g = (self.at(t).beta[..., None] * self.spread.diagonal()).sqrt()
        return g.reshape(*g.shape[:-1], *[1] * (2 - g.ndim), g.shape[-1], *[1] * (xt.ndim - 2))

    def stirred(self, xt: Tensor) -> Tensor:
        return (self.spread.diagonal() > 0).to(xt).reshape(1, -1, *[1] * (xt.ndim - 2)).expand_as(xt[:1])

    def expansion(self, t: Tensor | Kernel, xt: Tensor) -> Tensor:
        point = self.at(t)
        trace = (self.drift + self.spread @ point.precision / 2).diagonal(dim1=-2, dim2=-1).sum(-1)
        return (point.beta * trace * xt[0, 0].numel()).expand(len(xt))

    def opening(self, x: Tensor, t: Kernel, rng: Rng) -> tuple[Tensor, Tensor]:
        """What the auxiliary variables may be where u_t says x of the data, drawn; of data blurred by snr^(-1/2)."""
        law = self.marginal(x.double(), t)
        drawn = law.sample(rng)
        y, std = self.observation(drawn, t)
        state = drawn + _along(t.gain, x.double() - y)
        return state, law.log_prob(state) + x[0].numel() * (std.log() + 0.5 * math.log(2 * math.pi))
