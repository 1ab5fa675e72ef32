"""Training from the command line: where it goes, what it records, and that a run goes on to the same bits."""

import json
import signal
import subprocess
import time

import pytest
from cli_tools import ENV, TINY, command, weights

from unnoise.cli import main
from unnoise.training import Run


def test_a_run_has_a_number_and_says_where_things_are(cli, tmp_path):
    for number in (1, 2):
        code, out, _ = cli("train", "ddpm", *TINY, "--steps", "2", "--timesteps", "50")
        assert code == 0 and f"runs/ddpm-digits-{number}" in out
    run = tmp_path / "runs" / "ddpm-digits-2"
    assert {p.name for p in run.iterdir()} >= {"run.json", "metrics.jsonl", "checkpoints", "pictures"}
    config = json.loads((run / "run.json").read_text())
    assert config["command"].startswith("unnoise train ddpm --data digits")
    assert config["recipe"]["timesteps"] == 50 and config["recipe"]["training"]["steps"] == 2
    assert "2 steps (32 images)" in out and f"next: unnoise sample {run.relative_to(tmp_path)}" in out


def test_preview_pictures_are_drawn_when_asked(cli, tmp_path):
    assert (
        cli("train", "ddpm", *TINY, "--preview-every", "1", "--steps", "1", "--timesteps", "50", "--out", "run")[0] == 0
    )
    assert [p.name for p in (tmp_path / "run" / "pictures").glob("samples*")] == ["samples-00000001.png"]


def test_a_run_that_goes_on_ends_with_the_same_bits(cli, tmp_path):
    one = [*TINY, "--decay", "linear", "--network.dropout", "0.1"]
    assert cli("train", "edm", *one, "--steps", "6", "--out", "whole")[0] == 0
    assert cli("train", "edm", *one, "--steps", "3", "--decay", "none", "--out", "parts")[0] == 0
    code, out, err = cli("train", "--resume", "parts", "--steps", "6", "--decay", "linear", "--decay-from", "0.5")
    assert code == 0, err
    assert "6 steps" in out and "from step 3" in err
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    training = Run.open("parts").config["recipe"]["training"]
    assert (training["steps"], training["decay"]) == (6, "linear")
    assert cli("train", "--resume", "parts")[0] == 0  # nothing left to do, and that is no mistake
    assert len(Run.open("parts").journal.read()) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, number):
    words = ["train", "edm", *TINY, "--steps", "120"]
    if not (whole := tmp_path.parent / "whole").exists():  # the same for both signals
        assert main([*words, "--out", str(whole)]) == 0
    run = tmp_path / "run"
    with subprocess.Popen(command(*words, "--out", run), env=ENV, stderr=subprocess.PIPE, text=True) as p:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() and p.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        p.send_signal(number)
        said = p.stderr.read()
    assert p.returncode == 128 + number, said
    sentence = said.splitlines()[-1]
    assert sentence.startswith(f"unnoise: stopped by {signal.Signals(number).name} after step ")
    assert sentence.endswith(f"continue with `unnoise train --resume {run}`") and "of 120" in sentence
    assert Run.open(run).steps() and Run.open(run).steps()[-1] < 120
    assert main(["train", "--resume", str(run)]) == 0
    assert weights(run) == weights(whole)


def test_a_loss_that_is_not_finite_stops_with_a_sentence(refused, tmp_path):
    said = refused(1, "train", "edm", *TINY, "--steps", "50", "--lr", "1e9", "--clip", "None", "--out", "run")
    assert "at step" in said and "lower --lr" in said
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_run_keeps_what_it_was_begun_with(refused, edm, ddpm):
    for words, says in (
        (["--sigma-data", "0.7"], "--sigma-data cannot change"),
        (["--network.channels", "16"], "--network cannot change"),
        (["--data", "fashion-mnist"], "--data cannot change"),
        (["--size", "16"], "--size does not go with --resume"),
        (["--out", "elsewhere"], "--out does not go with --resume"),
        (["--seed", "9", "--steps", "9"], "seed"),
        (["--batch-size", "32", "--steps", "9"], "batch_size"),
    ):
        assert says in refused(2, "train", "--resume", edm, *words)
    assert "is a run of edm, not of ddpm" in refused(2, "train", "ddpm", "--resume", edm)
    assert "holds a run already" in refused(2, "train", "edm", *TINY, "--out", edm)
    assert Run.open(edm).config["recipe"]["training"]["steps"] == 4


def test_data_that_changed_are_noticed(refused, cli, pictures):
    words = ["--data", str(pictures), *TINY[2:], "--steps", "1", "--no-conditional", "--out", "run"]
    assert cli("train", "edm", *words)[0] == 0
    (pictures / "a0.png").unlink()
    assert "begun with other data" in refused(2, "train", "--resume", "run", "--steps", "2")


def test_a_folder_is_found_again_from_elsewhere(cli, pictures, monkeypatch, tmp_path):
    monkeypatch.chdir(pictures.parent)
    words = ["--data", pictures.name, *TINY[2:], "--steps", "1", "--no-conditional", "--out", tmp_path / "run"]
    assert cli("train", "edm", *words)[0] == 0
    monkeypatch.chdir(tmp_path)
    assert cli("train", "--resume", "run", "--steps", "2")[0] == 0
