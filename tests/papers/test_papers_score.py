"""The recipes of ncsn, ncsnv2 and score-sde beyond what the shelf asks of every paper: their options, trained and sampled."""

from dataclasses import replace

import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import Blind
from unnoise.errors import UsageProblem
from unnoise.likelihood import Chain, Flow, likelihood
from unnoise.model import Model, train_model
from unnoise.networks import RefineNetOptions, UNetOptions
from unnoise.objectives import Dequantised, Matching, Sliced, implied_weighting
from unnoise.papers import find
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.samplers import AnnealedLangevin, EulerMaruyama, Langevin, PredictorCorrector, ReverseDiffusion
from unnoise.training import TrainingOptions

SMALL = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())
DIGITS = Spec((1, 8, 8), tuple("0123456789"), 17, 0.75)
BRIEF = TrainingOptions(steps=4, batch_size=16, lr=1e-3, precision="fp32", checkpoint_every=4, preview_every=0)
QUICK = Flow("heun", steps=4, divergence="rademacher")


def recipe(slug, **options):
    options = {"data": "digits", "network": SMALL, "training": BRIEF, **options}
    return replace(find(slug).laptop(), **options)


def test_ncsn_matches_scores_or_slices_of_any_weight():
    spec = DIGITS
    plain, sliced = (recipe("ncsn", loss=loss).objective(spec) for loss in ("denoising", "sliced"))
    assert isinstance(plain, Dequantised) and type(plain.objective) is Matching and type(sliced.objective) is Sliced
    assert type(recipe("ncsn", dequantise=False).objective(spec)) is Matching
    process = recipe("ncsn").process()
    even, unweighted = (implied_weighting(recipe("ncsn", power=p).objective(spec), process) for p in (2.0, 0.0))
    sigma = torch.exp(-even.log_snr / 2)
    torch.testing.assert_close(unweighted.weight, even.weight / sigma**2)


def test_slices_are_trained_in_full_precision(tmp_path):
    """U-Nets are not differentiated twice in bfloat16: that is chosen where nothing else was asked for, and told where it was."""
    for precision in ("auto", "fp32"):
        sliced = recipe("ncsn", loss="sliced", training=replace(BRIEF, precision=precision))
        _, result = train_model(sliced, load("digits"), tmp_path / precision, preview=False)
        assert result.steps == 4
    with pytest.raises(UsageProblem, match="precision fp32"):
        asked = recipe("ncsn", loss="sliced", training=replace(BRIEF, precision="bf16"))
        train_model(asked, load("digits"), tmp_path / "bf16", preview=False)


@pytest.mark.parametrize("blind", [True, False])
@pytest.mark.parametrize("slug", ["ncsn", "ncsnv2"])
def test_the_papers_network_trains_and_samples(slug, blind, tmp_path):
    """The RefineNet of ncsn gives the score itself; that of ncsnv2, blind or not, sigma times it."""
    options = {"blind": blind} if slug == "ncsnv2" else {"loss": "sliced" if blind else "denoising"}
    small = RefineNetOptions(channels=8, levels=None)
    chosen = recipe(slug, backbone="refinenet", refinenet=small, levels=4, corrections=2, **options)
    model, _ = train_model(chosen, load("digits"), tmp_path / "run", preview=False)
    network = model.denoiser.network
    assert network.options.levels == (None if slug == "ncsnv2" and blind else 4)
    assert model.sample(range(3)).shape == (3, 1, 8, 8)
    point = model.denoiser.process.points([0.5])[0]
    p, q = model.denoiser.preconditioning.relation(point)
    expected = (-1 / point.sigma**2, 1 / point.sigma**2) if slug == "ncsn" else None
    if expected:
        assert (p, q) == pytest.approx(expected)
    assert isinstance(model.denoiser.preconditioning, Blind) == (slug == "ncsnv2" and blind)
    with pytest.raises(UsageProblem, match="no labels"):
        replace(chosen, conditional=True).denoiser(DIGITS)


