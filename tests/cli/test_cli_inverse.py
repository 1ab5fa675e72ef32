"""What is known of a sample, and what class a classifier leads it to, on the command line."""

import json

import pytest
import torch
from cli_tools import TINY
from PIL import Image

from unnoise.cli import main
from unnoise.cli.known import KnownForm
from unnoise.cli.known import known as known_of
from unnoise.data.pictures import save_png
from unnoise.data.stored import read_images
from unnoise.model import Model


@pytest.fixture(scope="session")
def adm(tmp_path_factory):
    """A run of adm on digits, a network without labels and a classifier, of 4 steps."""
    out = tmp_path_factory.mktemp("adm") / "run"
    small = ["channels", "8", "mult", "1", "blocks", "1"]
    classifier = [f"--classifier-network.{w}" if w.isalpha() else w for w in small] + ["--classifier-network.attention"]
    words = ["train", "adm", *TINY, *classifier, "--steps", "4", "--timesteps", "50", "--out", str(out)]
    assert main(words) == 0
    return out


@pytest.fixture
def known(tmp_path):
    """A picture of 8x8, and a mask whose left half is kept."""
    x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.ones(1, 8, 8)
    mask[..., :4] = -1
    save_png(mask, tmp_path / "mask.png")
    save_png(x, tmp_path / "x.png")
    return ["--image", "x.png", "--inpaint", "mask.png"]


def levels(path):
    """A grey picture's, (height, width)."""
    with Image.open(path) as image:
        return torch.tensor(list(image.tobytes()), dtype=torch.int32).view(image.height, image.width)


@pytest.mark.parametrize("more", [[], ["--covariance", "jacobian"], ["--sampler", "ancestral"]])
def test_the_known_half_is_kept(cli, edm, known, tmp_path, more):
    assert (
        cli("sample", edm, "--count", "4", "--steps", "4", "--out", "s", "--precision", "fp32", *known, *more)[0] == 0
    )
    images = read_images(tmp_path / "s")
    gap = (images.int() - levels(tmp_path / "x.png")).abs()
    assert int(gap[..., :4].max()) <= 1 and int(gap[..., 4:].max()) > 1
    assert len({image.numpy().tobytes() for image in images}) == 4
    told = json.loads((tmp_path / "s" / "sampling.json").read_text())["known"]
    assert told["kind"] == "inpaint" and set(told) == {"kind", "image", "mask", "covariance"}


def test_a_small_image_is_enlarged(cli, edm, tmp_path):
    save_png(torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5, tmp_path / "small.png")
    words = ["--count", "2", "--steps", "2", "--format", "grid", "--image", "small.png", "--enlarge", "2", "--out", "s"]
    assert cli("sample", edm, *words)[0] == 0
    told = json.loads((tmp_path / "s" / "sampling.json").read_text())["known"]
    assert told["kind"] == "enlarge" and told["factor"] == 2

    model = Model.load(edm)  # the numbers themselves: this model's are far outside of black and white
    guidance, _ = known_of(KnownForm(image=tmp_path / "small.png", enlarge=2), model)
    sampling = model.recipe.sampling().changed(steps=4, threshold="none")
    x = model.sample(range(2), sampling, guidance=guidance, precision="fp32")
    want = levels(tmp_path / "small.png").float() / 127.5 - 1
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(x, 2), want.expand(2, 1, -1, -1), rtol=0, atol=1e-5)


def test_colour_is_given_to_a_grey_picture(cli, tmp_path):
    words = ["train", "ddpm", *TINY[2:], "--data", "emoji-google", "--size", "8", "--steps", "1", "--timesteps", "50"]
    assert cli(*words, "--out", "run")[0] == 0
    save_png(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5, tmp_path / "grey.png")
    known = ["--image", "grey.png", "--colourise"]
    assert cli("sample", "run", "--count", "2", "--steps", "2", "--format", "grid", "--out", "s", *known)[0] == 0

    model = Model.load(tmp_path / "run")
    guidance, _ = known_of(KnownForm(image=tmp_path / "grey.png", colourise=True), model)
    sampling = model.recipe.sampling().changed(steps=4, threshold="none")
    x = model.sample(range(2), sampling, guidance=guidance, precision="fp32")
    want = levels(tmp_path / "grey.png").float() / 127.5 - 1
    torch.testing.assert_close(x.mean(1), want.expand(2, -1, -1), rtol=0, atol=1e-4)
    assert float((x - x.mean(1, keepdim=True)).abs().mean()) > 0.01  # and the colours are free


