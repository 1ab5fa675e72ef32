"""Points on manifolds by the recipe and by the commands: trained, sampled, measured, written and read again."""

import json
from dataclasses import replace

import pytest
import torch

from unnoise.cli import main
from unnoise.data import load
from unnoise.errors import UsageProblem
from unnoise.likelihood import likelihood
from unnoise.manifolds import manifold
from unnoise.model import Model, train_model
from unnoise.networks import MLPOptions
from unnoise.oracles.curved import wrapped_normals
from unnoise.papers import rsgm
from unnoise.papers.rsgm import RSGM
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.training import TrainingOptions
from unnoise.verify import Absent, Finding

SHORT = TrainingOptions(
    steps=150, batch_size=128, lr=5e-3, ema=4000, precision="fp32", checkpoint_every=75, preview_every=150
)
SMALL = MLPOptions(width=32, depth=2, waves=(0.5, 1.0))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("rsgm") / "run"
    recipe = RSGM(data="airports", network=SMALL, training=SHORT)
    train_model(recipe, load("airports"), path)
    return path


def test_it_learns_where_airports_are(run):
    model = Model.load(run)
    assert model.recipe.manifold == "sphere" and model.spec.kind == "points"
    data = load("airports", "held-out")
    x = data.batch(range(0, 5600, 50)).x
    nats = likelihood(model, x, "flow").nats.mean()
    assert nats < manifold("sphere").log_volume - 0.5  # the uniform law's is 2.53
    samples = model.sample(range(64))
    assert samples.shape == (64, 3) and (samples.norm(dim=1) - 1).abs().max() < 1e-6
    torch.testing.assert_close(model.sample([5])[0], samples[5], atol=1e-3, rtol=0)
    assert (samples[:, 2] > 0).double().mean() > 0.6  # most are in the north
    assert (run / "pictures" / "samples-00000150.png").exists()


@pytest.mark.parametrize("loss", ("denoising", "step", "implicit", "sliced"))
def test_every_loss_learns_torsions(loss, tmp_path):
    training = replace(SHORT, steps=300, lr=2e-3, preview_every=0, decay="linear", decay_from=0.3)
    recipe = RSGM(data="torsions", loss=loss, times="uniform", network=SMALL, training=training)
    model, result = train_model(recipe, load("torsions"), tmp_path / "run", preview=False)
    assert result.steps == 300 and model.recipe.manifold == "torus-2"
    x = load("torsions", "held-out").batch(range(0, 1900, 40)).x
    assert likelihood(model, x, "flow").nats.mean() < manifold("torus-2").log_volume - 0.3


def test_rotations_from_end_to_end(tmp_path, capsys):
    recipe = RSGM(data="rotations", network=MLPOptions(width=32, depth=2), training=replace(SHORT, steps=200))
    model, _ = train_model(recipe, load("rotations"), tmp_path / "run")
    assert model.recipe.manifold == "so3" and model.recipe.beta_f == 6 and model.spec.shape == (9,)
    x = load("rotations", "held-out").batch(range(0, 3900, 60)).x
    assert likelihood(model, x, "flow").nats.mean() < manifold("so3").log_volume - 1
    samples = model.sample(range(64))
    assert (manifold("so3").project(samples) - samples).abs().max() < 1e-6
    assert (
        wrapped_normals().log_prob(samples).mean()
        > wrapped_normals().log_prob(manifold("so3").uniform(Rng.from_seeds(range(64)))).mean()
    )
    assert main(["sample", str(tmp_path / "run"), "--count", "30", "--steps", "5", "--out", str(tmp_path / "out")]) in (
        0,
        None,
    )
    capsys.readouterr()
    again = load(tmp_path / "out" / "samples.csv")  # what was made can be learned from
    assert again.manifold == "so3" and (tmp_path / "out" / "grid.png").exists()


def test_waves_are_for_the_earth_and_not_for_divergences():
    def stem(where, **options):
        network = RSGM(**options).build_network(Spec((manifold(where).ambient,), kind="points", manifold=where))
        return getattr(network, "network", network).stem.in_features

    assert stem("sphere") == 33 and stem("sphere", loss="step") == 33 and stem("sphere", loss="implicit") == 3
    assert stem("torus-2") == 4 and stem("so3") == 9
    assert stem("torus-2", network=MLPOptions(waves=(1.0,))) == 12 and stem("sphere", network=MLPOptions()) == 3


