"""Every kind of data: what is written is read again and what is scored knows the data from something else."""

import pytest
import torch
from PIL import Image

from unnoise.data import load
from unnoise.errors import Problem, UsageProblem
from unnoise.kinds import KINDS, kind_of, takes
from unnoise.metrics import evaluate
from unnoise.recipe import Spec
from unnoise.rng import stream

SPECS = {
    "images": Spec((3, 6, 5)),
    "text": Spec((9,), kind="text", alphabet=tuple("ab \n'é")),
    "sound": Spec((1, 4000), kind="sound", rate=8000),
    "points": Spec((3,), kind="points", manifold="sphere"),
}


def samples(kind, count=7):
    """Of a model: what its process leaves, not yet rounded to what a file holds."""
    g = stream(5)
    if kind == "text":
        return torch.randint(0, 6, (count, 9), generator=g)
    x = torch.randn(count, *SPECS[kind].shape, generator=g)
    return x / x.norm(dim=1, keepdim=True) if kind == "points" else x.mul(0.3).clamp(-1, 1)


def test_every_kind_is_tried_here():
    assert set(SPECS) == set(KINDS)


@pytest.mark.parametrize("name", SPECS)
def test_files_give_back_what_was_stored(name, tmp_path):
    spec, kind = SPECS[name], kind_of(SPECS[name])
    stored = kind.finish(samples(name), spec)
    path = tmp_path / f"x.{kind.suffix}"
    kind.save(stored if kind.single else stored[3], path, spec)
    written, read = stored if kind.single else stored[3], kind.read(path, spec)
    assert read.dtype == written.dtype
    torch.testing.assert_close(
        read, written, atol=1e-6 if name == "points" else 0, rtol=0
    )  # points pass through degrees
    decoded = kind.decode(stored, spec)
    assert decoded.shape == samples(name).shape
    torch.testing.assert_close(kind.finish(decoded, spec), stored)
    if name in ("sound", "points"):
        assert (decoded - samples(name)).abs().max() < 1e-4


@pytest.mark.parametrize("name", SPECS)
def test_the_sheet_is_a_picture_or_a_page(name, tmp_path):
    spec, kind = SPECS[name], kind_of(SPECS[name])
    path = kind.sheet(kind.finish(samples(name), spec), tmp_path, spec)
    assert path == tmp_path / kind.page and path == kind.where(tmp_path, "")
    if path.suffix == ".png":
        with Image.open(path) as picture:
            assert min(picture.size) > 100 and len(picture.convert("RGB").getcolors(1 << 24)) > 2
    else:
        words = kind.words(kind.finish(samples(name), spec)[2], spec)
        assert words in path.read_text() and len(words) == 9
    assert kind.sheet(kind.finish(samples(name), spec), tmp_path, spec, name="step-1").stem == "step-1"


def test_text_marks_what_is_still_masked_and_refuses_strangers():
    kind, spec = KINDS["text"], SPECS["text"]
    assert kind.words(torch.tensor([0, 6, 1]), spec) == "a_b"
    assert kind.tokens("ab é", spec).tolist() == [0, 1, 2, 5]
    with pytest.raises(Problem, match="'x' is none of the 6"):
        kind.tokens("ax", spec)


@pytest.mark.parametrize("name", ["text", "sound", "points"])
def test_scores_tell_data_from_something_else(name):
    spec, kind = SPECS[name], kind_of(SPECS[name])
    g = stream(9)

    def rows(count, shift):
        if name == "text":
            return torch.randint(0, 6 - 4 * shift, (count, 9), generator=g)
        x = torch.randn(count, *spec.shape, generator=g) * 0.2
        if name == "sound":
            wave = torch.sin(torch.arange(4000) * (0.5 if shift else 2.0))
            return 0.3 * wave + 0.1 * x
        x = x + torch.tensor([1.0, shift, 0.0])
        return x / x.norm(dim=1, keepdim=True)

    train, held_out, good, bad = (kind.finish(rows(c, s), spec) for c, s in ((300, 0), (150, 0), (150, 0), (150, 1)))
    near, far = (
        {row.metric: row for row in evaluate(x, train, held_out, bootstrap=0, about=spec).rows} for x in (good, bad)
    )
    for metric in ("sliced_wasserstein", "kernel_cubic"):
        assert near[metric].features == kind.looks
        assert far[metric].value > 3 * max(near[metric].value, near[metric].floor)


def test_a_paper_refuses_data_of_another_kind():
    with pytest.raises(UsageProblem, match="learns images, and book is text"):
        takes(("images",), "ddpm", "book", "text")
    with pytest.raises(UsageProblem, match="channels is for images"):
        load("state-of-the-union", channels=1)


@pytest.mark.parametrize("name", ["book.txt", "places.csv"])
def test_a_file_that_is_not_there_is_told(name, tmp_path):
    with pytest.raises(UsageProblem, match=f"there is no file .*{name}; give the path"):
        load(tmp_path / name)
