"""Law 12 and what every paper's file promises: it builds at both sizes, its checks hold, it learns real images in seconds."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unnoise.data import load
from unnoise.errors import UsageProblem
from unnoise.model import Model, train_model
from unnoise.networks import UNetOptions
from unnoise.papers import find, shelf, slugs
from unnoise.processes import Dissipating, Gaussian
from unnoise.recipe import Recipe, Sampling, Spec
from unnoise.rng import Rng
from unnoise.samplers import DDIM, Heun, Integers, Karras
from unnoise.training import TrainingOptions

COLOUR = Spec((3, 32, 32), tuple("abcdefghij"))
EXAMPLES = {
    "images": COLOUR,
    "text": Spec((64,), kind="text", alphabet=tuple("abcdefghijklmnopqrstuvwxyz ")),
    "sound": Spec((1, 4096), tuple("abcdefghij"), kind="sound", rate=8000),
    "points": Spec((3,), kind="points", manifold="sphere"),
}
"""Data of each kind, as a model is told of them."""
SMALL = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())
CHECKS = [(slug, check) for slug, recipe in shelf().items() for check in recipe.info.checks]


def own(slug: str) -> Path:
    """The tests of a paper whose network or data are of a kind of their own: what is common here is shown there."""
    return Path(__file__).with_name(f"test_papers_{slug.replace('-', '_')}.py")


def ordinary(slug: str) -> bool:
    """Whether a paper is a network on images that guesses images, trained alone."""
    recipe = find(slug).laptop()
    return "images" in recipe.takes and "def test_it_learns" not in (
        own(slug).read_text() if own(slug).exists() else ""
    )


ORDINARY = [slug for slug in slugs() if ordinary(slug)]


def built(recipe, kind):
    """A preset's denoiser on data of a kind; None where its network is of another of the kinds that the paper takes."""
    try:
        return recipe.denoiser(EXAMPLES[kind])
    except UsageProblem:
        if len(recipe.takes) == 1:
            raise
        return None


@pytest.mark.parametrize("slug", sorted(set(slugs()) - set(ORDINARY)))
def test_a_paper_of_its_own_kind_builds_and_shows_elsewhere_that_it_learns(slug):
    assert "def test_it_learns" in own(slug).read_text()
    for preset in find(slug).presets:
        recipe = find(slug).preset(preset)
        with torch.device("meta"):
            denoiser = next(filter(None, (built(recipe, kind) for kind in recipe.takes)))
        assert sum(p.numel() for p in denoiser.parameters()) > 0


@pytest.mark.parametrize("preset", ["laptop", "paper"])
@pytest.mark.parametrize("slug", ORDINARY)
def test_presets_build_and_give_images_back(slug, preset):
    recipe = find(slug).preset(preset)
    with torch.device("meta"):
        denoiser = recipe.denoiser(COLOUR)
        cond = {"label": torch.zeros(2, dtype=torch.int64)} if recipe.conditional else None
        output = denoiser.network(torch.zeros(2, 3, 32, 32), torch.zeros(2), cond)
    assert output.shape == (2, 6 if denoiser.learned_range else 3, 32, 32)


@pytest.mark.parametrize("slug", slugs())
@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_options_survive_json(slug, preset):
    recipe = find(slug).preset(preset)
    assert find(slug).from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


@pytest.mark.parametrize(("slug", "check"), CHECKS, ids=[f"{slug}-{check.name}" for slug, check in CHECKS])
def test_exact_checks_hold(slug, check):
    row = check.run()
    assert row["holds"], row


@pytest.mark.parametrize("slug", slugs())
def test_every_paper_has_what_the_shelf_shows(slug):
    info = find(slug).info
    assert info.slug == slug and info.summary and info.claims and info.checks
    assert info.arxiv in info.bibtex() and info.title in info.bibtex()
    assert len({claim.name for claim in info.claims if claim.measure}) == sum(
        c.measure is not None for c in info.claims
    )
    assert all(claim.reason for claim in info.claims if claim.measure is None)


@torch.no_grad()
def held_out_error(model: Model) -> float:
    """Mean square error of the guess of held-out digits at sigma / alpha = 1/2, as one of the noise, relative to that of the
    best guess which knows only the variance of the data. With blur, at less noise: where all frequencies are still heard.
    Without noise: relative to that of the degraded digits, at t = 1/10.
    """
    data = load("digits", "held-out")
    x0, process = data.batch(range(len(data))).x, model.denoiser.process
    noisy = isinstance(process, Gaussian)
    tenth = torch.tensor(0.1, dtype=torch.float64)
    log_snr = 3.5 if noisy and process.by_frequency else math.log(4)
    t = (process.schedule.time(log_snr) if noisy else tenth).expand(len(x0))
    xt = process.corrupt(x0, t, Rng.from_seeds(range(len(x0))))
    cond = {"label": data.labels} if model.recipe.conditional else None
    error = model.denoiser(xt, t, cond).mean - x0
    if not noisy:
        return float(error.square().mean() / (process.data(xt) - x0).square().mean())
    point = process.at(t, xt)
    snr, variance = (point.alpha / point.sigma) ** 2, float(x0.var())
    linear = (snr * variance / (snr * variance + 1)).expand_as(x0)
    return float((snr * process.state(error).square()).mean() / linear.mean())


def few_steps(model: Model) -> Sampling:
    """Five steps that suit the process."""
    if hasattr(model.recipe, "timesteps"):
        return Sampling(DDIM(), Integers(5))
    if isinstance(getattr(model.denoiser.process, "schedule", None), Dissipating):
        return model.recipe.sampling().changed(steps=5)
    return Sampling(Heun(), Karras(5))


@pytest.mark.parametrize("slug", ORDINARY)
def test_it_learns_digits_in_seconds(slug, tmp_path):
    training = TrainingOptions(steps=120, batch_size=64, lr=3e-3, ema=2000, precision="fp32", checkpoint_every=60)
    recipe = replace(find(slug).laptop(), data="digits", network=SMALL, training=training)
    model, result = train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    assert result.steps == 120
    assert held_out_error(model) < 0.6  # a network that learned only the scale of the data has 1
    few = few_steps(model)
    images = model.sample(range(4), few)
    assert images.shape == (4, 1, 8, 8) and images.isfinite().all()
    again = Model.load(tmp_path / "run").sample([2], few)
    torch.testing.assert_close(again[0], images[2], atol=2e-2, rtol=0)


def test_unknown_names_are_told_in_a_sentence():
    with pytest.raises(UsageProblem, match="did you mean 'ddpm'"):
        find("ddpn")
    with pytest.raises(UsageProblem, match="unknown preset"):
        find("ddpm").preset("huge")
    with pytest.raises(UsageProblem, match="no option 'colour'"):
        find("ddpm").from_dict({"colour": 1})
    with pytest.raises(UsageProblem, match="no labels"):
        find("edm").laptop().denoiser(Spec((1, 8, 8)))


def test_sampling_can_be_changed_by_name():
    sampling = (
        find("edm").laptop().sampling().changed(sampler="churn", grid="log-snr", steps=7, options={"s_churn": "3"})
    )
    assert sampling.describe()["s_churn"] == 3.0 and sampling.grid.steps == 7 and sampling.grid.name == "log-snr"
    with pytest.raises(UsageProblem, match="unknown option 'churn'"):
        sampling.changed(options={"churn": "3"})
    with pytest.raises(UsageProblem, match="s_churn takes"):
        sampling.changed(options={"s_churn": "much"})


def test_recipe_of_a_paper_is_a_recipe():
    assert all(issubclass(recipe, Recipe) for recipe in shelf().values())