def test_ncsnv2_takes_its_ladder_from_the_data(tmp_path):
    """Technique 1 by hand, on all pairs; the run records it, goes on with it, and other options of the ladder are kept."""
    data, unfit = load("digits"), recipe("ncsnv2")
    x = data.batch(range(len(data))).x.flatten(1).double()
    diameter = float(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").max())
    fit = unfit.fitted(data)
    assert fit.sigma_max == pytest.approx(diameter, abs=1e-4) and fit.levels == fit.ladder().levels
    assert fit.fitted(load("digits", "held-out")) == fit
    assert unfit.ladder((1, 8, 8)).sigma_max == pytest.approx(16) and not unfit.levels  # what [-1, 1]^64 allows
    assert replace(unfit, levels=7).fitted(data).ladder().levels == 7
    assert replace(unfit, sigma_max=3.0).fitted(data).sigma_max == 3.0
    model, _ = train_model(unfit, data, tmp_path / "run", preview=False)
    assert model.recipe == fit and Model.load(tmp_path / "run").recipe == fit
    longer = replace(unfit, training=replace(BRIEF, steps=6))
    model, result = train_model(longer, data, tmp_path / "run", preview=False)
    assert result.steps == 6 and model.recipe.sigma_max == fit.sigma_max
    step, points = model.recipe.sampling().step, model.recipe.sampling().grid(model.denoiser.process)
    assert isinstance(step, AnnealedLangevin) and points[0].sigma == pytest.approx(fit.sigma_max)
    with pytest.raises(UsageProblem, match="left to its data"):
        unfit.process()


@pytest.mark.parametrize("sde", ["ve", "vp", "sub-vp"])
@pytest.mark.parametrize("weighting", ["simple", "likelihood"])
def test_every_sde_trains_samples_and_has_a_likelihood(sde, weighting, tmp_path):
    chosen = recipe("score-sde", sde=sde, weighting=weighting, sampling_steps=3)
    model, _ = train_model(chosen, load("digits"), tmp_path / "run", preview=False)
    assert model.recipe == chosen.fitted(load("digits")) and (model.recipe.sigma_max is None) == (sde != "ve")
    assert model.sample(range(2)).isfinite().all()
    x0 = load("digits", "held-out").batch(range(2)).x
    for method in (QUICK, "continuous", Chain(5)):
        assert likelihood(model, x0, method).bits.isfinite().all()


@pytest.mark.parametrize("slug", ["ncsn", "ncsnv2"])
def test_ladders_have_a_bound_and_a_flow(slug, tmp_path):
    model, _ = train_model(recipe(slug), load("digits"), tmp_path / "run", preview=False)
    x0 = load("digits", "held-out").batch(range(2)).x
    for method in (QUICK, "bound", "importance"):
        found = likelihood(model, x0, method)
        assert found.bits.isfinite().all()
        assert method is QUICK or int(found.evaluations[0]) % model.recipe.levels == 0


@pytest.mark.parametrize("sde", ["ve", "vp", "sub-vp"])
def test_likelihood_weighting_is_g_squared(sde):
    """g^2 |score - true score|^2 is twice what the option weights, by the SDE's own g; the mean over numbers."""
    chosen = recipe("score-sde", sde=sde, weighting="likelihood", sigma_max=50.0)
    process = chosen.process()
    x0 = torch.randn(6, 5, dtype=torch.float64)
    from unnoise.oracles import gaussian

    denoiser = gaussian(torch.zeros(5), 0.4).denoiser(process)
    loss = chosen.objective(DIGITS)(denoiser, x0, None, Rng.for_step(0, 0, range(6)))
    plain = Matching("score", chosen.objective(DIGITS).times)(denoiser, x0, None, Rng.for_step(0, 0, range(6)))
    g = process.diffusion(loss.t, x0).reshape(-1)
    torch.testing.assert_close(2 * loss.per_example, (1 - 1e-5) * g**2 * plain.per_example, rtol=1e-9, atol=0)


def test_the_published_samplers_and_all_others():
    ve, vp = (recipe("score-sde", sde=sde).step() for sde in ("ve", "vp"))
    assert (
        isinstance(ve.predictor, ReverseDiffusion) and isinstance(ve.corrector, Langevin) and ve.corrector.snr == 0.16
    )
    assert isinstance(vp.predictor, EulerMaruyama) and vp.corrector is None
    for sde in ("ve", "vp", "sub-vp"):
        for predictor in ("reverse-diffusion", "ancestral", "euler-maruyama", "none"):
            for corrector in ("langevin", "annealed-langevin", "none"):
                options = {"predictor": predictor, "corrector": corrector, "corrections": 2, "sigma_max": 10.0}
                chosen = recipe("score-sde", sde=sde, **options)
                if predictor == corrector == "none":
                    with pytest.raises(UsageProblem, match="neither"):
                        chosen.sampling()
                    continue
                sampling = chosen.sampling()
                assert isinstance(sampling.step, PredictorCorrector)
                assert (sampling.describe()["predictor"] or "none") == predictor
                assert (sampling.describe()["corrector"] or "none") == corrector
                points = sampling.grid(chosen.process())
                assert points[-1].is_clean and points[-2].t == pytest.approx(0 if sde == "ve" else 1e-3)