def test_another_image_is_another_folder(cli, edm, known, tmp_path, refused):
    words = ["sample", edm, "--count", "2", "--steps", "2", "--format", "grid"]
    first = cli(*words, *known)[1]
    plain = cli(*words)[1]
    save_png(torch.zeros(1, 8, 8), tmp_path / "x.png")
    second = cli(*words, *known)[1]
    assert len({first, plain, second}) == 3
    assert cli(*words, "--out", "s", *known)[0] == 0
    save_png(torch.ones(1, 8, 8), tmp_path / "x.png")
    assert "choose another --out" in refused(2, *words, "--out", "s", *known)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--image", "x.png"], "--image needs one of"),
        (["--inpaint", "mask.png"], "--inpaint needs --image"),
        (["--colourise"], "--colourise needs --image"),
        (["--image", "x.png", "--inpaint", "mask.png", "--enlarge", "2"], "and no more"),
        (["--image", "x.png", "--colourise"], "this one's are grey"),
        (["--image", "x.png", "--enlarge", "3"], "divides 8 and 8, 2 or more, not 3"),
        (["--image", "x.png", "--enlarge", "two"], "--enlarge takes a whole number"),
        (["--image", "x.png", "--inpaint", "white.png"], "white.png is all white"),
        (["--image", "x.png", "--inpaint", "mask.png", "--covariance", "full"], "--covariance takes one of"),
        (["--classifier", "2"], "--classifier needs a model with a classifier"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(refused, edm, known, tmp_path, words, says):
    save_png(torch.ones(1, 8, 8), tmp_path / "white.png")
    said = refused(2, "sample", edm, "--out", "s", "--count", "2", "--steps", "2", *words)
    assert says in said, said
    assert not (tmp_path / "s").exists()


def test_files_that_are_not_there_or_no_images(refused, edm, known, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for words, says in (
        (["--image", "y.png", "--inpaint", "mask.png"], "y.png"),
        (["--image", "text.png", "--inpaint", "mask.png"], "text.png is not an image"),
    ):
        assert says in refused(1, "sample", edm, "--out", "s", "--count", "2", "--steps", "2", *words)


def test_a_classifier_leads_to_a_label(cli, adm, tmp_path):
    words = ["sample", adm, "--count", "4", "--steps", "5"]
    for name, more in {
        "three": ["--label", "3"],
        "five": ["--label", "5"],
        "none": ["--classifier", "0"],
        "strong": ["--label", "3", "--classifier", "50"],
        "ddim": ["--label", "3", "--sampler", "ddim"],
    }.items():
        assert cli(*words, *more, "--out", name)[0] == 0
    told = json.loads((tmp_path / "three" / "sampling.json").read_text())
    assert (
        told["sampling"]["sampler"] == "guided-ancestral" and told["sampling"]["classifier"] == 1 and told["label"] == 3
    )
    images = {name: read_images(tmp_path / name) for name in ("three", "five", "none", "strong")}
    assert len({x.numpy().tobytes() for x in images.values()}) == 4


def test_a_label_needs_the_classifier(refused, adm):
    said = refused(2, "sample", adm, "--count", "2", "--steps", "2", "--label", "3", "--classifier", "0")
    assert "only a classifier leads this model to a label" in said
    assert "unknown label '12'" in refused(2, "sample", adm, "--label", "12")


def test_adm_has_several_published_presets(cli, refused):
    out = cli("train", "adm", "--preset", "paper-256", "--help")[1]
    assert "paper-512" in out
    assert "unknown preset 'paper-256'" in refused(2, "train", "ddpm", "--preset", "paper-256")


def test_a_classifier_needs_labels(refused, pictures):
    said = refused(2, "train", "adm", *TINY[2:], "--data", pictures, "--steps", "1")
    assert "pass --no-classifier" in said
