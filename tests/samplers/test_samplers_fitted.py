"""Samplers as tables, and levels as a grid."""

import math

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.oracles import Mixture
from unnoise.processes import Gaussian
from unnoise.rng import stream
from unnoise.samplers import (
    DDIM,
    IPNDM,
    Adams,
    Ancestral,
    Churn,
    Euler,
    Fitted,
    Heun,
    Karras,
    Levels,
    LogSNR,
    SDEDPMSolverMultistep,
    UniPC,
    sample,
)
from unnoise.samplers.fitted import table
from unnoise.schedules import EDM, VE, LinearVP, Rectified

DATA = Mixture(torch.tensor([[-0.7, 0.1], [0.6, 0.5]]).double(), torch.tensor([[0.15, 0.2], [0.1, 0.25]]).double())
NOISE = torch.randn(8, 2, generator=stream(3), dtype=torch.float64)
ONE_GUESS = {
    "ddim": DDIM(),
    "euler": Euler(),
    "2m": Adams(2),
    "3m corrected": Adams(3, "v", "angle", corrector=True, scale=0.6),
    "to the end": Adams(3, "velocity", "rectified", last="extrapolate"),
    "unipc": UniPC(),
    "ipndm": IPNDM(),
}


def walk(step, grid, schedule):
    process = Gaussian(schedule)
    start = NOISE * process.prior((1,), grid(process)[0]).std
    return sample(DATA.denoiser(process), step, grid, NOISE.shape, start=start, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [EDM(), LinearVP(), VE(), Rectified()], ids=["EDM", "VP", "VE", "rectified"])
@pytest.mark.parametrize("name", ONE_GUESS)
def test_a_table_walks_as_its_sampler(name, schedule):
    """Zero corrections take the way of the table; the end is the sampler's own."""
    zeros = tuple((0.0,) * (i + 2) for i in range(6))
    expected = walk(ONE_GUESS[name], Karras(6, 0.05), schedule)
    found = walk(Fitted(ONE_GUESS[name], zeros), Karras(6, 0.05), schedule)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(walk(Fitted(ONE_GUESS[name]), Karras(6, 0.05), schedule), expected, atol=0, rtol=0)


def test_rows_of_ddim_in_closed_form():
    """x_s = sigma_s/sigma_t x + (1 - sigma_s/sigma_t) x_0 where alpha = 1: products of ratios."""
    process, grid = Gaussian(EDM()), Levels.of((80.0, 8.0, 2.0))
    rows = table(DDIM(), process, grid(process))
    expected = [[0.1, 0.9], [0.025, 0.225, 0.75], [0.0, 0.0, 0.0, 1.0]]
    for row, right in zip(rows, expected, strict=True):
        assert row == pytest.approx(right, abs=1e-12)


def test_corrections_are_added_to_the_rows():
    """One step: (0 + a) x_T + (1 + b) x_0, by hand."""
    process, grid = Gaussian(EDM()), Levels.of((5.0,))
    start = NOISE * 5.0
    one = torch.ones(8, 1, dtype=torch.float64)
    guess = DATA.estimate(start, one, 5 * one).mean
    found = walk(Fitted(DDIM(), ((0.01, -0.2),)), grid, process.schedule)
    torch.testing.assert_close(found, 0.01 * start + 0.8 * guess)


@pytest.mark.parametrize("step", [Heun(), Ancestral(), Churn(), SDEDPMSolverMultistep()])
def test_samplers_that_are_no_tables_are_refused(step):
    with pytest.raises(UsageProblem, match="is no table"):
        walk(Fitted(step, ((0.0, 0.0), (0.0, 0.0, 0.0))), Karras(2), EDM())


def test_another_number_of_steps_is_refused():
    with pytest.raises(UsageProblem, match="fitted to 1 steps, not to 2"):
        walk(Fitted(DDIM(), ((0.0, 0.0),)), Karras(2), EDM())
    with pytest.raises(UsageProblem, match="rows of 2, 3, 4"):
        Fitted(DDIM(), ((0.0,),))


def test_levels_are_the_noise_levels():
    levels = (80.0, 11.0, 0.7, 0.03)
    for schedule in (EDM(), LinearVP(), VE(0.001, 100.0), Rectified()):
        points = Levels.of(levels)(Gaussian(schedule))
        assert [p.ratio for p in points[:-1]] == pytest.approx(levels, rel=1e-6) and points[-1].is_clean
    two, even = (grid(Gaussian(EDM())) for grid in (Levels(9), LogSNR(9)))
    assert [p.ratio for p in two] == pytest.approx([p.ratio for p in even], rel=1e-12)
    between = [p.ratio for p in Levels(7, levels)(Gaussian(EDM()))[:-1]]
    assert between[::2] == pytest.approx(levels, rel=1e-12) and between[1] == pytest.approx(math.sqrt(80 * 11))
    assert Levels.of((1000.0, 1.0))(Gaussian(EDM()))[0].ratio == pytest.approx(80.0)  # the process ends there


@pytest.mark.parametrize("levels", [(), (1.0, 2.0), (1.0, 1.0), (1.0, 0.0), (float("nan"),), (float("inf"), 1.0)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(UsageProblem):
        Levels.of(levels or ()) if levels else Levels(3, ())
