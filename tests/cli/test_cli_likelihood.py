"""`unnoise likelihood`: every method on runs of some seconds, what it prints and keeps, and what it refuses."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from unnoise.data import load
from unnoise.dequantisation import dequantiser_of
from unnoise.likelihood import METHODS, Chain, Flow, likelihood
from unnoise.model import Model
from unnoise.processes import Process
from unnoise.rng import Rng

FEW = ["--count", "5", "--batch-size", "2"]
OPTIONS = {
    "flow": ["--solver", "heun", "--steps", "4", "--divergence", "rademacher", "--draws", "2"],
    "continuous": ["--draws", "6"],
    "bound": ["--steps", "6"],
    "importance": ["--steps", "6", "--samples", "3"],
}


@pytest.fixture
def run(edm, tmp_path):
    """A run of its own, to be written into."""
    return shutil.copytree(edm, tmp_path / "run")


def test_help_names_every_method(cli):
    code, text, _ = cli("likelihood", "--help")
    assert code == 0 and "unnoise likelihood" in text
    masked = {"order-agnostic"}  # of another kind of process, with its own tests
    assert set(OPTIONS) == set(METHODS) - masked and all(name in text for name in METHODS)


def test_every_method_measures_and_keeps_its_result(cli, run):
    for name, options in OPTIONS.items():
        code, out, err = cli("likelihood", run, "--method", name, *FEW, *options, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["method"]["name"] == name and found["data"] == "digits" and found["levels"] == 17
        assert found["count"] == 5 and found["run"]["step"] == 4 and found["split"] == "held-out"
        assert math.isfinite(found["bits"]) and found["standard_error"] > 0 and found["evaluations"] >= 4
        if found["parts"]:
            assert sum(found["parts"].values()) == pytest.approx(found["bits"], rel=1e-9)
        kept = json.loads((run / "likelihood.json").read_text())
        assert kept["methods"][name] == found and kept["command"].startswith("unnoise likelihood")
    assert list(kept["methods"]) == list(OPTIONS)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_it_is_the_likelihood_of_python_whatever_the_batch(cli, run):
    words = ["likelihood", run, "--method", "bound", "--steps", "6", "--count", "5", "--seed", "3", "--json"]
    model, data = Model.load(run), load("digits", "held-out")
    batch = data.batch(torch.linspace(0, len(data) - 1, 5).round().long())
    expected = likelihood(model, batch.x, Chain(steps=6), cond=batch.cond, rng=Rng.from_seeds(range(3, 8)))
    for size in (1, 2, 5):
        found = json.loads(cli(*words, "--batch-size", size)[1])
        assert found["bits"] == pytest.approx(float(expected.bits.mean()), rel=1e-4)
    plain = json.loads(cli(*words, "--unlabelled")[1])
    assert plain["unlabelled"] and plain["bits"] != found["bits"]


def test_a_variational_dequantiser_is_trained_once_and_kept_with_the_run(cli, refused, run, monkeypatch):
    words = ["likelihood", run, *FEW, *OPTIONS["flow"], "--dequantise", "variational", "--dequantise-steps", "3"]
    code, out, err = cli(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    kept = found["dequantiser"]
    folder = Path(kept["path"])
    assert kept["name"] == "variational" and kept["steps"] == 3 and kept["model"] == found["run"]["sha256"]
    assert folder.parent == run / "dequantisers" and (folder / "checkpoints/step-00000003/model.safetensors").exists()
    assert json.loads((run / "likelihood.json").read_text())["methods"]["flow-variational"] == found

    model, data = Model.load(run), load("digits", "held-out")
    learned, known = dequantiser_of(model, load("digits"), 3)
    assert known == kept
    batch = data.batch(torch.linspace(0, len(data) - 1, 5).round().long())
    how = Flow(solver="heun", steps=4, divergence="rademacher", draws=2, dequantiser=learned)
    expected = likelihood(model, batch.x, how, cond=batch.cond, rng=Rng.from_seeds(range(5)))
    assert found["bits"] == pytest.approx(float(expected.bits.mean()), rel=1e-4)

    other = json.loads(cli(*words, "--weights", "model", "--json")[1])["dequantiser"]
    assert other["path"] != kept["path"]  # other weights, another dequantiser
    monkeypatch.setattr("unnoise.dequantisation.train", lambda *_: pytest.fail("it was trained again"))
    code, out, _ = cli(*words)
    assert code == 0 and f"by a dequantiser of 3 steps in {folder}" in out
    file = folder / "checkpoints/step-00000003/model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"harm")
    assert "model.safetensors is not what was written" in refused(1, *words)


def test_one_image_has_no_spread(cli, run):
    code, out, _ = cli("likelihood", run, "--method", "bound", "--steps", "6", "--count", "1")
    assert code == 0 and "±" not in out and "bits per dimension at most, 1 image of digits (held-out)" in out


def test_people_get_a_sentence(cli, run):
    code, out, _ = cli("likelihood", run, "--method", "bound", "--steps", "6", *FEW)
    assert code == 0 and " ± " in out and "bits per dimension at most, 5 images of digits (held-out)" in out
    assert "decoder" in out and "6 evaluations an image" in out and str(run / "likelihood.json") in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--method", "exact"],
            "--method takes one of bound, continuous, flow, importance, order-agnostic, not 'exact'",
        ),
        (["--method", "bound", "--draws", "3"], "--draws is no option of --method bound, which takes --steps"),
        (["--samples", "3"], "--samples is no option of --method flow"),
        (["--steps", "3"], "--steps of the flow needs --solver heun or rk4"),
        (["--method", "bound", "--steps", "0"], "steps is 0"),
        (["--method", "importance", "--samples", "0"], "samples is 0"),
        (["--draws", "0"], "draws is 0"),
        (["--probes", "0"], "probes is 0"),
        (["--tolerance", "0"], "a tolerance above 0"),
        (["--count", "0"], "--count and --batch-size must be 1 or more"),
        (["--count", "1000"], "--count is 1,000, but digits (held-out) has 293 images"),
        (["--data", "fashion-mnist"], "256 grey levels and this model's data have 17"),
        (["--data", "digit"], "did you mean 'digits'"),
        (["--step", "3"], "no checkpoint of step 3"),
        (["--seed", "-4"], "--seed is -4, but a seed is 0 or more"),
        (["--method", "bound", "--dequantise", "variational"], "--dequantise belongs to --method flow"),
        (["--dequantise-steps", "9"], "add --dequantise variational"),
        (["--dequantise", "variational", "--dequantise-steps", "0"], "steps must be a whole number, 1 or more, not 0"),
        (["--dequantise", "variational", "--probes", "0"], "probes is 0"),
        (["--weights", "optimizer"], "holds no 'optimizer'; it holds: ema, model"),
        (["--weights", "objective"], "holds no 'objective'; it holds: ema, model"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(refused, run, words, says):
    assert says in refused(2, "likelihood", run, *words)
    assert not (run / "likelihood.json").exists() and not (run / "dequantisers").exists()


def test_a_process_without_a_flow_is_refused(refused, run, monkeypatch):
    class Jumps(Process):
        pass

    def loaded(*arguments):
        model = load_model(*arguments)
        model.denoiser.process = Jumps()
        return model

    load_model = Model.load
    monkeypatch.setattr(Model, "load", loaded)
    said = refused(2, "likelihood", run)
    assert "a Jumps process has no probability flow" in said and "--method bound" in said
    assert "a Jumps process has no bound in continuous time" in refused(2, "likelihood", run, "--method", "continuous")
    assert not (run / "likelihood.json").exists()
