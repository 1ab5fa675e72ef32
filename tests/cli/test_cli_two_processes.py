"""`accelerate launch -m unnoise ...` with two processes on a CPU: the same training, the same files."""

import subprocess
import sys

import pytest
import torch
from cli_tools import ENV, TINY
from safetensors.torch import load_file

from unnoise.cli import main
from unnoise.training import Run

LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    " --mixed_precision no --dynamo_backend no -m unnoise"
)


def launch(cwd, *argv):
    done = subprocess.run(
        [sys.executable, *LAUNCH.split(), *map(str, argv)], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=240
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_training_and_sampling_with_two_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "edm", *TINY, "--steps", "6", "--precision", "fp32"]
    done = launch(tmp_path, *words)
    assert done.stdout.count("run folder runs/edm-digits-1") == 1  # one voice, one folder
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["edm-digits-1"]
    assert main([*words, "--out", "one"]) == 0
    one, two = Run.open("one"), Run.open("runs/edm-digits-1")
    for a, b in zip(one.journal.read(), two.journal.read(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    expected = load_file(one.latest() / "ema.safetensors")
    for name, value in load_file(two.latest() / "ema.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)

    words = ["sample", "one", "--steps", "2", "--batch-size", "16", "--count", "40"]
    for kind in ("png", "npz"):
        assert main([*words, "--format", kind, "--out", f"{kind}-one"]) == 0
        done = launch(tmp_path, *words, "--format", kind, "--out", f"{kind}-two")
        assert done.stdout.count("40 samples") == 1
    a, b = tmp_path / "png-one", tmp_path / "png-two"
    names = sorted(p.relative_to(a) for p in a.rglob("*.png"))
    assert len(names) == 41 and names == sorted(p.relative_to(b) for p in b.rglob("*.png"))
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in names)
    shard = "shards/00000000.npz"
    assert (tmp_path / "npz-one" / shard).read_bytes() == (tmp_path / "npz-two" / shard).read_bytes()
