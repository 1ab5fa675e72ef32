"""The search for grid and solver: its derivatives, its choice, and what it gains where the flow is known exactly."""

import json
from dataclasses import replace

import pytest
import torch

from unnoise.errors import Problem, UsageProblem
from unnoise.model import Model
from unnoise.networks import UNetOptions
from unnoise.oracles import Mixture, gaussian
from unnoise.papers import find
from unnoise.processes import Gaussian
from unnoise.recipe import Sampling, Spec
from unnoise.rng import stream
from unnoise.samplers import DDIM, Adams, Fitted, Heun, Karras, Levels, LogSNR, sample
from unnoise.schedules import EDM, LinearVP
from unnoise.training import provenance
from unnoise.tuning import Tuned, kept, path_of, search, tune, work
from unnoise.tuning.family import family, multistep, screened
from unnoise.tuning.family import work as family_work
from unnoise.tuning.fit import Corner, Walk, corners, fit
from unnoise.tuning.fit import work as fit_work
from unnoise.tuning.latents import Latents

MODES = Mixture((torch.rand(6, 2, generator=stream(4), dtype=torch.float64) * 2 - 1) * 1.7, 0.02)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def latents(data=MODES, schedule=None, count=96, heard=lambda n: None) -> Latents:
    noise = torch.randn(count, *data.event, generator=stream(8), dtype=torch.float64)
    return Latents(data.denoiser(Gaussian(schedule or EDM())), noise, heard=heard)


def followed(**how) -> Latents:
    found = latents(**how)
    found.follow(400, 1.0)
    return found


def test_the_reference_is_the_flow():
    """Of a Gaussian: x_0 = x_T sqrt(v / (v + sigma^2)), from the noise at the grid's first point."""
    variance = torch.tensor([0.04, 0.3, 1.5], dtype=torch.float64)
    data = gaussian(torch.zeros(3, dtype=torch.float64), variance)
    found = followed(data=data)
    expected = found.noise * 80 * (variance / (variance + 80**2)).sqrt()
    torch.testing.assert_close(found.end, expected, atol=2e-5, rtol=2e-5)


def test_errors_are_mean_root_mean_squares():
    found = latents()
    found._end = found.walk(Sampling(Heun(), Karras(5))) + torch.tensor([0.3, 0.4])
    assert found.error(Sampling(Heun(), Karras(5))) == pytest.approx((0.125) ** 0.5)
    assert found.rows(slice(7)).error(Sampling(Heun(), Karras(5))) == pytest.approx((0.125) ** 0.5)


@pytest.mark.parametrize("schedule", [EDM(), LinearVP()], ids=["EDM", "VP"])
@pytest.mark.parametrize("corrector", [False, True])
def test_the_jacobian_is_that_of_whole_walks(schedule, corrector, monkeypatch):
    """Against central differences of `sample` with the sampler that theta names."""
    monkeypatch.setattr("unnoise.tuning.fit.STEP", 1e-5)
    some = followed(schedule=schedule, count=12)
    grid = LogSNR(4, 0.05, None if isinstance(schedule, EDM) else 60.0)
    walk = Walk(some, Sampling(Adams(2, "v", corrector=corrector), grid), 1.0)
    theta = walk.begin.moved([Corner(1, 1), Corner(0, 0), Corner(2, None)], [0.02, -0.01, 0.05])
    which = corners(4, 1000)
    assert {(c.row, c.column) for c in which} == {(i, m) for i in range(4) for m in [None, *range(i + 2)]}
    found, units = walk.jacobian(theta, which, walk.walk(some, theta))

    def end(by, corner, unit):
        return some.walk(walk.sampling(theta.moved([corner], [by * unit]))).flatten()

    for column, corner, unit in zip(found, which, units, strict=True):
        h = 1e-4 if corner != Corner(0, None) else -1e-4
        one_sided = corner == Corner(0, None) and isinstance(schedule, EDM)  # the process ends at its first level
        low = end(0.0, corner, unit) if one_sided else end(-h, corner, unit)
        exact = (end(h, corner, unit) - low) / (h if one_sided else 2 * h)
        assert (column - exact).norm() < 2e-3 * exact.norm() + 1e-6, corner


def test_what_is_fitted_stays_within_the_budget():
    for steps in (1, 2, 8, 15, 50):
        which = corners(steps, 200)
        cost = sum(steps - c.after() for c in which if c.column is None or c.row < steps - 1)
        assert cost <= max(200, steps * (steps + 1) // 2)
        assert {c.row for c in which if c.column is None} == set(range(steps))
        assert [c.column for c in which if c.row == steps - 1 and c.column is not None] == list(range(steps + 1))


def test_one_variance_is_solved_exactly():
    """The flow of N(0, v) is linear in the noise, and so is every walk: there is a last row without error."""
    data = gaussian(torch.zeros(4, dtype=torch.float64), 0.3)
    some = latents(data=data)
    some._end = some.noise * 80 * (0.3 / (0.3 + 80**2)) ** 0.5
    start = Sampling(Adams(2), Karras(3))
    error, sampling = fit(some.rows(slice(64)), some.rows(slice(64, None)), start, 1.0)
    assert some.error(start) > 0.01 and error < 1e-7
    assert some.rows(slice(64, None)).error(sampling) == pytest.approx(error, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("schedule", [EDM(), LinearVP()], ids=["EDM", "VP"])
def test_fitting_gains_on_latents_it_has_not_seen(schedule):
    """Of a mixture at five evaluations: at most half the error of the best of the family, itself better than Heun's."""
    some = followed(schedule=schedule, count=256)
    new = followed(schedule=schedule, count=384).rows(slice(256, None))
    best, error, sampling, lower = search(some, 5, 1.0)
    assert lower < error and isinstance(sampling.step, Fitted) and isinstance(sampling.grid, Levels)
    assert new.error(sampling) < 0.5 * new.error(best)
    assert new.error(best) < new.error(Sampling(Heun(), Karras(3)))
    again = Sampling.from_dict(json.loads(json.dumps(sampling.describe())))
    assert new.error(again) == new.error(sampling)


def test_screening_finds_what_trying_all_finds():
    some = followed(count=40)
    few = [Sampling(step, grid) for step in multistep(6, 1.0) for grid in (Karras(6), LogSNR(6))]
    everywhere = min(few, key=some.error)
    error, found = screened(some, few)[0]
    assert found == everywhere and error == some.error(everywhere)


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7])
def test_candidates_cost_what_was_asked_for(evaluations):
    found = family(evaluations, 0.5)
    costs = {sampling.step.evaluations(sampling.grid.steps) for sampling in found}
    assert max(costs) == evaluations and len(set(found)) == len(found)
    calls = []
    some = latents(count=16, heard=calls.append)
    some._end = torch.zeros_like(some.noise)
    assert all(some.error(sampling) < float("inf") for sampling in found)
    assert sum(calls) == 16 * sum(s.step.evaluations(s.grid.steps) for s in found)