def test_the_commands_speak_of_points(run, tmp_path, capsys):
    assert main(["likelihood", str(run), "--count", "20", "--tolerance", "1e-3"]) in (0, None)
    told = capsys.readouterr().out
    assert "nats, 20 points of airports (held-out), by the measure of sphere" in told and "evaluations a point" in told
    kept = json.loads((run / "likelihood.json").read_text())["methods"]["flow"]
    assert kept["nats"] == pytest.approx(kept["bits"] * 3 * 0.6931472, rel=1e-6) and kept["standard_error_nats"] > 0

    out = tmp_path / "samples"
    assert main(["sample", str(run), "--count", "30", "--steps", "5", "--out", str(out)]) in (0, None)
    assert (out / "grid.png").exists()
    again = load(out / "samples.csv")  # what was made can be learned from
    assert again.manifold == "sphere" and again.facts.train + again.facts.held_out == 30

    assert main(["likelihood", str(run), "--method", "bound", "--count", "2"]) == 2
    assert "no posterior in closed form" in capsys.readouterr().err
    assert main(["likelihood", str(run), "--dequantise", "variational", "--count", "2"]) == 2
    assert "this model's data are points" in capsys.readouterr().err
    assert main(["sample", str(run), "--threshold", "clip", "--count", "2", "--out", str(tmp_path / "b")]) == 2
    assert "no range to clip to" in capsys.readouterr().err
    assert main(["sample", str(run), "--sampler", "heun", "--count", "2", "--out", str(tmp_path / "c")]) == 2
    assert "choose the paper's own sampler" in capsys.readouterr().err


def test_data_of_another_kind_or_manifold_are_refused(tmp_path):
    with pytest.raises(UsageProblem, match="rsgm learns points"):
        train_model(RSGM(data="digits"), load("digits"), tmp_path / "run")
    with pytest.raises(UsageProblem, match="lies on torus-2, not on sphere"):
        train_model(RSGM(manifold="sphere"), load("torsions"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageProblem, match="leave --flip out"):
        RSGM(flip=True)
    with pytest.raises(UsageProblem, match="start is 0, but must lie"):
        RSGM(start=0)
    with pytest.raises(UsageProblem, match="has 4 coordinates"):
        RSGM().denoiser(Spec((3,), kind="points", manifold="torus-2"))


def test_published_networks_are_as_large_as_they_should_be():
    sizes = {}
    for preset, shape, where in (
        ("paper", (3,), "sphere"),
        ("paper-torus", (4,), "torus-2"),
        ("paper-so3", (9,), "so3"),
    ):
        with torch.device("meta"):
            denoiser = RSGM.preset(preset).denoiser(Spec(shape, kind="points", manifold=where))
        sizes[preset] = sum(p.numel() for p in denoiser.parameters())
    assert sizes["paper"] == (4 + 1) * 512 + 4 * 513 * 512 + 513 * 3
    assert sizes["paper-so3"] == (10 + 1) * 512 + 4 * 513 * 512 + 513 * 9
    assert sizes["paper-torus"] == (5 + 1) * 512 + 2 * 513 * 512 + 513 * 4


def test_a_claim_without_its_data_is_skipped(monkeypatch, tmp_path):
    monkeypatch.delenv("UNNOISE_EARTH", raising=False)
    with pytest.raises(Absent, match="set UNNOISE_EARTH to the folder"):
        rsgm.volcanoes(None)
    monkeypatch.setenv("UNNOISE_EARTH", str(tmp_path))
    with pytest.raises(Absent, match=r"there is no volerup\.csv"):
        rsgm._earth("volcano")


def test_what_is_computed_without_chance():
    found = rsgm.varadhan_agrees_early(_Lab())
    assert isinstance(found, Finding) and found.verdict == "reproduced"


class _Lab:
    def picture(self, name, paint, panels=1):
        return name
