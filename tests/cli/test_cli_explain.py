"""`unnoise explain RUN`: the weighting it tells is the objective's, the errors are the model's."""

import json
import math

import pytest
import torch
from PIL import Image

from unnoise.cli import main
from unnoise.data import load
from unnoise.explain import noise_levels, objective_of
from unnoise.model import Model
from unnoise.processes import DCT, Gaussian
from unnoise.rng import Rng

WORDS = ["--count", "40", "--levels", "9"]


@pytest.fixture(scope="session")
def adaptive(tmp_path_factory):
    """A run of elbo-weighting, whose noise levels adapt."""
    from cli_tools import TINY

    out = tmp_path_factory.mktemp("elbo") / "run"
    assert main(["train", "elbo-weighting", *TINY, "--steps", "6", "--checkpoint-every", "3", "--out", str(out)]) == 0
    return out


def told(cli, run, *words):
    code, out, err = cli("explain", run, *WORDS, *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_of_a_run_whose_weighting_is_not_monotone(cli, edm):
    result = told(cli, edm)
    assert result["monotone"] is False and result["paper"] == "edm" and result["objective"] == "Matching"
    curves = {name: torch.tensor(values, dtype=torch.float64) for name, values in result["curves"].items()}
    torch.testing.assert_close(curves["weight"], 2 * curves["on_eps"] * curves["drawn"], rtol=1e-6, atol=0)
    std = Model.load(edm).spec.std
    log_snr = curves["log_snr"]
    paper = torch.exp(-0.5 * ((log_snr - 2.4) / 2.4) ** 2) * (torch.exp(-log_snr) + std**2)
    ratio = curves["weight"] / paper
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-6, atol=0)
    for row in result["measured"]:
        assert row["eps"] == pytest.approx(math.exp(row["log_snr"]) * row["x0"], rel=1e-9)
        assert row["loss"] == pytest.approx(0.5 * row["weight"] * row["eps"], rel=1e-9)
    written = json.loads((edm / "explain.json").read_text())
    assert result.items() <= written.items() and written["command"].startswith("unnoise explain")
    with Image.open(edm / "pictures" / "explain.png") as picture:
        assert picture.width > 1000


def test_of_a_run_whose_noise_levels_adapt(cli, adaptive):
    result = told(cli, adaptive)
    assert result["monotone"] is True
    objective = objective_of(Model.load(adaptive))
    assert float(objective.times.counts.sum()) > 0  # what the run learned of its noise levels is there
    curves = {name: torch.tensor(values, dtype=torch.float64) for name, values in result["curves"].items()}
    assert float(torch.trapezoid(curves["drawn"], curves["log_snr"])) == pytest.approx(1, abs=0.03)
    assert float((curves["drawn"] - curves["density"]).abs().max()) > 0.01
    code, out, _ = cli("explain", adaptive, *WORDS)
    assert code == 0 and "Its weighting is monotone" in out and "w = 2up" in out and "explain.png" in out


def test_the_errors_are_those_of_the_objective(cli, ddpm):
    """Of a chain, at its own steps: the integral of the weighted errors is the loss that training would show."""
    result = told(cli, ddpm, "--levels", "40")
    model, data = Model.load(ddpm), load("digits", "held-out")
    log_snr = torch.tensor([row["log_snr"] for row in result["measured"]], dtype=torch.float64)
    steps = model.denoiser.process.schedule.time(log_snr) * 50
    assert float((steps - steps.round()).abs().max()) < 1e-6 and len(steps) > 15
    x0 = data.batch(torch.linspace(0, len(data) - 1, 40).round().long()).x
    objective = objective_of(model)
    with torch.no_grad():
        losses = [objective(model.denoiser, x0, None, Rng.for_step(0, i, range(40))).per_example for i in range(30)]
    # density over the times in (1/50, 1], of which the loss also has the first step
    assert result["loss"] == pytest.approx(float(torch.cat(losses).mean()), rel=0.1)


def test_what_it_says_does_not_depend_on_batches(cli, edm):
    one, other = told(cli, edm), told(cli, edm, "--batch-size", "7")
    for a, b in zip(one["measured"], other["measured"], strict=True):
        assert a["x0"] == pytest.approx(b["x0"], rel=1e-4)
    assert told(cli, edm, "--seed", "100")["measured"][0]["x0"] != one["measured"][0]["x0"]


def test_objectives_that_weight_no_noise_still_have_errors(cli, edm, monkeypatch):
    from unnoise.objectives import Matching, Objective

    monkeypatch.setattr(Matching, "on_eps", Objective.on_eps)
    result = told(cli, edm)
    assert result["curves"] is None and "compares no noise" in result["reason"] and len(result["measured"]) == 9
    code, out, _ = cli("explain", edm, *WORDS)
    assert code == 0 and "implies no weighting" in out


def test_mistakes_are_told_in_a_sentence(refused, edm, tmp_path):
    assert "2 or more" in refused(2, "explain", edm, "--levels", "1")
    assert "images" in refused(2, "explain", edm, "--count", "5000")
    assert "--seed is -4, but a seed is 0 or more" in refused(2, "explain", edm, "--seed", "-4")
    assert "no run" in refused(2, "explain", tmp_path / "nothing")


def test_processes_without_one_log_snr_are_refused():
    from unnoise.errors import UsageProblem
    from unnoise.processes import Process
    from unnoise.processes.dissipation import Dissipating
    from unnoise.schedules import Cosine

    class Cold(Process):
        pass

    with pytest.raises(UsageProblem, match="has no log-SNR"):
        noise_levels(Cold(), 5)
    with pytest.raises(UsageProblem, match="for each frequency"):
        noise_levels(Gaussian(Dissipating(Cosine(), (8, 8)), DCT()), 5)