def test_work_is_told_beforehand():
    """`work` is at most what is done, and no more than three times as much."""
    done = []
    some = followed(count=64)
    some.heard = done.append
    candidates = family(4, 1.0)
    screened(some, candidates)
    assert 0.6 * family_work(64, 2, 4, len(candidates)) < sum(done) <= family_work(64, 2, 4, len(candidates))
    done.clear()
    fit(some.rows(slice(48)), some.rows(slice(48, None)), Sampling(Adams(2), Karras(4)), 1.0)
    some.rows(slice(0, 1))
    assert sum(done) <= fit_work(48, 16, 4)


@pytest.fixture(scope="module")
def model():
    """Untrained: the search does not mind."""
    network = UNetOptions(channels=8, mult=(1,), blocks=1, attention=(), middle_attention=False)
    built = Model(replace(find("edm").laptop(), network=network), Spec((1, 8, 8), tuple("abc"), std=0.6))
    built.source = {"path": "here", "step": 7, "weights": "ema", "sha256": "ab"}
    built.denoiser.eval()
    return built


def test_a_model_is_tuned_and_kept(model, tmp_path):
    done = []
    found = tune(model, 2, latents=16, heard=done.append)
    assert found.errors["tuned"] <= found.errors["family"] and found.evaluations == 2
    assert found.sampling.step.evaluations(found.sampling.grid.steps) == 2
    assert 0 < sum(done) <= work(model, 2, 16)
    path = found.save(tmp_path)
    assert path == path_of(tmp_path, 2, found.sampling)
    back = kept(tmp_path, 2, model.recipe.sampling())
    assert isinstance(back, Tuned) and back.sampling == found.sampling and back.errors == found.errors
    assert back.run["sha256"] == "ab" and json.loads(path.read_text())["versions"] == provenance()["versions"]
    assert kept(tmp_path, 3, model.recipe.sampling()) is None
    assert kept(tmp_path, 2, model.recipe.sampling().changed(threshold="clip")) is None
    path.write_text(path.read_text()[:-40])
    with pytest.raises(Problem, match="run `unnoise tune` again"):
        kept(tmp_path, 2, model.recipe.sampling())


def test_the_latents_are_those_of_the_model(model):
    """`Model.sample` from the same seeds ends where the search says that it does."""
    from unnoise.tuning.tune import bundle

    some, sampling = bundle(model, model.recipe.sampling(), 5, first=3), Sampling(Heun(), Karras(3))
    images = model.sample(range(3, 8), sampling, precision="fp32")
    torch.testing.assert_close(some.walk(sampling), images, atol=1e-5, rtol=1e-5)


def test_what_has_no_flow_is_refused(model):
    from unnoise.processes import Process

    with pytest.raises(UsageProblem, match="1 evaluation or more"):
        tune(model, 0)
    with pytest.raises(UsageProblem, match="16 latents or more"):
        tune(model, 2, latents=3)

    class Jumps(Process):
        pass

    other = Model(model.recipe, model.spec, model.denoiser)
    before, other.denoiser.process = other.denoiser.process, Jumps()
    try:
        with pytest.raises(UsageProblem, match="flow to tune for"):
            tune(other, 2)
    finally:
        other.denoiser.process = before


def test_the_fit_uses_conditions():
    """Rows of latents keep their labels: a mixture told its component has another flow."""
    data = Mixture(torch.tensor([[-1.0], [1.0]]), 0.05, labels=torch.tensor([0, 1]))
    noise = torch.randn(6, 1, generator=stream(1), dtype=torch.float64)
    cond = {"label": torch.tensor([0, 1, 0, 1, 0, 1])}
    some = Latents(data.denoiser(Gaussian(EDM())), noise, cond)
    some.follow(100, 1.0)
    assert some.end[::2].max() < 0 < some.end[1::2].min()
    part = some.rows(slice(1, 4))
    torch.testing.assert_close(part.walk(Sampling(DDIM(), Karras(100))), part.end, atol=0.05, rtol=0)
    direct = sample(
        part.denoiser, DDIM(), Karras(9), (3, 1), cond=part.cond, start=part.noise * 80, dtype=torch.float64
    )
    torch.testing.assert_close(part.walk(Sampling(DDIM(), Karras(9))), direct)
