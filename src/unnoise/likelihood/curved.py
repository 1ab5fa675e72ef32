r"""The density of the probability flow on a manifold: dx/dtau = -score / 2 carries data to the uniform law (2202.02763), and

    log p(x_0) = -log volume - (1/2) int div score dtau

with the Riemannian divergence. The clock u runs evenly in log tau, where neither rate has a scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem
from ..manifolds import divergence as divergence_of
from ..processes.curved import Curved
from ..rng import Rng
from . import ode
from .flow import SOLVERS, check_flow, probes_for

START = 1e-3
"""Where the flow begins, if nothing else is said: the published time."""


@torch.no_grad()
def curved_flow_nats(
    denoiser: Denoiser[Curved],
    x: Tensor,
    rng: Rng,
    cond: Cond = None,
    *,
    solver: str = "adaptive",
    steps: int = 100,
    tolerance: float = 1e-5,
    divergence: str = "auto",
    probes: int = 1,
    start: float | None = None,
) -> tuple[Tensor, Tensor]:
    """-log p(x), nats (batch,) by the Riemannian measure, float64, of points x (batch, ambient); and the evaluations.

    The flow begins at t = `start`, where the density is that of data which Brownian motion blurred for tau(start).
    """
    check_flow(solver, steps, tolerance, divergence, probes)
    start = START if start is None else start
    if not 0 < start < 1:
        raise UsageProblem(f"start is {start}, but must lie between 0 (data) and 1 (noise)")
    process, manifold = denoiser.process, denoiser.process.manifold
    process.prior(x.shape)  # which refuses data of another manifold
    bottom, top = process.points([start, 1.0])
    span = math.log(top.tau / bottom.tau)
    begin = manifold.project(x.double())
    random = probes_for(begin, divergence, probes, rng)

    def field(u: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        tau = bottom.tau * torch.exp(span * u)
        at, t = manifold.project(y[:, :-1]), process.time(tau)
        own = None if cond is None else {name: value[rows] for name, value in cond.items()}
        along = manifold.frame(at) if random is None else random[:, rows]
        score, spread = divergence_of(manifold, lambda z: denoiser(z, t, own).score, at, along)  # type: ignore[union-attr]
        spread = spread if random is None else spread / len(random)
        return -span / 2 * tau[:, None] * torch.cat([score, spread[:, None]], 1)

    y = torch.cat([begin, torch.zeros(len(x), 1).to(begin)], 1)
    table = SOLVERS[solver]
    y, calls = ode.adaptive(field, y, tolerance) if table is None else ode.fixed(field, table, y, steps)
    return manifold.log_volume - y[:, -1], calls
