"""`unnoise tune`, and sampling by what it found."""

import json
import signal
import subprocess
import time

import pytest
from cli_tools import ENV, command

TUNE = ("--nfe", "2", "--latents", "16")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, edm):
    """A copy of the run, tuned for two evaluations."""
    import shutil

    from unnoise.cli import main

    run = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(edm, run)
    assert main(["tune", str(run), *TUNE]) == 0
    return run


def made(folder):
    return json.loads((folder / "sampling.json").read_text())["sampling"]


def test_it_is_kept_and_used(cli, tuned, tmp_path):
    [path] = (tuned / "tuned").iterdir()
    kept = json.loads(path.read_text())
    assert kept["errors"]["tuned"] <= kept["errors"]["family"] and kept["run"]["step"] == 4
    code, out, err = cli("sample", tuned, "--nfe", "2", "--count", "3", "--out", "s")
    assert code == 0 and "by     what was tuned (" in out and ": 2 steps, 2 evaluations" in out and not err, (out, err)
    assert made(tmp_path / "s") == kept["sampling"]
    assert cli("sample", tuned, "--nfe", "2", "--count", "3", "--out", "s")[0] == 0  # the same command goes on


def test_without_it_as_many_steps_as_fit(cli, tuned, tmp_path):
    for words, by, steps in (
        (["--nfe", "4"], "heun on karras: 2 steps, 3 evaluations", 2),  # nothing is tuned for 4
        (["--nfe", "2", "--threshold", "clip"], "heun on karras: 1 steps, 1 evaluations", 1),  # nor under this
        (["--nfe", "2", "--sampler", "unipc"], "unipc on karras: 2 steps, 2 evaluations", 2),  # a sampler is named
    ):
        code, out, _ = cli(
            "sample", tuned, *words, "--count", "2", "--format", "grid", "--out", f"s{steps}{words[1]}{len(words)}"
        )
        assert code == 0 and by in out, out
    code, out, _ = cli("sample", tuned, "--steps", "2", "--count", "2", "--out", "plain")
    assert code == 0 and made(tmp_path / "plain")["sampler"] == "heun" and "by " not in out  # steps are steps


def test_other_weights_are_told(cli, tuned, tmp_path):
    code, _, err = cli("sample", tuned, "--nfe", "2", "--weights", "model", "--count", "2", "--out", "m")
    assert code == 0 and "belongs to other weights (ema of step 4)" in err and "run `unnoise tune` again" in err, err
    assert made(tmp_path / "m")["sampler"] == "heun"


def test_json_and_the_words(cli, tuned):
    code, out, _ = cli("tune", tuned, *TUNE, "--json")
    found = json.loads(out)
    assert code == 0 and found["evaluations"] == 2 and set(found["errors"]) == {"own", "family", "tuned"}
    before = json.loads(next((tuned / "tuned").iterdir()).read_text())
    assert found["sampling"] == before["sampling"]  # the same search finds the same
    code, out, _ = cli("tune", tuned, *TUNE)
    assert code == 0 and "best of the family: " in out and f"unnoise sample {tuned} --nfe 2 uses it" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nfe", "0"], "--nfe is 0"),
        (["--latents", "3"], "--latents is 3"),
        (["--nfe", "x"], "--nfe takes a whole number"),
        (["--guidance", "3"], "--guidance needs a model"),
        (["--threshold", "much"], "--threshold takes one of"),
        (["--step", "3"], "no checkpoint of step 3"),
    ],
)
def test_what_cannot_be_tuned_is_refused(refused, edm, words, says):
    assert says in refused(2, "tune", edm, *words)
    assert not (edm / "tuned").exists()


def test_runs_that_are_none_are_refused(refused, tmp_path):
    assert "there is no run at nowhere" in refused(2, "tune", "nowhere")
    assert "is missing" in refused(2, "tune")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nfe", "0"], "--nfe is 0"),
        (["--nfe", "2", "--steps", "2"], "leave one out"),
        (["--nfe", "1", "--sampler", "annealed-langevin"], "not one step of the sampler annealed-langevin"),
        (["--nfe", "9", "--sampler", "rk45"], "not one step of the sampler rk45"),
    ],
)
def test_numbers_of_evaluations_that_do_not_fit_are_refused(refused, edm, words, says):
    assert says in refused(2, "sample", edm, *words)


def test_a_damaged_file_is_told(refused, tuned):
    path = tuned / "tuned" / "5-guidance-1-none.json"
    for text in ("{", "[]", '{"sampling": {}}', '{"evaluations": 5, "sampling": 3}'):
        path.write_text(text)
        assert "run `unnoise tune` again" in refused(1, "sample", tuned, "--nfe", "5", "--count", "2")
    path.unlink()


def test_an_interrupted_search_leaves_nothing(edm):
    with subprocess.Popen(command("tune", edm, "--nfe", "9"), env=ENV, stderr=subprocess.PIPE, text=True) as p:
        time.sleep(6)
        assert p.poll() is None
        p.send_signal(signal.SIGTERM)
        said = p.stderr.read()
    assert p.returncode == 143 and said.startswith("unnoise: stopped; nothing was written"), said
    assert not (edm / "tuned").exists()
