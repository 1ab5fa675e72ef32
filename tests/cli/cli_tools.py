"""The command, as a person runs it (a process) or in this one; and a network that is trained in a second."""

import os
import subprocess
import sys
from pathlib import Path

FLAGS = (
    "--data digits --network.channels 8 --network.mult 1 --network.blocks 1 --network.attention"
    " --network.no-middle-attention --batch-size 16 --preview-every 0 --warmup 1"
)
TINY = FLAGS.split()
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*argv, python=(), launch=()) -> list[str]:
    return [sys.executable, *python, *launch, "-m", "unnoise", *map(str, argv)]


def process(*argv, cwd: Path, env=None, python=(), **how) -> subprocess.CompletedProcess:
    """The real command in a process of its own."""
    return subprocess.run(
        command(*argv, python=python), cwd=cwd, env={**ENV, **(env or {})}, capture_output=True, text=True, timeout=180, **how
    )  # fmt: skip


def weights(run: Path) -> dict[str, bytes]:
    """The files of tensors of the newest checkpoint."""
    newest = max((run / "checkpoints").glob("step-*"))
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}
