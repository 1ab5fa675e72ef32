"""Samples on disk: each depends on its seed alone; what is there is not made again."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from cli_tools import ENV, command
from PIL import Image

from unnoise.data.stored import read_images
from unnoise.generate import draw, trajectory
from unnoise.model import Model


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.png") if p.name != "grid.png"}


def test_png_grid_and_manifest(cli, edm, tmp_path):
    code, out, _ = cli("sample", edm, "--count", "20", "--seed", "5", "--out", "s", "--steps", "3")
    assert code == 0 and "s/grid.png" in out
    names = sorted(p.name for p in (tmp_path / "s" / "images").iterdir())
    assert names == [f"{seed:08d}.png" for seed in range(5, 25)]
    with Image.open(tmp_path / "s" / "images" / names[0]) as image:
        assert image.size == (8, 8) and image.mode == "L"
    with Image.open(tmp_path / "s" / "grid.png") as sheet:
        assert (
            sheet.width == 10 * 66 + 2 and sheet.height == 2 * 66 + 2
        )  # ten classes, a column each; 8 pixels become 64
    manifest = json.loads((tmp_path / "s" / "sampling.json").read_text())
    assert manifest["sampling"]["sampler"] == "heun" and manifest["sampling"]["steps"] == 3
    assert manifest["run"]["step"] == 4 and manifest["run"]["weights"] == "ema" and manifest["count"] == 20


def test_an_image_depends_on_its_seed_alone(cli, edm, tmp_path):
    """Equal files whatever the batch size, the count, the first seed and the format."""
    for name, words in {
        "a": ["--count", "40", "--batch-size", "64"],
        "b": ["--count", "40", "--batch-size", "16"],
        "c": ["--count", "40", "--batch-size", "1"],
        "d": ["--count", "7", "--seed", "30"],
        "e": ["--count", "40", "--format", "npz", "--batch-size", "33"],
    }.items():
        assert cli("sample", edm, *words, "--steps", "3", "--sampler", "churn", "--out", name)[0] == 0
    a = files(tmp_path / "a")
    assert len(set(a.values())) == 40  # and no two are equal
    assert a == files(tmp_path / "b") == files(tmp_path / "c")
    assert files(tmp_path / "d").items() <= a.items() and len(files(tmp_path / "d")) == 7
    with np.load(tmp_path / "e" / "shards" / "00000000.npz", allow_pickle=False) as shard:
        assert (shard["seeds"] == np.arange(40)).all() and (shard["labels"] == np.arange(40) % 10).all()
        assert torch.equal(torch.from_numpy(shard["images"]), read_images(tmp_path / "a"))


def test_only_what_is_missing_is_made(cli, edm, tmp_path, monkeypatch):
    words = ["sample", edm, "--steps", "2", "--out", "s", "--count"]
    assert cli(*words, 40)[0] == 0
    whole, images = files(tmp_path / "s"), tmp_path / "s" / "images"
    for seed in (3, 17, 39):
        (images / f"{seed:08d}.png").unlink()
    (images / ".00000003.abc.part.png").write_bytes(b"what a killed process leaves")
    asked = []
    draw = Model.sample
    monkeypatch.setattr(
        Model, "sample", lambda self, seeds, *a, **k: asked.append(seeds[:3]) or draw(self, seeds, *a, **k)
    )
    assert cli(*words, 40)[0] == 0
    assert asked == [[3, 17, 39]] and files(tmp_path / "s") == whole
    assert cli(*words, 40)[0] == 0 and len(asked) == 1  # nothing is missing
    assert cli(*words, 42)[0] == 0 and len(files(tmp_path / "s")) == 42


def test_shards_are_of_fixed_size_and_completed(cli, edm, tmp_path, monkeypatch):
    monkeypatch.setattr("unnoise.generate.SHARD", 16)
    words = ["sample", edm, "--steps", "2", "--format", "npz", "--out", "s", "--count"]
    assert cli(*words, 40)[0] == 0
    shards = sorted((tmp_path / "s" / "shards").iterdir())
    assert [p.name for p in shards] == ["00000000.npz", "00000016.npz", "00000032.npz"]
    whole, first = read_images(tmp_path / "s"), shards[0].stat().st_mtime_ns
    shards[1].write_bytes(shards[1].read_bytes()[:100])  # a copy cut short
    assert cli(*words, 40)[0] == 0
    assert torch.equal(read_images(tmp_path / "s"), whole) and shards[0].stat().st_mtime_ns == first
    assert cli(*words, 50)[0] == 0 and len(read_images(tmp_path / "s")) == 50
    assert torch.equal(read_images(tmp_path / "s", 40), whole)


def test_another_configuration_in_the_same_folder_is_refused(refused, cli, edm, ddpm, tmp_path):
    assert cli("sample", edm, "--count", "4", "--steps", "2", "--out", "s")[0] == 0
    before = files(tmp_path / "s")
    for words, says in (
        (["--steps", "3"], "steps 2, not 3"),
        (["--steps", "2", "--seed", "1"], "seed 0, not 1"),
        (["--steps", "2", "--label", "3"], "label None, not 3"),
        (["--steps", "2", "--step", "2"], "other weights (step 4"),
        (["--steps", "2", "--precision", "fp32"], "precision"),
        (["--steps", "2", "--format", "npz"], "format png, not npz"),
    ):
        said = refused(2, "sample", edm, "--count", "4", "--out", "s", *words)
        assert says in said and "choose another --out" in said, said
    assert files(tmp_path / "s") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert "is not empty" in refused(2, "sample", edm, "--out", "mine")


def test_without_out_each_configuration_has_its_folder(cli, edm):
    first, second = (cli("sample", edm, "--count", "2", "--steps", steps, "--format", "grid")[1] for steps in "23")
    assert first != second and "heun-2-grid" in first and cli("sample", edm, "--count", "2", "--steps", "2", "--format",
                                                             "grid")[1] == first  # fmt: skip


def test_options_labels_and_trajectories(cli, edm, ddpm, tmp_path):
    words = ["--count", "2", "--steps", "3", "--sampler", "ddim", "--grid", "karras", "--threshold", "clip"]
    assert cli("sample", edm, *words, "--option", "eta=0.5", "rho=5", "--option", "keep-eps=true", "--out", "o")[0] == 0
    made = json.loads((tmp_path / "o" / "sampling.json").read_text())["sampling"]
    assert (made["eta"], made["rho"], made["keep_eps"], made["threshold"]) == (0.5, 5.0, True, "clip")
    assert cli("sample", edm, "--label", "3", "--count", "20", "--steps", "2", "--format", "npz", "--out", "l")[0] == 0
    with np.load(tmp_path / "l" / "shards" / "00000000.npz") as shard:
        assert set(shard["labels"].tolist()) == {3}
    for kind, name in (("gif", "trajectory.gif"), ("grid", "trajectory.png")):
        words = ["--count", "2", "--steps", "4", "--sampler", "ddim", "--trajectory", kind]
        assert cli("sample", ddpm, *words, "--out", kind)[0] == 0
        with Image.open(tmp_path / kind / name) as film:
            if kind == "gif":
                assert 2 <= film.n_frames <= 5  # frames that look alike are one
            else:
                assert film.size == (5 * 66 + 2, 8 * 66 + 2)  # five states of eight samples


def test_a_trajectory_ends_at_the_sample(edm):
    model = Model.load(edm)
    sampling = model.recipe.sampling().changed(steps=5)
    states = trajectory(model, range(3), sampling, 4)
    assert len(states) == 4 and torch.equal(states[-1], draw(model, range(3), sampling))
    assert not torch.equal(states[0], states[-1])


def test_other_weights_are_other_weights(cli, edm, tmp_path):
    made = {}
    for name, words in {"ema": [], "model": ["--weights", "model"], "two": ["--step", "2"]}.items():
        assert cli("sample", edm, "--count", "2", "--steps", "2", "--out", name, *words)[0] == 0
        made[name] = json.loads((tmp_path / name / "sampling.json").read_text())["run"]
    assert [(run["weights"], run["step"]) for run in made.values()] == [("ema", 4), ("model", 4), ("ema", 2)]
    assert files(tmp_path / "ema") != files(tmp_path / "two")
    a, b = (torch.cat([p.flatten() for p in Model.load(edm, w).denoiser.parameters()]) for w in ("ema", "model"))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sampler", "huen"], "did you mean 'heun'"),
        (["--grid", "karas"], "did you mean 'karras'"),
        (["--option", "eta=0.5"], "unknown option 'eta'"),
        (["--option", "rho"], "name=value"),
        (["--option", "rho=x"], "rho takes float, not 'x'"),
        (["--sampler", "ddim", "--option", "eta=2"], "eta is 2.0, but must lie between 0"),
        (["--steps", "0"], "steps is 0"),
        (["--count", "0"], "count"),
        (["--grid", "integers"], "no integer steps"),
        (["--sampler", "ancestral", "--option", "variance=learned"], "no learned variances"),
        (["--label", "11"], "unknown label '11'"),
        (["--guidance", "3"], "--guidance needs a model"),
        (["--guidance", "nan"], "guidance is nan"),
        (["--classifier", "nan"], "classifier is nan"),
        (["--option", "sigma_max=500"], "sigma_max is 500.0, but must lie above 0 and within the 80 of this model"),
        (["--threshold", "static"], "--threshold takes one of"),
        (["--weights", "emma"], "holds no 'emma'; it holds: ema, model"),
        (["--step", "3"], "no checkpoint of step 3; it has [2, 4]"),
        (["--precision", "fp8"], "--precision takes one of"),
        (["--format", "grid", "--count", "5000"], "too large to be seen"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(refused, edm, tmp_path, words, says):
    said = refused(2, "sample", edm, "--out", "s", "--count", "4", "--steps", "2", *words)
    assert says in said, said
    assert not (tmp_path / "s").exists()


def test_labels_are_refused_without_classes(refused, ddpm):
    assert "without labels" in refused(2, "sample", ddpm, "--label", "3")


def test_a_sampler_that_needs_another_process_is_refused(refused, edm, monkeypatch):
    from unnoise.processes import Process
    from unnoise.samplers import Heun

    class Jumps(Process):
        pass

    monkeypatch.setattr(Heun, "needs", Jumps)
    said = refused(2, "sample", edm, "--sampler", "heun")
    assert "'heun' needs a Jumps process, and this model's is Gaussian" in said


def test_an_interrupted_sampling_goes_on(cli, edm, tmp_path):
    words = ["sample", str(edm), "--count", "400", "--batch-size", "16", "--steps", "20", "--out", str(tmp_path / "s")]
    images = tmp_path / "s" / "images"
    with subprocess.Popen(command(*words), env=ENV, stderr=subprocess.PIPE, text=True) as p:
        deadline = time.monotonic() + 120
        while not any(images.glob("[0-9]*.png")) and p.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        p.send_signal(signal.SIGTERM)
        said = p.stderr.read()
    assert p.returncode == 143 and said.startswith("unnoise: stopped") and "the same command goes on" in said, said
    assert 0 < len(list(images.iterdir())) < 400 and not list(images.glob(".*"))
    assert cli(*words)[0] == 0 and len(list(images.iterdir())) == 400
