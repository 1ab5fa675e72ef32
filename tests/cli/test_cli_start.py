"""What is answered at once: help, version, and mistakes in the words themselves."""

import json
import os
import subprocess
import sys
import time

import pytest
from cli_tools import ENV, command, process

import unnoise
from unnoise.cli import COMMANDS

LOADED = (
    "import sys, unnoise.cli as c; code = c.main({argv}); print([code, sorted(m for m in sys.modules if '.' not in m)])"
)


def modules(*argv):
    """The exit code of a command, what it prints, and the modules that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(argv=list(argv))], env=ENV, capture_output=True, text=True
    )
    *text, last = done.stdout.splitlines()
    code, loaded = json.loads(last.replace("'", '"'))
    return code, "\n".join(text), set(loaded)


def test_help_and_version_import_nothing_heavy():
    for argv in ([], ["--help"], ["--version"]):
        code, text, loaded = modules(*argv)
        assert code == 0
        assert not loaded & {"torch", "numpy", "tyro", "rich", "PIL", "scipy"}
        assert (
            all(name in text for name in COMMANDS)
            if argv != ["--version"]
            else text == f"unnoise {unnoise.__version__}"
        )


def test_help_is_answered_in_half_a_second(tmp_path):
    best = 9.0
    for _ in range(5):  # the best of five, of processor time: other work on this machine is not ours
        before, start = os.times(), time.perf_counter()
        subprocess.run(command("--help"), cwd=tmp_path, env=ENV, check=True, capture_output=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, spent, time.perf_counter() - start)
    assert best < 0.5


@pytest.mark.parametrize("name", ["papers", "cite", "data", "eval", "likelihood", "verify", "demo", "train"])
def test_help_of_a_command_needs_no_torch(name):
    code, text, loaded = modules(name, "--help")
    assert code == 0 and f"usage: unnoise {name}" in text and "torch" not in loaded


def test_help_shows_every_default_of_the_preset(cli):
    code, laptop, _ = cli("train", "ddpm", "--help")
    assert code == 0
    for words in (
        "--network.channels INT",
        "--steps INT",
        "(default: 1800)",
        "--timesteps INT",
        "(default: fashion-mnist)",
    ):
        assert words in laptop
    _, paper, _ = cli("train", "ddpm", "--preset", "paper", "--help")
    assert "(default: 800000)" in paper and "(default: cifar10)" in paper


def test_help_of_sample_names_samplers_grids_and_their_options(cli):
    _, text, _ = cli("sample", "--help")
    for words in ("ancestral: eta=1.0", "churn: inner=heun", "karras: sigma_min=0.002"):
        assert words in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["smaple"], "did you mean 'sample'"),
        (["papers", "--jsn"], "unknown option --jsn; did you mean --json"),
        (["papers", "x"], "'x'"),
        (["cite"], "PAPER is missing"),
        (["cite", "dpm"], "did you mean 'ddpm'"),
        (["train"], "which paper"),
        (["train", "dppm"], "did you mean 'ddpm'"),
        (["train", "ddpm", "--stepz", "3"], "unknown option --stepz; did you mean --steps"),
        (["train", "ddpm", "--steps", "x"], "--steps takes a whole number, not 'x'"),
        (["train", "ddpm", "--steps"], "--steps takes a value"),
        (["train", "ddpm", "--steps", "0"], "steps must be a whole number, 1 or more, not 0"),
        (["train", "ddpm", "--minutes", "x"], "--minutes takes a number or None, not 'x'"),
        (["train", "ddpm", "--lr", "-1"], "lr must be a positive number"),
        (["train", "ddpm", "--loss", "l3"], "--loss takes one of simple, bound, not 'l3'"),
        (["train", "ddpm", "--preset", "huge"], "unknown preset 'huge'"),
        (["train", "ddpm", "--network.embedding", "x"], "--network.embedding takes one of"),
        (["train", "ddpm", "--size", "1", "2", "3"], "--size takes one number"),
        (["train", "ddpm", "--channels", "2", "--data", "digits"], "channels is 1 (grey) or 3 (colour), not 2"),
        (["train", "ddpm", "--trackers", "none"], "--trackers takes one of"),
        (["sample"], "RUN is missing"),
        (["eval"], "is missing"),
        (["likelihood"], "RUN is missing"),
        (["verify"], "which paper"),
        (["verify", "ddpm", "--seeds", "a"], "--seeds takes whole numbers"),
        (["verify", "ddpm", "--only", "nothing"], "nothing"),
        (["verify", "dpm"], "did you mean 'ddpm'"),
        (["data", "lst"], "did you mean 'list'"),
        (["data", "get", "mnits"], "did you mean 'mnist'"),
        (["papers", "--results", "nowhere"], "nowhere holds no results"),
        (["demo", "--minutes", "0"], "--minutes must be a positive number"),
    ],
)
def test_a_wrong_request_is_told_in_a_sentence(refused, tmp_path, argv, says):
    assert says in refused(2, *argv)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_fetched_is_refused_before_it_is_announced(cli):
    code, out, err = cli("data", "get", "nothing")
    assert code == 2 and out == "" and err.startswith("unnoise: unknown data set to fetch 'nothing'")


def test_debug_shows_the_traceback(cli, monkeypatch, tmp_path):
    from unnoise.errors import UsageProblem

    with pytest.raises(UsageProblem, match="did you mean 'ddpm'"):
        cli("cite", "dpm", "--debug")
    monkeypatch.setenv("UNNOISE_DEBUG", "1")
    with pytest.raises(UsageProblem, match="did you mean 'ddpm'"):
        cli("cite", "dpm")
    monkeypatch.delenv("UNNOISE_DEBUG")
    done = process("cite", "dpm", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_reader_that_leaves_is_no_mistake(tmp_path):
    """`unnoise data list | head -1`, but for certain: the pipe is closed before anything is written."""
    with subprocess.Popen(
        command("data", "list"), cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as p:
        p.stdout.close()
        assert p.stderr.read() == b""
    assert p.returncode == 141


def test_faults_are_told_apart_from_mistakes(monkeypatch, cli):
    from unnoise.cli import cite

    for error, code, says in (
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "not enough memory"),
        (OSError(28, "No space left on device", "/x"), 1, "/x: No space left on device; free some space"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero"),
    ):

        def fail(argv, error=error):
            raise error

        monkeypatch.setattr(cite, "run", fail)
        got, out, err = cli("cite", "ddpm")
        assert (got, out) == (code, "") and says in err and err.count("\n") == 1
