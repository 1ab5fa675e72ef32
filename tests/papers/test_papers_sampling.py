"""A sampling tells all of itself, in JSON, and comes back from it."""

import json

import pytest

from unnoise.errors import UsageProblem
from unnoise.recipe import Sampling
from unnoise.samplers import (
    DDIM,
    GRIDS,
    SAMPLERS,
    Adams,
    AnnealedLangevin,
    Churn,
    DPMSolverMultistep,
    Euler,
    Fitted,
    Heun,
    Karras,
    Langevin,
    Levels,
    PredictorCorrector,
    Straight,
    Uniform,
)

NESTED = Sampling(PredictorCorrector(Churn(Heun(a=0.5), s_churn=7.0), Langevin(snr=0.2)), Karras(5))


def back(sampling):
    return Sampling.from_dict(json.loads(json.dumps(sampling.describe())))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampling_comes_back(sampler, grid):
    sampling = Sampling(SAMPLERS[sampler](), GRIDS[grid](steps=7), 2.5, "clip")
    assert back(sampling) == sampling


@pytest.mark.parametrize(
    "sampling",
    [
        NESTED,
        Sampling(Adams(2, "v", scale=0.3), Straight(8, scale=0.7)),  # both have a scale
        Sampling(Fitted(Adams(2, "velocity", "rectified"), ((0.1, -1 / 3), (0.0, 1e-17, 2.0))), Levels.of((80, 0.1))),
        Sampling(DDIM(), Karras(9, sigma_max=12.5), 0.0),
        Sampling(PredictorCorrector(None, Langevin(2)), Karras(4)),
        Sampling(PredictorCorrector(Heun(), None), Karras(4)),
        Sampling(Churn(Euler(), s_max=float("inf")), Uniform(4, through_zero=True)),
    ],
)
def test_what_is_not_by_default_comes_back(sampling):
    assert back(sampling) == sampling


def test_samplings_that_differ_within_a_step_are_told_apart():
    others = [
        Sampling(PredictorCorrector(corrector=Langevin(snr=0.2))),
        Sampling(PredictorCorrector(corrector=Langevin())),
        Sampling(PredictorCorrector(corrector=AnnealedLangevin())),
        Sampling(PredictorCorrector(DDIM())),
        Sampling(PredictorCorrector(DDIM(eta=0.1))),
        Sampling(PredictorCorrector(Churn())),
        Sampling(PredictorCorrector(Churn(Heun(a=0.1)))),
        Sampling(Adams(scale=0.5), Straight()),
        Sampling(Adams(), Straight(scale=0.5)),
    ]
    told = [json.dumps(sampling.describe(), sort_keys=True) for sampling in others]
    assert len(set(told)) == len(others)
    assert NESTED.describe()["predictor.inner.a"] == 0.5 and NESTED.describe()["corrector.snr"] == 0.2


def test_options_within_a_step_are_set_by_dotted_names():
    own = Sampling(Heun(), Karras(6))
    options = {"corrector.snr": "0.2", "predictor": "churn", "predictor.inner": "heun", "predictor.inner.a": "0.5"}
    made = own.changed("predictor-corrector", options={**options, "predictor.s_churn": "7", "steps": "5"})
    assert made == NESTED
    assert NESTED.changed(options={"predictor.inner.a": "0.4"}).step.predictor.inner == Heun(a=0.4)
    both = Sampling(Adams(variable="v"), Straight(8)).changed(options={"scale": "0.3", "grid.scale": "0.7"})
    assert both == Sampling(Adams(variable="v", scale=0.3), Straight(8, scale=0.7))
    levels = own.changed(grid="levels", options={"levels": "[80, 1, 0.1]", "steps": "3"})
    assert (
        levels.grid
        == Levels.of((80, 1, 0.1))
        == own.changed(grid="levels", steps=3, options={"levels": "80,1,0.1"}).grid
    )


def test_options_that_only_fit_together_are_set_together():
    made = Sampling(DDIM()).changed(options={"variance": "large", "eta": "1"})
    assert made.step == DDIM(eta=1.0, variance="large")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"predictor.inner.aa": "1"}, "did you mean 'predictor.inner.a'"),
        ({"predictor.what": "1"}, "unknown option 'predictor.what'"),
        ({"first.what": "1"}, "unknown option 'first.what'"),
        ({"grid.what": "1"}, "unknown option 'grid.what'"),
        ({"grid": "1"}, "unknown option 'grid'"),
        ({"predictor": "heum"}, "did you mean 'heun'"),
        ({"predictor.inner.a": "much"}, "a takes float, not 'much'"),
        ({"corrector.norm": "all"}, "norm takes one of example, batch, not 'all'"),
        ({"corrector": "heun"}, "'heun' is no corrector"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, says):
    with pytest.raises(UsageProblem, match=says):
        NESTED.changed(options=options)


@pytest.mark.parametrize("text", ["[1, 'a']", "[1, true]", "1,", "[[1]]", "[1, null]"])
def test_levels_are_numbers(text):
    with pytest.raises(UsageProblem):
        Sampling(Heun(), Levels()).changed(options={"levels": text})


def test_what_describes_no_sampling_is_refused():
    with pytest.raises(UsageProblem, match="'grid'"):
        Sampling.from_dict({"sampler": "heun", "guidance": 1.0, "threshold": "none"})
    with pytest.raises(UsageProblem, match="unknown option 'b'"):
        Sampling.from_dict({**NESTED.describe(), "b": 1})


def test_within_a_number_of_evaluations():
    assert Sampling(Heun(), Karras(40)).within(8).grid.steps == 4  # 7 evaluations
    assert Sampling(DPMSolverMultistep(), Karras(40)).within(8).grid.steps == 8
    assert Sampling(Heun()).within(1).grid.steps == 1
    assert Sampling(AnnealedLangevin(corrections=5)).within(5) is None  # and one more to clean data
    assert Sampling(SAMPLERS["rk45"]()).within(50) is None
