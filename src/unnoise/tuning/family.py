"""The samplers a search begins with, and the search: many on few latents, few on many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..recipe import Sampling
from ..samplers import Adams, DPMSolver, DPMSolverPlus, Grid, Heun, Karras, LogSNR, Step, Straight
from .latents import Latents

VARIABLES = (("x0", "log-snr"), ("eps", "log-snr"), ("velocity", "rectified"), ("v", "log-snr"), ("v", "angle"))
"""What is extrapolated, in which coordinate (samplers/exponential.py)."""


def multistep(evaluations: int, scale: float) -> Iterator[Step]:
    """The multistep family of one guess a step: the variable, the terms, corrected or not."""
    for terms in (2, 3) if evaluations > 2 else (evaluations,):
        for variable, coordinate in VARIABLES:
            for corrector in (False, True):
                yield Adams(terms, variable, coordinate, corrector, scale=scale)


def grids(steps: int, scale: float) -> Iterator[Grid]:
    """Karras's rho and last level, even log-SNR, and powers of the straight path's time."""
    for low in (0.002, 0.02):
        yield Karras(steps, low)
        yield LogSNR(steps, low)
    yield Karras(steps, rho=4.0)
    for power in (1.0, 1.3, 1.6, 2.0):
        for size in (0.6, 1.0, 2.0):
            yield Straight(steps, power, size * scale)


def single(evaluations: int) -> Iterator[Sampling]:
    """Samplers with more than one guess a step, on the grid they are known for."""
    for step in (Heun(), DPMSolverPlus(), DPMSolver(2), DPMSolver()):
        found = Sampling(step, Karras()).within(evaluations)
        if found is not None and found.grid.steps > 1:
            yield found


def family(evaluations: int, scale: float) -> list[Sampling]:
    """Every candidate of so many evaluations, for data of standard deviation `scale`."""
    steps = list(multistep(evaluations, scale))
    found = [Sampling(step, grid) for grid in grids(evaluations, scale) for step in steps]
    return [*found, *single(evaluations)]


def rounds(latents: int, event: int) -> list[tuple[int, int]]:
    """(latents, samplers that stay) of each round: at first some hundred numbers, then four times as many, then all."""
    first = min(latents, max(8, -(-500 // event)))
    return [(first, 24), (min(latents, 4 * first), 6), (latents, 1)]


def screened(latents: Latents, candidates: Sequence[Sampling]) -> list[tuple[float, Sampling]]:
    """Errors and candidates, best first: those that came to the last round. Halving, as in tournaments."""
    left = list(candidates)
    found: list[tuple[float, Sampling]] = []
    schedule = rounds(len(latents), latents.noise[0].numel())
    for count, stay in schedule:
        some = latents.rows(slice(count))
        found = sorted(((some.error(sampling), sampling) for sampling in left), key=lambda pair: pair[0])
        left = [sampling for _, sampling in found[:stay]]
    return found


def work(latents: int, event: int, evaluations: int, candidates: int) -> int:
    """Guesses that `screened` makes, at most."""
    total = 0
    for count, stay in rounds(latents, event):
        total += count * candidates * evaluations
        candidates = min(candidates, stay)
    return total
