"""Latent diffusion: it learns; its stages are resumed to the last bit; what makes no sense in latents is refused by name."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.cli import main
from unnoise.data import load
from unnoise.denoisers import inpainting, measured
from unnoise.errors import UsageProblem
from unnoise.explain import errors
from unnoise.generate import generate
from unnoise.likelihood import likelihood
from unnoise.model import Model, train_model
from unnoise.networks import UNetOptions
from unnoise.networks.autoencoder import AutoencoderOptions
from unnoise.networks.captioned import ReaderOptions
from unnoise.papers import find
from unnoise.papers.ldm import LDM, FirstStage
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.training import Interrupted, Run, TrainingOptions
from unnoise.tuning.tune import bundle

FIRST = AutoencoderOptions(channels=32, mult=(1, 2), middle_attention=False, latent=2)
SMALL = UNetOptions(channels=32, mult=(1,), blocks=1, attention=(1,), transformer=1, heads=2)
BRIEF = TrainingOptions(steps=6, batch_size=8, precision="fp32", checkpoint_every=3, preview_every=0)


def brief(**options) -> LDM:
    return LDM(
        autoencoder=FIRST, network=SMALL, training=BRIEF, autoencoder_training=BRIEF, reader=ReaderOptions(16, 1, 2),
        sampling_steps=3, **options,
    )  # fmt: skip


DIGITS = {"data": "digits", "captions": False}


@pytest.fixture(scope="module")
def emoji():
    return load("emoji-twitter", size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory, emoji):
    path = tmp_path_factory.mktemp("ldm") / "run"
    train_model(brief(), emoji, path, preview=False)
    return path


@pytest.mark.slow
def test_it_learns_digits_in_latents(tmp_path):
    training = TrainingOptions(steps=150, batch_size=64, lr=3e-3, ema=2000, precision="fp32", checkpoint_every=150)
    first = replace(training, ema=None)
    recipe = replace(brief(**DIGITS), training=training, autoencoder_training=first)
    model, _ = train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    data = load("digits", "held-out")
    x0, space = data.batch(range(len(data))).x, model.denoiser.space
    rng = Rng.from_seeds(range(len(x0)))
    with torch.no_grad():
        z0 = space.encode(x0, rng)
        assert float((space.decode(z0) - x0).square().mean() / x0.var()) < 0.25
        assert abs(float(z0.std()) - 1) < 0.05
        process = model.denoiser.process
        t = process.schedule.time(torch.tensor(0.0, dtype=torch.float64)).expand(len(x0))  # as much noise as signal
        error = model.denoiser(process.corrupt(z0, t, rng), t).mean - z0
    assert float(error.square().mean() / z0.var()) < 0.45  # by the variance alone 0.5
    images = model.sample(range(4))
    assert images.shape == (4, 1, 8, 8) and images.isfinite().all()
    torch.testing.assert_close(Model.load(tmp_path / "run").sample([2])[0], images[2], atol=2e-2, rtol=0)


def tensors(run: Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {f"{f.name}/{k}": v for f in sorted(run.latest().glob("*.safetensors")) for k, v in load_file(f).items()}


def stop_after(count):
    seen = []

    def on_step(line):
        seen.append(line)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


@pytest.mark.parametrize("stop", [4, 10])
def test_interrupted_in_either_stage_it_goes_on_to_the_last_bit(tmp_path, stop):
    data, recipe = load("digits"), brief(**DIGITS)
    train_model(recipe, data, tmp_path / "whole", preview=False)
    with pytest.raises(Interrupted, match=f"--resume {tmp_path / 'parts'}`"):
        train_model(recipe, data, tmp_path / "parts", preview=False, on_step=stop_after(stop))
    train_model(recipe, data, tmp_path / "parts", preview=False)
    for path in ("", "stages/autoencoder"):
        whole, parts = (tensors(Run.open(tmp_path / name / path)) for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_run_keeps_its_first_stage(run):
    model, first = Model.load(run), Model.load(run / "stages" / "autoencoder")
    assert isinstance(first.recipe, FirstStage) and first.recipe.training.seed == model.recipe.training.seed
    for name, value in first.denoiser.state_dict().items():
        if name != "scale":
            assert torch.equal(model.denoiser.space.state_dict()[name], value), name
    assert float(model.denoiser.space.scale) != 1
    assert not any(p.requires_grad for p in model.denoiser.space.parameters())
    assert "autoencoder" in Run.open(run).config["stages"]


def test_a_first_stage_may_be_taken_from_a_run(tmp_path, run, emoji):
    recipe = replace(brief(), autoencoder=AutoencoderOptions(), first_stage=str(run / "stages" / "autoencoder"))
    model, _ = train_model(recipe, emoji, tmp_path / "other", preview=False)
    assert model.recipe.autoencoder == FIRST and not (tmp_path / "other" / "stages").exists()
    other = json.loads((tmp_path / "other" / "run.json").read_text())
    other["stages"]["autoencoder"] = "0" * 64
    (tmp_path / "other" / "run.json").write_text(json.dumps(other))
    with pytest.raises(UsageProblem, match="begun with other weights of its autoencoder"):
        train_model(recipe, emoji, tmp_path / "other", preview=False)
    for stage, said in (("nowhere", "no run at nowhere"), (str(run), "is a run of ldm, not an autoencoder's")):
        with pytest.raises(UsageProblem, match=said):
            train_model(replace(recipe, first_stage=stage), emoji, tmp_path / "third", preview=False)
    with pytest.raises(UsageProblem, match=r"trained on data of shape \(3, 8, 8\), and these are of \(3, 16, 16\)"):
        train_model(recipe, load("emoji-twitter", size=16), tmp_path / "third", preview=False)
    assert not (tmp_path / "third").exists()


def test_captions_are_told(run, tmp_path):
    model = Model.load(run)
    assert model.recipe.prompts and "face" in model.recipe.vocabulary
    one = model.sample([5], prompt="red heart")
    torch.testing.assert_close(model.sample([4, 5], prompt=["cat face", "red heart"])[1:], one, atol=1e-4, rtol=0)
    assert not torch.equal(model.sample([5], prompt="cat face"), one)
    with pytest.raises(UsageProblem, match="knows no word of 'xyzzy'"):
        model.sample([5], prompt="xyzzy")
    with pytest.warns(UserWarning, match="does not know 'xyzzy'"):
        torch.testing.assert_close(model.sample([5], prompt="red heart xyzzy"), one)
    generate(model, tmp_path / "out", 2, prompt="red heart")
    assert json.loads((tmp_path / "out" / "sampling.json").read_text())["prompt"] == "red heart"
    assert (tmp_path / "out" / "grid.png").exists()


def test_what_makes_no_sense_in_latents_is_refused(run, emoji):
    model = Model.load(run)
    x = emoji.batch(range(2)).x
    with pytest.raises(UsageProblem, match="a likelihood is of data"):
        likelihood(model, x)
    with pytest.raises(UsageProblem, match="a threshold is of data"):
        model.sample([0], replace(model.recipe.sampling(), threshold="clip"))
    with pytest.raises(UsageProblem, match="a measurement is of data"):
        model.sample([0], guidance=[measured(inpainting(x[:1], torch.arange(8) < 4))])
    with pytest.raises(UsageProblem, match="makes no samples by itself"):
        Model.load(run / "stages" / "autoencoder").recipe.sampling()
    with pytest.raises(UsageProblem, match="do not divide by 2"):
        brief(**DIGITS).denoiser(Spec((1, 7, 8)))
    with pytest.raises(UsageProblem, match="is told captions, and digits has none"):
        brief(data="digits").fitted(load("digits"))
    assert bundle(model, model.recipe.sampling(), 2).noise.shape == (2, 2, 4, 4)


def test_a_class_is_a_caption_of_one_word():
    denoiser = brief(conditional=True).denoiser(Spec((3, 8, 8), tuple("abc"))).eval()
    cond = {"label": torch.tensor([0, -1])}
    torch.nn.init.normal_(denoiser.network.network.middle[0].attention.out.weight)
    torch.nn.init.normal_(denoiser.network.network.head.weight)
    z, t = torch.zeros(2, 2, 4, 4), torch.full((2,), 0.5)
    with torch.no_grad():
        told, nothing = denoiser(z, t, cond).mean, denoiser(z, t).mean
    assert not torch.allclose(told[0], nothing[0], atol=1e-4)
    torch.testing.assert_close(told[1], nothing[1])


@pytest.mark.parametrize("preset", LDM.presets)
def test_presets_build_and_give_latents_back(preset):
    recipe = find("ldm").preset(preset)
    size = 256 if preset.startswith("paper") else 32
    told = recipe.hint(torch.zeros(2, 3, size, size), Rng.from_seeds([0, 1])) if recipe.hint else {}
    with torch.device("meta"):
        denoiser = recipe.denoiser(Spec((3, size, size), tuple("abcdefghij")))
        z = torch.zeros(2, *denoiser.space.shape((3, size, size)))
        cond = denoiser.space.told({name: value.to("meta") for name, value in told.items()})
        output = denoiser.network(z, torch.zeros(2), cond or None)
    assert output.shape == z.shape
    parameters = sum(p.numel() for p in denoiser.network.parameters())
    assert preset != "paper" or abs(parameters / 1.45e9 - 1) < 0.05
    assert not recipe.hint or recipe == LDM.from_dict(json.loads(json.dumps(recipe.as_dict())))


def test_pictures_are_completed(tmp_path, emoji):
    model, _ = train_model(brief(captions=False, concat="inpaint"), emoji, tmp_path / "run", preview=False)
    held_out = load("emoji-twitter", "held-out", size=8)
    seeds = [3, len(held_out) + 1, 2]
    x, told = held_out.batch([3, 1, 2]).x, model.recipe.unprompted(model.spec, seeds)
    painted, hole = model.sample(seeds), told["map"] > 0
    assert torch.equal(torch.where(hole, 0.0, painted), torch.where(hole, 0.0, x))
    assert not torch.equal(painted, x) and painted.isfinite().all()
    torch.testing.assert_close(model.sample([2])[0], painted[2], atol=2e-2, rtol=0)
    given = bundle(model, model.recipe.sampling(), 2).cond
    assert given["picture"].shape == (2, 2, 4, 4) and given["map"].shape == (2, 1, 8, 8)
    batch = held_out.batch(range(3))
    assert errors(model.denoiser, lambda a, b: (batch.x, model.recipe.condition(batch)), 3, 2).x0.isfinite().all()
    with pytest.raises(UsageProblem, match="'picture' has no null value"):
        model.sample([0], replace(model.recipe.sampling(), guidance=2.0))
    with pytest.raises(UsageProblem, match="told nothing else; add --no-captions"):
        brief(concat="inpaint")
    with pytest.raises(UsageProblem, match="told nothing else; add --no-conditional"):
        brief(concat="enlarge", captions=False, conditional=True)
    with pytest.raises(UsageProblem, match="cannot be made smaller by 3"):
        brief(concat="enlarge", captions=False, factor=3).denoiser(Spec((3, 8, 8)))


def test_pictures_are_completed_and_enlarged_from_the_command_line(tmp_path, capsys):
    words = ["--size", "8", "--steps", "2", "--batch-size", "8", "--preview-every", "2", "--sampling-steps", "2"]
    words += [
        "--autoencoder.mult",
        "1",
        "1",
        "--autoencoder-training.steps",
        "2",
        "--autoencoder-training.batch-size",
        "8",
    ]
    words += ["--network.channels", "32", "--network.mult", "1", "--network.attention", "1"]
    picture = torch.randint(256, (8, 8, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture[..., 3] = 255
    picture[2:5, 3:7, 3] = 0
    Image.fromarray(picture.numpy()).save(tmp_path / "torn.png")
    run, torn = str(tmp_path / "run"), str(tmp_path / "torn.png")
    assert main(["train", "ldm", "--preset", "inpainting", *words, "--out", run]) == 0
    assert (tmp_path / "run" / "pictures" / "samples-00000002.png").exists()
    assert main(["sample", run, "--count", "2", "--prompt", torn, "--out", str(tmp_path / "out")]) == 0
    painted = torch.stack(
        [torch.from_numpy(np.array(Image.open(p))) for p in sorted((tmp_path / "out" / "images").glob("*.png"))]
    )
    known = picture[..., 3] == 255
    assert torch.equal(painted[:, known], picture[known][:, :3].expand(2, -1, -1))
    assert not torch.equal(painted[0], painted[1])
    Image.fromarray(picture[..., :3].contiguous().numpy()).save(tmp_path / "whole.png")
    assert main(["sample", run, "--count", "1", "--prompt", str(tmp_path / "whole.png")]) == 2
    assert "nowhere transparent" in capsys.readouterr().err
    assert main(["train", "ldm", "--concat", "enlarge", *words, "--out", str(tmp_path / "other")]) == 2
    assert "add --no-captions" in capsys.readouterr().err
    words += ["--no-captions", "--factor", "2", "--out", str(tmp_path / "larger")]
    assert main(["train", "ldm", "--concat", "enlarge", *words]) == 0
    assert main(["sample", str(tmp_path / "larger"), "--count", "1", "--prompt", str(tmp_path / "whole.png")]) == 0
    assert main(["sample", str(tmp_path / "larger"), "--count", "1"]) == 0


def test_from_the_command_line(tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--size", "8", "--steps", "2", "--batch-size", "8", "--preview-every", "0", "--network.channels", "32"]
    first = ["--autoencoder.mult", "1", "--autoencoder-training.steps", "2", "--autoencoder-training.batch-size", "8"]
    network = ["--network.mult", "1", "--network.attention", "1", "--sampling-steps", "2"]
    assert main(["train", "ldm", *small, *first, *network, "--out", run]) == 0
    assert "first, its autoencoder: 2 steps" in capsys.readouterr().out
    assert (tmp_path / "run" / "stages" / "autoencoder" / "pictures" / "samples-00000002.png").exists()
    assert main(["train", "--resume", run, "--steps", "3"]) == 0
    assert main(["sample", run, "--count", "1", "--prompt", "red heart", "--trajectory", "grid"]) == 0
    assert main(["sample", run, "--count", "1", "--prompt", "xyzzy"]) == 2
    assert "knows no word of 'xyzzy'" in capsys.readouterr().err
    assert main(["likelihood", run]) == 2
    assert "a likelihood is of data" in capsys.readouterr().err
