"""Parts that do not go together are refused when they are put together, in a sentence that says what to do."""

import math

import pytest
import torch

from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.oracles import gaussian
from unnoise.papers.dpm_solver import DPMSolver as Recipe
from unnoise.papers.seeds import SEEDS as SeedsRecipe
from unnoise.processes import Blur, Cold, Gaussian
from unnoise.recipe import Sampling
from unnoise.samplers import (
    DDIM,
    DEIS,
    FON,
    IPNDM,
    PNDM,
    RK45,
    SEEDS,
    Adams,
    Ancestral,
    AnnealedLangevin,
    Churn,
    DPMSolver,
    DPMSolverFast,
    DPMSolverMultistep,
    DPMSolverPlus,
    EulerMaruyama,
    Flow,
    Heun,
    Integers,
    Karras,
    LogSNR,
    Quadratic,
    SDEDPMSolverMultistep,
    SingleStep,
    Uniform,
    UniPC,
    sample,
)
from unnoise.schedules import EDM, Schedule


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Adams(0), "1 to 4 guesses"),
        (lambda: Adams(5), "1 to 4 guesses"),
        (lambda: Adams(2, "score"), "unknown variable 'score'"),
        (lambda: Adams(2, "x0", "sigma"), "unknown coordinate 'sigma'"),
        (lambda: Adams(2, corrector=True, eta=1.0), "deterministic step"),
        (lambda: Adams(2, "eps", "steps", corrector=True), "deterministic step"),
        (lambda: UniPC(formula="bh3"), "unknown formula 'bh3'"),
        (lambda: DEIS(2, coordinate="time", formula="bh2"), "belongs to x0 or eps in log-snr"),
        (lambda: Adams(2, "v", formula="published"), "belongs to x0 or eps in log-snr"),
        (lambda: Adams(last="noise"), "unknown last step"),
        (lambda: DPMSolverMultistep(eta=-1.0), "eta is -1"),
        (lambda: Adams(2, "v", scale=0.0), "scale is 0"),
        (lambda: SingleStep(4), "has 1, 2 or 3"),
        (lambda: DPMSolver(formula="midpoint"), "unknown formula"),
        (lambda: DPMSolver(coordinate="steps"), "coordinate steps belongs to multistep"),
        (lambda: DPMSolverPlus(coordinate="time"), "coordinate time belongs to multistep"),
        (lambda: DPMSolver(2, r1=1.5), "must lie within"),
        (lambda: DPMSolver(3, r2=0.7), "only with r2 = 2/3"),
        (lambda: DPMSolver(3, r1=2 / 3), "only with r2 = 2/3"),
        (lambda: DPMSolverFast(stages=2), "has 3 stages"),
        (lambda: DPMSolverFast(remainder=3), "remainder of 0, 1 or 2"),
        (lambda: DPMSolverFast.for_evaluations(2), "at least 3 evaluations"),
        (lambda: SEEDS(noise="uniform"), "unknown noise 'uniform'"),
        (lambda: SEEDS(noise="rademacher", brownian=True), "Brownian path are normal"),
        (lambda: DPMSolverMultistep(brownian=True), "at eta 0 a step draws no noise"),
        (lambda: DPMSolver(brownian=True), "at eta 0 a step draws no noise"),
        (lambda: DDIM(brownian=True), "at eta 0 a step draws no noise"),
        (lambda: EulerMaruyama(noise=0.0, brownian=True), "at noise 0 a step draws no noise"),
        (lambda: SEEDS(eta=0.0, brownian=True), "at eta 0 a step draws no noise"),
        (lambda: PNDM("G"), "unknown kind of PNDM 'G'"),
        (lambda: Flow("x0", "log"), "unknown coordinate"),
        (lambda: Churn(DPMSolverMultistep()), "cannot be within it"),
        (lambda: Churn(PNDM()), "cannot be within it"),
        (lambda: Churn(s_churn=-5.0), "s_churn is -5"),
        (lambda: Churn(s_min=2.0, s_max=1.0), "s_min is 2.0 and s_max 1.0"),
        (lambda: RK45(most=0), "most is 0"),
        (lambda: Karras(5, rho=0.0), "rho is 0"),
        (lambda: Karras(5, sigma_max=200.0)(Gaussian(EDM())), "within the 80 of this model"),
        (lambda: LogSNR(5, sigma_max=-1.0)(Gaussian(EDM())), "sigma_max is -1"),
        (lambda: Uniform(5, start=1.5), "start is 1.5"),
        (lambda: Quadratic(5, start=2.0), "start is 2.0"),
        (lambda: Integers(5, start=0.0), "start is 0.0"),
        (lambda: Sampling(guidance=math.nan), "guidance is nan"),
        (lambda: Sampling(guidance=math.inf), "guidance is inf"),
        (lambda: Sampling(classifier=math.nan), "classifier is nan"),
        (lambda: Churn(UniPC(1)), "cannot be within it"),
        (lambda: Churn(SEEDS()), "cannot be within it"),
        (lambda: Churn(RK45()), "cannot be within it"),
        (lambda: Churn(AnnealedLangevin()), "cannot be within it"),
        (lambda: Recipe(order=3, evaluations=2), "take 3 steps or more"),
        (lambda: Recipe(method="fast"), "of order 3, not 2"),
        (lambda: Recipe(method="fast", order=3, evaluations=2), "at least 3 evaluations"),
        (lambda: Recipe(method="singlestep", order=3, evaluations=3), "cost more than 3"),
        (lambda: Recipe(method="adaptive", order=1), "order 2 or 3"),
        (lambda: Recipe(method="adaptive", algorithm="sde-dpm-solver++"), "no noise"),
        (lambda: SeedsRecipe(s_churn=10.0), "leave s_churn at 0"),
    ],
)
def test_when_a_sampler_is_built(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()


@pytest.mark.parametrize("inner", [DPMSolver(3), DPMSolverPlus(), Heun(), PNDM("RK"), DPMSolverMultistep(1)], ids=str)
def test_churn_goes_with_steps_that_stand_alone(inner):
    denoiser = gaussian(torch.zeros(2).double(), 0.25).denoiser(Gaussian(EDM()))
    x = sample(denoiser, Churn(inner), Karras(30), (100, 2), dtype=torch.float64)
    assert float(x.var()) == pytest.approx(0.25, rel=0.4)


@pytest.mark.parametrize(
    "step, least",
    [
        (DPMSolverMultistep(3), 3),
        (SDEDPMSolverMultistep(), 2),
        (IPNDM(), 4),
        (UniPC(3), 3),
        (PNDM(), 4),
        (PNDM("S"), 2),
        (FON(), 4),
        (PNDM("RK"), 1),
        (DPMSolverFast(remainder=0), 3),
        (DPMSolverFast(remainder=1), 2),
        (Churn(DPMSolverFast(remainder=0)), 3),
        (DPMSolver(3), 1),
    ],
    ids=str,
)
def test_a_walk_too_short_for_its_order(step, least):
    """When step and grid meet, and again when a walk begins on a grid of one's own."""
    denoiser = gaussian(torch.zeros(2).double(), 0.25).denoiser(Gaussian(EDM()))
    for steps in range(1, least):
        with pytest.raises(UsageProblem, match=f"take {least} steps or more"):
            Sampling(step, Karras(steps))
        with pytest.raises(UsageProblem, match=f"take {least} steps or more"):
            sample(denoiser, step, lambda p: Karras(steps)(p), (1, 2))  # noqa: B023
    assert Sampling(step, Karras(least)).step is step
    assert sample(denoiser, step, Karras(least), (1, 2)).isfinite().all()


def test_a_brownian_path_needs_a_gaussian_process():
    process = Cold(Blur(20, 5, 0.3))
    with pytest.raises(UsageProblem, match="leave brownian out"):
        Ancestral(brownian=True).check(process)
    with pytest.raises(UsageProblem, match="needs a Gaussian process"):
        EulerMaruyama(brownian=True).check(process)


class Frequencies(Schedule):
    """Noise that comes to the second number later than to the first."""

    def alpha(self, t):
        return torch.stack([1 - t, 1 - t**2], -1)

    def sigma(self, t):
        return torch.stack([t, t**2], -1)


class Frequent(Denoiser):
    process = Gaussian(Frequencies())

    def forward(self, xt, t, cond=None):
        return Estimate(xt / 2)


@pytest.mark.parametrize(
    "step, words",
    [
        (SEEDS(2, brownian=True), "one noise level"),
        (Ancestral(brownian=True), "one noise level"),
        (EulerMaruyama(brownian=True), "one noise level"),
        (SDEDPMSolverMultistep(brownian=True), "one noise level"),
        (DEIS(2, coordinate="time"), "one noise level"),
        (RK45(), "one noise level"),
        (Churn(), "one noise level"),
    ],
    ids=str,
)
def test_a_process_with_a_level_for_each_frequency(step, words):
    seen = []
    with pytest.raises(UsageProblem, match=words):
        sample(Frequent(), step, Uniform(5, start=0.9), (2, 2), watch=lambda *state: seen.append(state))
    assert not seen  # before the first step


@pytest.mark.parametrize(
    "step", [SEEDS(2), SDEDPMSolverMultistep(), DPMSolverMultistep(3), DPMSolver(), PNDM()], ids=str
)
def test_what_such_a_process_can_have(step):
    assert sample(Frequent(), step, Uniform(8, start=0.9), (2, 2)).isfinite().all()


def test_sampling_by_name_refuses_too():
    with pytest.raises(UsageProblem, match="take 3 steps or more"):
        Sampling(Heun(), LogSNR(2)).changed(sampler="dpm-solver++", options={"terms": "3"})


def test_seeds_without_noise_of_its_own_goes_with_churn():
    sampling = SeedsRecipe(s_churn=10.0, eta=0.0).sampling()
    assert isinstance(sampling.step, Churn) and sampling.step.inner == SEEDS(eta=0.0, scale=0.5)
