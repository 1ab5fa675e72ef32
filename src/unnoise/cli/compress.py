"""`unnoise compress RUN FILE` and `unnoise decompress RUN FILE`: a file in as few bytes as a model of text can say it in."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..errors import Problem, UsageProblem
from .parse import parse
from .show import Counter

SUFFIX = ".unz"


@dataclass(frozen=True)
class Compress:
    """Write a file in as few bytes as a run's model of text can say it in; `unnoise decompress` brings it back bit for bit.

    Every symbol costs -log2 of the probability that the model gives it. Reading needs the same run.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A folder that `unnoise train` made, of a model that masks symbols (ardm)."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Any file; text in the model's alphabet becomes small."""
    out: Path | None = None
    """Where it goes; FILE.unz if left out."""
    steps: int | None = None
    """Calls of the network for each window of the text: fewer are quicker, and cost some more bits; one for each symbol if
    left out."""
    weights: str = "ema"
    """ema, model (as trained, without averaging), or ema-power-..."""
    step: int | None = None
    """The checkpoint of this step; the newest if left out."""


@dataclass(frozen=True)
class Decompress:
    """Bring back, bit for bit, a file that `unnoise compress` wrote with the same run."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run that compressed it."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """What `unnoise compress` wrote."""
    out: Path | None = None
    """Where it goes; FILE without .unz if left out."""
    weights: str = "ema"
    """Those that compressed it."""
    step: int | None = None
    """The checkpoint that compressed it; the newest if left out."""


def run(argv: list[str]) -> None:
    form = parse(Compress, argv, "compress")
    from ..compression import WINDOWS, compress
    from ..disk import disk_errors, write_file
    from ..model import Model

    content, out = _read(form.file), form.out or form.file.with_name(form.file.name + SUFFIX)
    _free(out)
    model = Model.load(form.run, form.weights, form.step)
    windows = max(1, -(-len(content) // model.spec.shape[-1]))
    with Counter("compressing", windows, windows > WINDOWS, "windows") as counter:
        packed = compress(model, content, form.steps, lambda done: counter(min(done, windows)))
    with disk_errors(str(out)):
        write_file(out, packed.content)
    print(f"{form.file}: {len(content):,} bytes in {len(packed.content):,}, written to {out}")
    print(f"  {packed.bits / max(packed.symbols, 1):.4f} bits a symbol, {packed.symbols:,} symbols")
    if packed.exceptions:
        print(f"  {packed.exceptions:,} bytes say where characters are none of the model's alphabet")


def run_decompress(argv: list[str]) -> None:
    form = parse(Decompress, argv, "decompress")
    from ..compression import decompress
    from ..disk import disk_errors, write_file
    from ..model import Model

    packed, out = _read(form.file), form.out
    if out is None:
        if form.file.suffix != SUFFIX:
            raise UsageProblem(f"{form.file} does not end in {SUFFIX}; say with --out where its content goes")
        out = form.file.with_suffix("")
    _free(out)
    content = decompress(Model.load(form.run, form.weights, form.step), packed)
    with disk_errors(str(out)):
        write_file(out, content)
    print(f"{len(content):,} bytes, as they were, written to {out}", file=sys.stdout)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}); give the path of a file") from error


def _free(out: Path) -> None:
    if out.exists():
        raise UsageProblem(f"{out} is there already; take it away, or choose another --out")
