"""Figures: the same bytes from the same numbers, kept with the claim, carried to the results."""

from dataclasses import replace

import pytest
from PIL import Image

from unnoise.errors import Problem
from unnoise.figures import draw
from unnoise.papers import find
from unnoise.verify import Claim, Finding
from unnoise.verify.lab import Lab
from unnoise.verify.report import verify


def curve(*panels):
    for axes in panels:
        axes.loglog([1, 10, 100], [1, 0.1, 0.01], label="a")
        axes.set(xlabel="levels", ylabel="nats")
        axes.legend()


def test_same_numbers_same_bytes(tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / f"{name}.png", curve)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (720, 480) and "Software" not in image.info
    draw(tmp_path / "new" / "two.png", curve, 2)
    with Image.open(tmp_path / "new" / "two.png") as image:
        assert image.size == (1080, 480)


def test_a_figure_that_fails_leaves_the_old_one(tmp_path):
    draw(tmp_path / "a.png", curve)
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ZeroDivisionError):
        draw(tmp_path / "a.png", lambda axes: 1 / 0)
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(Problem, match="could not be written"):
        draw(tmp_path / "a.png" / "b.png", curve)


@pytest.fixture
def paper(monkeypatch):
    """paper(claims) makes them DDPM's; the experiment's name is its figure's."""
    ddpm, info, measured = find("ddpm"), find("ddpm").info, []

    def experiment(lab):
        measured.append(lab)
        return Finding.computed([0.5], {}, [lab.picture("bends", curve)])

    def plain(lab):
        return Finding.computed([0.5, -0.5], {})

    def of(*names):
        known = {"experiment": experiment, "plain": plain}
        claims = [Claim(name, "a bends", "figure 1", known[name]) for name in names]
        monkeypatch.setattr(ddpm, "info", replace(info, claims=claims, checks=[]))
        return measured

    return of


def test_figures_go_with_the_results(tmp_path, paper):
    measured, said = paper("experiment", "plain"), []
    lab, results = Lab(tmp_path / "lab", (0, 1), say=said.append), tmp_path / "results"

    def run(**options):
        return verify("ddpm", lab, results=results, say=said.append, **options)["claims"]

    rows = run()
    figure = results / "ddpm" / "bends.png"
    assert [tuple(row["pictures"]) for row in rows] == [("bends",), ()] and figure.exists()
    assert [row["verdict"] for row in rows] == ["reproduced", "not reproduced"]
    assert any(str(figure) in line for line in said)
    before = figure.read_bytes()

    figure.unlink()
    run()
    assert figure.read_bytes() == before and len(measured) == 1  # kept with the claim

    (lab.root / "pictures" / "ddpm" / "bends.png").unlink()
    run()
    assert figure.read_bytes() == before and len(measured) == 2  # a figure that is lost is measured again

    (results / "ddpm" / "stale.png").write_bytes(b"")
    run(only="experiment")
    assert (results / "ddpm" / "stale.png").exists()  # one claim alone changes no results
    run()
    assert [file.name for file in (results / "ddpm").iterdir()] == ["bends.png"]

    paper("plain")
    run()
    assert not list((results / "ddpm").iterdir())
