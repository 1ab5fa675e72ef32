"""What people get wrong and machines go through: one sentence each, nothing half-written, no traceback."""

import os
import resource
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli_tools import TINY, process

from unnoise.cli import evaluate
from unnoise.data.pictures import save_png
from unnoise.data.stored import read_images
from unnoise.papers import find
from unnoise.verify import Claim, Finding

ONE = [*TINY[2:], "--no-conditional", "--steps", "1", "--out", "run"]


@contextmanager
def full_disk(size):
    """The system refuses to let files grow beyond `size` bytes, as it does when the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def hidden(folder):
    return [path for path in folder.rglob(".*")]


def test_folders_of_pictures(refused, tmp_path, pictures):
    assert "there is no folder" in refused(1, "train", "edm", "--data", "./photos", *ONE)
    assert "unknown data set 'fashon-mnist' (did you mean 'fashion-mnist'" in refused(
        2, "train", "edm", "--data", "fashon-mnist"
    )
    (tmp_path / "empty").mkdir()
    assert "there is no image in" in refused(1, "train", "edm", "--data", "empty", *ONE)
    (tmp_path / "file.png").write_bytes(b"")
    assert "is a file" in refused(1, "train", "edm", "--data", str(tmp_path / "file.png"), *ONE)
    broken = pictures / "a3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert "a3.png" in refused(1, "train", "edm", "--data", str(pictures), *ONE)
    broken.unlink()
    broken.symlink_to("nowhere.png")
    assert "a3.png cannot be read (No such file" in refused(1, "train", "edm", "--data", str(pictures), *ONE)
    broken.unlink()
    broken.write_text("this is no picture")
    assert "a3.png is not an image" in refused(1, "train", "edm", "--data", str(pictures), *ONE)
    save_png(torch.zeros(1, 9, 9), broken)
    assert "2 different sizes" in refused(2, "train", "edm", "--data", str(pictures), *ONE)
    assert not (tmp_path / "run").exists()


def test_labels_are_asked_for_where_there_are_none(refused, pictures, tmp_path):
    words = [word for word in ONE if word != "--no-conditional"]
    assert "pass --no-conditional" in refused(2, "train", "edm", "--data", str(pictures), *words)
    assert not (tmp_path / "run").exists()


def test_no_network_for_a_set_that_must_be_fetched(tmp_path):
    nowhere = {"UNNOISE_DATA": str(tmp_path / "sets"), "HF_HUB_OFFLINE": "1"}
    nowhere |= {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    nowhere |= {
        "npm_config_registry": "http://127.0.0.1:9",
        "npm_config_fetch_retries": "0",
        "NO_PROXY": "",
        "no_proxy": "",
    }
    done = process("data", "get", "mnist", cwd=tmp_path, env=nowhere)
    assert done.returncode == 1
    first, sentence = done.stderr.splitlines()
    assert first.startswith("fetching mnist")
    assert sentence.startswith("unnoise: cannot fetch mnist: ") and "connect to the network" in sentence
    assert not list((tmp_path / "sets").iterdir())
    done = process("train", "ddpm", "--data", "mnist", cwd=tmp_path, env=nowhere)
    assert (
        done.returncode == 1 and done.stderr == "unnoise: mnist is not on this machine; run `unnoise data get mnist`\n"
    )
    for offline in ("1", "0"):  # by wish, and by a network that does not answer: asked once, and in silence
        env = nowhere | {"HF_HUB_OFFLINE": offline}
        done = process("train", "ddpm", "--data", "hf:nobody/nothing", cwd=tmp_path, env=env)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("unnoise: cannot load nobody/nothing (the Hugging Face hub cannot be reached")
        assert "the network" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_runs_that_are_none(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    for command in (["sample"], ["likelihood"], ["train", "--resume"]):
        assert "there is no run at nowhere" in refused(2, *command, "nowhere")
        assert "has no run.json" in refused(2, *command, "folder")
    (tmp_path / "folder" / "run.json").write_text("{")
    assert "cannot be read as JSON" in refused(1, "sample", "folder")
    (tmp_path / "folder" / "run.json").write_text("{}")
    for command in (["sample"], ["train", "--resume"]):
        assert "does not describe a model" in refused(1, *command, "folder")
    (tmp_path / "folder" / "run.json").write_text('{"paper": "gan", "recipe": {}, "spec": {"shape": [1, 8, 8]}}')
    assert "unknown paper 'gan'" in refused(2, "sample", "folder")


def test_a_checkpoint_that_is_damaged_or_of_another_model(cli, refused, edm, ddpm, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(edm, run)
    ema = run / "checkpoints" / "step-00000004" / "ema.safetensors"
    whole = ema.read_bytes()
    ema.write_bytes(whole[:-100])
    assert "ema.safetensors has" in refused(1, "sample", "run", "--step", "4", "--count", "1")
    code, out, err = cli("sample", "run", "--count", "1", "--steps", "2")  # the one before is taken, and that is said
    assert code == 0 and "step 2" in out
    assert err.startswith("unnoise: warning: checkpoint") and "looking for an older" in err and err.count("\n") == 1
    ema.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert "is not what was written" in refused(1, "sample", "run", "--step", "4", "--count", "1")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(ddpm / "checkpoints", run / "checkpoints")
    assert "is of another model" in refused(1, "sample", "run", "--count", "1")
    assert "is of another model" in refused(1, "train", "--resume", "run", "--steps", "6")
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint yet" in refused(1, "sample", "run")


def test_places_that_cannot_be_written(refused, edm, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file" in refused(1, "train", "edm", *TINY, "--steps", "1", "--out", "file/run")
    assert "file" in refused(2, "train", "edm", *TINY, "--steps", "1", "--out", "file")
    assert "file" in refused(2, "sample", edm, "--count", "1", "--out", "file")
    assert "file" in refused(1, "sample", edm, "--count", "1", "--steps", "2", "--out", "file/s")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folders_without_permission(refused, edm, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "locked" in refused(1, "train", "edm", *TINY, "--steps", "1", "--out", "locked/run")
    assert "locked" in refused(1, "sample", edm, "--count", "1", "--out", "locked/s")


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="a folder in which nobody may write")
def test_a_folder_that_nobody_may_write_into(refused, edm, tmp_path, monkeypatch):
    place = "/sys/kernel/unnoise"
    says = "could not be written ("
    said = refused(1, "train", "edm", *TINY, "--steps", "1", "--out", f"{place}/run")
    assert said.startswith(f"the run folder {place}/run {says}") and said.endswith("choose another place for the run")
    said = refused(1, "sample", edm, "--count", "1", "--steps", "2", "--out", f"{place}/s")
    assert said.startswith(f"{place}/s/sampling.json {says}") and said.endswith("choose another folder")
    said = refused(1, "verify", "ddpm", "--only", "noise_beats_mean", "--work", place)
    assert place in said and said.endswith("choose another place for the run")
    monkeypatch.setenv("UNNOISE_DATA", place)
    done = refused(1, "data", "get", "mnist")
    assert done.startswith(f"the folder {place} {says}") and done.endswith(
        "set UNNOISE_DATA to a folder that can be written"
    )
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_training(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = ["train", "edm", *TINY, "--steps", "3", "--checkpoint-every", "1", "--out", "run"]
    done = process(*words, cwd=tmp_path, preexec_fn=limit)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(
        "unnoise: the checkpoint run/checkpoints/step-"
    )
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_full_disk_while_sampling(cli, refused, edm, tmp_path):
    words = ["sample", edm, "--steps", "2", "--format"]
    many, few = ["--count", "320"], ["--count", "64"]
    with full_disk(900):  # not even for what is asked for
        said = refused(1, *words, "npz", *many, "--out", "s")
    assert "s/sampling.json could not be written (File too large); free some space" in said
    assert not (tmp_path / "s").exists()
    with full_disk(2500):  # for that, but not for the images
        said = refused(1, *words, "npz", *many, "--out", "s")
    assert "s/shards/00000000.npz could not be written" in said and not (tmp_path / "s").exists()
    with full_disk(2500):  # for each image, but not for the sheet of all
        said = refused(1, *words, "png", *few, "--out", "p")
    assert "p/grid.png could not be written" in said and len(list((tmp_path / "p" / "images").iterdir())) == 64
    assert not hidden(tmp_path)
    assert cli(*words, "png", *few, "--out", "p")[0] == 0 and len(read_images(tmp_path / "p")) == 64


def test_a_full_disk_for_results(cli, refused, edm, tmp_path, monkeypatch):
    run = shutil.copytree(edm, tmp_path / "run")
    eval_ = ["eval", run, "--count", "60", "--steps", "2", "--bootstrap", "0", "--features", "pixels"]
    bits = ["likelihood", run, "--method", "bound", "--steps", "3", "--count", "2"]
    assert cli(*eval_)[0] == cli(*bits)[0] == 0
    before = [(run / name).read_bytes() for name in ("eval.json", "likelihood.json")]

    def score_and_fill(*arguments, **options):
        report = score(*arguments, **options)
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return report

    score = evaluate.score
    monkeypatch.setattr(evaluate, "score", score_and_fill)
    with full_disk(1 << 30):
        assert "run/eval.json could not be written (File too large); free some" in refused(1, *eval_)
    with full_disk(900):
        assert "run/likelihood.json could not be written (File too large); free some" in refused(
            1, *bits, "--seed", "9"
        )
    assert before == [(run / name).read_bytes() for name in ("eval.json", "likelihood.json")] and not hidden(run)


def test_a_full_disk_for_what_was_verified(refused, tmp_path, monkeypatch):
    def better(lab):
        return Finding.over_seeds([0.5, 0.25], {})

    ddpm = find("ddpm")
    monkeypatch.setattr(
        ddpm, "info", replace(ddpm.info, claims=[Claim("better", "a is better", "", better)], checks=[])
    )
    with full_disk(100):
        said = refused(1, "verify", "ddpm", "--seeds", "0,1")
    assert "claims/ddpm/better-" in said and "could not be written (File too large); free some space" in said
    assert not (tmp_path / "results").exists() and not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_eval_of_what_is_no_picture(refused, tmp_path, pictures):
    assert "there is nothing at nowhere" in refused(2, "eval", "nowhere")
    assert "say what to compare it with" in refused(2, "eval", str(pictures))
    for words in (["--sampler", "heun"], ["--guidance", "2"], ["--batch-size", "16"], ["--weights", "model"]):
        said = refused(2, "eval", str(pictures), "--data", "digits", *words)
        assert said.startswith(f"{words[0]} is for samples of a run")
    (tmp_path / "empty").mkdir()
    assert "there is no image in empty" in refused(1, "eval", "empty", "--data", "digits")
    np.savez(tmp_path / "floats.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    np.savez(tmp_path / "five.npz", x=np.zeros((4, 5, 8, 8), np.uint8))
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "five.npz").read_bytes()[:90])
    for name, says in (("floats", "cannot be read"), ("five", "have 5 channels"), ("objects", "cannot be read"),
                       ("torn", "cannot be read")):  # fmt: skip
        assert says in refused(1, "eval", f"{name}.npz", "--data", "digits")
