r"""The density that the probability-flow ODE gives to data, by the change of variables along it (2011.13456, sec. 4.3):

    log p(x_0) = log p_1(x_1) + int_0^1 div v(x_t, t) dt,      dx/dt = v = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) D(x, t)

The divergence of the linear part is known; only that of the denoiser D is computed: exactly, one product with its Jacobian
per dimension, or by Hutchinson's E[z^T J z] with probes z that each example keeps for its whole way.

Of a process that carries more than the data, the flow has the density of both; the rest of the state is drawn, and its own density
taken off: a bound, which more draws tighten (2112.07068).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..denoisers.denoiser import Cond, Denoiser
from ..errors import UsageProblem, unknown
from ..laws import sum_event
from ..rng import Rng
from ..tableaux import HEUN, RK4
from . import ode
from .clock import flow_clock

EXACT_UP_TO = 64
SOLVERS = {"adaptive": None, "heun": HEUN, "rk4": RK4}
DIVERGENCES = ("auto", "exact", "rademacher", "gaussian")


def probes_for(x: Tensor, divergence: str, probes: int, rng: Rng, stirred: Tensor | float = 1.0) -> Tensor | None:
    """Directions (probes, *x.shape) along which the divergence is measured; None: along every axis.

    `stirred`: 1 for the numbers of a state that the guess moves. Directions in the others would add noise and nothing else.
    """
    moved = int(stirred.sum()) if isinstance(stirred, Tensor) else x[0].numel()
    if divergence == "exact" or (divergence == "auto" and moved <= EXACT_UP_TO):
        return None
    if divergence == "gaussian":
        return rng.normal(probes, *x.shape[1:], dtype=x.dtype).to(x.device).transpose(0, 1) * stirred
    signs = 2 * rng.integers(2, probes, *x.shape[1:]) - 1
    return signs.to(x).transpose(0, 1) * stirred


def check_flow(solver: str, steps: int, tolerance: float, divergence: str, probes: int) -> None:
    """Refuses what no flow can be computed with."""
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if steps < 1 or not tolerance > 0:
        raise UsageProblem(f"a flow needs steps of 1 or more and a tolerance above 0, not {steps} and {tolerance:g}")
    if divergence not in DIVERGENCES:
        raise UsageProblem(f"divergence is {divergence!r}, but takes {', '.join(DIVERGENCES)}")
    if probes < 1:
        raise UsageProblem(f"probes is {probes}, but the divergence needs at least 1")


def velocity_and_divergence(
    denoiser: Denoiser, x: Tensor, t: Tensor, point: Any, cond: Cond, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dx/dt along the flow, and its divergence for each example, (batch,)."""
    process, n = denoiser.process, x[0].numel()
    axes = torch.eye(n, dtype=x.dtype, device=x.device)[process.stirred(x).flatten() > 0]
    directions = axes.reshape(-1, 1, *x.shape[1:]) if probes is None else probes
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    with torch.enable_grad():
        x = x.detach()
        given = x.clone().requires_grad_()
        velocity = process.velocity(x, denoiser(given, t, cond).mean, point)  # differentiated through the guess alone
        for i, z in enumerate(directions):
            keep = i + 1 < len(directions)
            (pulled,) = torch.autograd.grad(velocity, given, z.expand_as(velocity), keep, materialize_grads=True)
            total += sum_event(pulled * z).double()
    of_guess = total if probes is None else total / len(probes)
    return velocity.detach(), process.expansion(point, x) + of_guess


@torch.no_grad()
def flow_nats(
    denoiser: Denoiser,
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
    """-log p(x), nats (batch,), float64, of data x (batch, *event); and the evaluations each example took.

    The flow begins at `start` (see `flow_clock`), where the density is that of data blurred by sigma/alpha. Raises UsageProblem
    for processes without a flow, Problem where the flow breaks down.
    """
    check_flow(solver, steps, tolerance, divergence, probes)
    process = denoiser.process
    ticking = flow_clock(process, start)
    bottom, top = process.points([ticking.low, ticking.high])
    begin, log_q = process.opening(x, bottom, rng)
    directions = probes_for(begin, divergence, probes, rng, process.stirred(begin))
    shape = begin.shape[1:]

    def field(u: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        state = y[:, :-1].reshape(-1, *shape)
        t, point, dt = ticking.at(u, state)
        own = None if cond is None else {name: value[rows] for name, value in cond.items()}
        chosen = None if directions is None else directions[:, rows]
        velocity, change = velocity_and_divergence(denoiser, state, t, point, own, chosen)
        return torch.cat([(velocity * dt).reshape(len(state), -1), (change * dt.flatten())[:, None]], 1)

    y = torch.cat([begin.reshape(len(x), -1), torch.zeros(len(x), 1).to(begin)], 1)
    table = SOLVERS[solver]
    y, calls = ode.adaptive(field, y, tolerance) if table is None else ode.fixed(field, table, y, steps)
    end = y[:, :-1].reshape_as(begin)
    prior = process.prior(x.shape, top)
    at_noise = replace(prior, mean=prior.mean.to(end)).log_prob(end)  # type: ignore[type-var]
    return log_q - at_noise - y[:, -1], calls
