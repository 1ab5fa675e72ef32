"""Schroedinger bridge matching on images: it learns both ways between two sets, and samples go from held-out images."""

import json
from dataclasses import replace

import pytest
import torch

from unnoise.cli import main
from unnoise.data import load
from unnoise.data.pictures import save_png
from unnoise.errors import UsageProblem
from unnoise.model import Model, train_model
from unnoise.networks import UNetOptions
from unnoise.papers.dsbm import SchroedingerBridge, held_out
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.samplers import BridgeFlow, Uniform
from unnoise.training import TrainingOptions

SMALL = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Digits and clothes at 8x8: 80 steps to digits, 40 back."""
    training = TrainingOptions(
        steps=120, batch_size=64, lr=3e-3, ema=1000, precision="fp32", checkpoint_every=60, preview_every=120
    )
    recipe = SchroedingerBridge(
        data="digits", other="fashion-mnist", first_steps=80, half_steps=40, pairs=64, refresh=40, walk_steps=4,
        sampling_steps=8, network=SMALL, training=training,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("dsbm") / "run"
    train_model(recipe, load("digits"), path)
    return path


@torch.no_grad()
def test_it_learns_both_ways_in_seconds(run):
    """The guess of either end from the middle of bridges between held-out rows is better than the best guess that knows only
    means and variances of the pixels."""
    model = Model.load(run)
    assert model.source["step"] == 120
    digits, clothes = held_out("digits", model.spec), held_out("fashion-mnist", model.spec)[:293]
    process, t = model.denoiser.process, torch.full((293,), 0.3, dtype=torch.float64)
    for bridged, near, far in (
        (model.denoiser, digits, clothes),
        (model.denoiser.mirrored, clothes, digits),
    ):
        xt = process.marginal(near, t, far).sample(Rng.from_seeds(range(293)))
        error = float((bridged(xt, t).mean - near).square().mean())
        variance, noise = near.var(0), 0.3**2 * far.var(0) + 0.3 * 0.7
        assert error < float((variance * noise / (0.7**2 * variance + noise)).mean())
    assert list((run / "pictures").glob("samples-*.png"))


def test_samples_go_from_held_out_images_either_way(run):
    model = Model.load(run)
    clothes, digits = held_out("fashion-mnist", model.spec), held_out("digits", model.spec)
    for start, here, there in ((None, clothes, digits), ("digits", digits, clothes)):
        x = model.sample(range(32), start=start)
        from_here, from_there = (float((x.mean(0) - end.mean(0)).square().mean()) for end in (here, there))
        assert from_there < from_here
    torch.testing.assert_close(model.sample([5, 295]), model.sample(range(296))[[5, 295]], atol=1e-4, rtol=0)
    flow = replace(model.recipe.sampling(), step=BridgeFlow(), grid=Uniform(6, end=0.02))
    assert model.sample(range(4), flow).isfinite().all()
    with pytest.raises(UsageProblem, match="unknown start 'mnist'"):
        model.sample([0], start="mnist")
    with pytest.raises(UsageProblem, match="leave guidance and thresholds out"):
        model.sample([0], replace(flow, threshold="clip"))


def test_the_command_takes_held_out_images_over(run, capsys):
    for start in ([], ["--start", "digits"]):
        assert main(["sample", str(run), "--count", "4", "--steps", "4", *start]) == 0
    folders = sorted((run / "samples").glob("euler-maruyama-4-png-*"))
    assert len(folders) == 2
    starts = {json.loads((folder / "sampling.json").read_text())["start"] for folder in folders}
    assert starts == {None, "digits"}
    assert all(len(list((folder / "images").glob("*.png"))) == 4 for folder in folders)
    assert all((folder / "start.png").exists() for folder in folders)
    assert main(["sample", str(run), "--start", "faces"]) == 2
    assert main(["sample", str(run), "--sampler", "heun"]) == 2
    said = capsys.readouterr().err
    assert "unknown start 'faces'" in said and "bridge-flow" in said
    assert main(["sample", str(run), "--count", "4", "--steps", "4", "--sampler", "bridge-flow"]) == 0


def test_what_cannot_be_is_told_before_a_run_is_begun(tmp_path):
    with pytest.raises(UsageProblem, match="a bridge has two"):
        SchroedingerBridge(conditional=True)
    with pytest.raises(UsageProblem, match="has its own"):
        SchroedingerBridge(reference="ou", sigma=0.5)
    for recipe, why in (
        (SchroedingerBridge(data="digits", other="nowhere"), "unknown data set 'nowhere'"),
        (SchroedingerBridge(data="digits", other="fashion-mnist", coupling="paired"), "are no pairs"),
        (SchroedingerBridge(data="digits", other="digits"), "both ends of the bridge are digits"),
    ):
        with pytest.raises(UsageProblem, match=why):
            train_model(recipe, load("digits"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    one_way = SchroedingerBridge(data="digits", other="fashion-mnist", training=TrainingOptions(steps=500))
    with pytest.raises(UsageProblem, match="the way from digits was never learned"):
        one_way.begin(Spec((1, 8, 8)), [0], "digits")


def test_a_run_goes_on_with_the_other_set_it_began_with(tmp_path):
    """Here the other set is a folder, and an image of it is lost."""
    for i in range(3):
        save_png(torch.full((1, 8, 8), 60 * i, dtype=torch.uint8), tmp_path / "others" / "train" / f"{i}.png")
    training = TrainingOptions(steps=1, batch_size=4, preview_every=0)
    recipe = SchroedingerBridge(
        data="digits", other=str(tmp_path / "others"), network=SMALL, pairs=2, training=training
    )
    train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    (tmp_path / "others" / "train" / "1.png").unlink()
    with pytest.raises(UsageProblem, match="other_fingerprint"):
        train_model(recipe, load("digits"), tmp_path / "run", preview=False)


@pytest.mark.parametrize("coupling", ["reference", "optimal", "entropic", "paired"])
@pytest.mark.parametrize("reference", ["brownian", "ou"])
def test_every_coupling_gives_pairs(coupling, reference):
    recipe = SchroedingerBridge(data="emoji-twitter", other="emoji-google", coupling=coupling, reference=reference)
    data = load("emoji-twitter", size=8)
    others = load("emoji-google", size=8)
    x = data.batch(range(6)).x
    x0, _, x1 = recipe.first_pairs(data, others)(x, None, Rng.from_seeds(range(6)))
    assert x0.shape == x1.shape == (6, 3, 8, 8) and x0.dtype == x1.dtype == torch.float32
    if coupling == "paired":
        apart = (x0[:, None] - x1).square().flatten(2).mean(2)
        assert int((apart.argmin(1) == torch.arange(6)).sum()) >= 4
