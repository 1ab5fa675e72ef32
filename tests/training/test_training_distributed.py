"""Two processes are one: the same batches, losses and weights, whether each holds all weights or a half."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_toys import Denoiser, Game, Simple, fit, tensors

from unnoise.training import Run

TOYS = {"simple": Simple, "game": Game}


def launch(*arguments: str) -> subprocess.CompletedProcess:
    command = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    command += " --mixed_precision no --dynamo_backend no"
    script = str(Path(__file__).with_name("training_in_two.py"))
    return subprocess.run(
        [sys.executable, *command.split(), script, *arguments],
        capture_output=True, text=True, timeout=180, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module", params=["replicated", "sharded"])
def two(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    done = launch(str(folder), *(["shard"] if request.param == "sharded" else []))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    for name, objective in TOYS.items():
        fit(folder / name, objective(), denoiser=Denoiser(dropout=0.0), steps=10, checkpoint_every=5, keep=9)
    return folder


@pytest.mark.parametrize("name", TOYS)
def test_losses_and_weights_agree_with_one_process(one, two, name):
    a, b = Run.open(one / name), Run.open(two[0] / name)
    lines = list(zip(a.journal.read(), b.journal.read(), strict=True))
    assert len(lines) == 10
    for x, y in lines:
        for key in x.keys() - {"seconds", "images_per_s"}:
            assert x[key] == pytest.approx(y[key], rel=1e-5, abs=1e-7), (x["step"], key)
    expected, found = tensors(a, 10), tensors(b, 10)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", TOYS)
def test_two_processes_resume_to_the_last_bit(two, name):
    whole, parts = Run.open(two[0] / name), Run.open(two[0] / f"{name}-parts")
    assert parts.steps() == [5, 8, 10]
    found = tensors(parts, 10)
    for key, value in tensors(whole, 10).items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", TOYS)
def test_one_process_goes_on_from_two(one, two, name, tmp_path):
    shutil.copytree(two[0] / name, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000010")
    fit(tmp_path / "run", TOYS[name](), denoiser=Denoiser(seed=9, dropout=0.0), resume=True, steps=10)
    found = tensors(Run.open(tmp_path / "run"), 10)
    for key, value in tensors(Run.open(one / name), 10).items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7)


def test_previews_show_whole_averaged_weights(two):
    for name in TOYS:
        run = Run.open(two[0] / name)
        shown = [float(text) for text in (run.pictures / "10.txt").read_text().split()]
        assert torch.equal(torch.tensor(shown), tensors(run, 10)["ema/network.0.weight"].flatten())


def test_a_problem_is_told_once(two):
    told = [line.removeprefix("told: ") for line in two[1].splitlines() if line.startswith("told: ")]
    assert [sentence.split(",")[0].split(";")[0] for sentence in told[:2]] == [
        "stopped by SIGTERM after step 8 of 10"
    ] * 2
    assert "was begun with seed 0, not 5" in told[2]
    assert told[3] == "batch_size 7 must be a multiple of the 2 processes"
    assert "could not be written (File too large)" in told[4] and len(told) == 5
    assert Run.open(two[0] / "full").steps() == []
