"""The command line. Each command is a file here with `run(argv)`; nothing heavy is imported before it is known which."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import unknown
from .failures import told

COMMANDS = {
    "demo": "train, sample and score a small model on real images, in some minutes",
    "papers": "the shelf: what there is, and what was verified",
    "cite": "the BibTeX entry of a paper",
    "data": "list the data sets, and bring those that are not here",
    "train": "train a paper's model on a data set, or go on with a run",
    "sample": "draw samples from a run: pictures, or thousands of files",
    "tune": "find the best grid and solver for a run and a number of evaluations",
    "eval": "score samples against the data, with floors and intervals",
    "likelihood": "bits per dimension of held-out data, exact or bounded",
    "compress": "a file in as few bytes as a model of text can say it in, without loss",
    "decompress": "bring such a file back, bit for bit",
    "explain": "what a run's loss weights at each noise level, and where it is",
    "verify": "check and measure what a paper claims",
}
MODULES = {"eval": "evaluate"}

HELP = """usage: unnoise COMMAND [options]

Diffusion and generative models from the papers: trained, sampled and verified.

{commands}

unnoise COMMAND --help shows every option with its default.
unnoise --version, --help, and --debug (anywhere: a mistake shows its traceback).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a problem, 2 for a wrong request, 128 + n for signal n."""
    # Threads that wait for each other let go of the processor after a while (a third of a millisecond, read when torch is
    # imported): on a machine that is shared, spinning on is what makes two threads many times slower than one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv or os.environ.get("UNNOISE_DEBUG", "0") not in ("", "0")
    argv = [word for word in argv if word != "--debug"]
    before, sys.argv = sys.argv, ["unnoise", *argv]  # what run folders and results record as the command
    try:
        return told(lambda: _dispatch(argv), debug)
    finally:
        sys.argv = before
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from ..crew import disband

            disband()


def _dispatch(argv: list[str]) -> int:
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())), end="")
        return 0
    if command in ("-V", "--version"):
        print(f"unnoise {__version__}")
        return 0
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS)
    module = importlib.import_module(f".{MODULES.get(command, command)}", __name__)
    return module.run(rest) or 0
