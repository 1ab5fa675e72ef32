r"""Points on a manifold as a data set: places on the earth, angles of molecules, rotations of space.

    load("airports")                        # built in: 28,298 airports, on the sphere
    load("torsions")                        # built in: the angles phi and psi of 10,146 residues of a ribosome, on the torus
    load("rotations")                       # built in: 20,000 of a law that is known (`oracles.curved.wrapped_normals`)
    load("quakes.csv")                      # any table of latitudes and longitudes, or of phi and psi, or of rotations

A table has numbers between commas, semicolons, tabs or blanks, a place a line; lines that begin with # are comments. A header
says which columns are meant, in any order: those of a chart (`charts.py`); without one the first two are latitude and longitude.

Held out: one row in five, by the hash of its number. Rows that are alike are not kept together: where the same volcano erupts
again, a model is meant to know.
"""

from __future__ import annotations

import bz2
import re
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import Problem, UsageProblem
from ..rng import Rng
from .charts import CHARTS, Chart
from .dataset import DataSet, Facts
from .splits import held_out

SHIPPED = Path(__file__).parent / "shipped"
RULE = "one row in five, by the sha256 of 'points/' and its number"
MOST = 1 << 28  # bytes of a table that are read
PLACES = CHARTS[0]

AIRPORTS = Facts(
    name="airports",
    shape=(3,),
    train=22_641,
    held_out=5_657,
    rule=RULE,
    licence="MIT",
    source="airportsdata 20260905 (Mike Borsetti)",
    kind="points",
    manifold="sphere",
)
TORSIONS = Facts(
    name="torsions",
    shape=(4,),
    train=8_176,
    held_out=1_970,
    rule=RULE,
    licence="CC0 1.0",
    source="backbone angles phi and psi of 6ZU5, a ribosome of the Worldwide Protein Data Bank",
    kind="points",
    manifold="torus-2",
)
ROTATIONS = Facts(
    name="rotations",
    shape=(9,),
    train=16_029,
    held_out=3_971,
    rule=RULE,
    licence="public domain",
    source="drawn from 16 wrapped normal laws among rotations, as 2202.02763 draws them",
    kind="points",
    manifold="so3",
)


def load(path: str | Path, split: str, size: Any = None) -> DataSet:
    """A split of a table. Raises Problem or UsageProblem, in one sentence, for what is no such table."""
    path = Path(path)
    try:
        changed = path.stat().st_mtime_ns
        points, manifold = _file(str(path.resolve()), changed)
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}); give the path of a table (.csv)") from error
    out = _held_out(len(points))
    facts = Facts(
        name=str(path),
        shape=(points.shape[1],),
        train=int((~out).sum()),
        held_out=int(out.sum()),
        rule=RULE,
        licence="as the owner of the file says",
        source=str(path.resolve()),
        kind="points",
        manifold=manifold,
    )
    return _split(facts, points, split, size)


def built_in(name: str, split: str, size: Any = None) -> DataSet:
    """A split of a table that is shipped, or of points that are drawn."""
    facts, points = BUILT_IN[name]
    return _split(facts, points(), split, size)


@lru_cache(maxsize=2)
def _shipped(file: str) -> Tensor:
    table, found = read(bz2.decompress((SHIPPED / file).read_bytes()).decode(), file)
    return found.points(table)


@lru_cache(maxsize=1)
def _rotations() -> Tensor:
    from ..oracles.curved import wrapped_normals

    return wrapped_normals().sample(Rng.from_seeds(range(20_000))).float()


BUILT_IN = {
    "airports": (AIRPORTS, partial(_shipped, "earth/airports.csv.bz2")),
    "torsions": (TORSIONS, partial(_shipped, "proteins/torsions.csv.bz2")),
    "rotations": (ROTATIONS, _rotations),
}


@lru_cache(maxsize=8)
def _file(path: str, changed: int) -> tuple[Tensor, str]:
    """The points of a file, as it was when last changed, and their manifold."""
    with open(path, "rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise Problem(f"{path} is longer than the {MOST >> 20} MB of a table that are read; give a part of it")
    try:
        table, found = read(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError:
        raise Problem(f"{path} is no text in UTF-8; save the table as one") from None
    return found.points(table), found.manifold


def _held_out(count: int) -> np.ndarray:
    return held_out((f"points/{i}" for i in range(count)), one_in=5)


def _split(facts: Facts, points: Tensor, split: str, size: Any) -> DataSet:
    if size is not None:
        raise UsageProblem(f"{facts.name} holds points, which have no size; leave --size out")
    chosen = torch.from_numpy(_held_out(len(points)) == (split == "held-out"))
    return DataSet(facts, split, points[chosen])


def read(text: str, name: str) -> tuple[Tensor, Chart]:
    """The numbers (n, columns) of a table, float64, and the chart they are of. Raises Problem."""
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise Problem(f"{name} holds no row; give a table of latitudes and longitudes in degrees")
    separator = next((c for c in ",;\t" if c in lines[0][1]), None)
    first = _cells(lines[0][1], separator)
    if any(map(_number, first)):
        found, places = PLACES, (0, 1)
    else:
        found, places = _columns(first, name)
        lines = lines[1:]
        if not lines:
            raise Problem(f"{name} holds a header and no row; give a table with rows")
    rows = np.empty((len(lines), len(places)))
    for row, (i, line) in zip(rows, lines, strict=True):
        cells = _cells(line, separator)
        for k, (what, place, limit) in enumerate(zip(found.names, places, found.limits, strict=True)):
            cell = cells[place] if place < len(cells) else ""
            try:
                row[k] = float(cell)
            except ValueError:
                raise Problem(f"line {i} of {name} has {cell!r} for its {what}, not a number; mend it") from None
            if not abs(row[k]) <= limit:
                raise Problem(
                    f"line {i} of {name} has a {what} of {cell}, beyond {limit:g}{'' if found.unit else ' degrees'}; mend it, or "
                    f"name the columns"
                )
        if found.unit and abs(np.linalg.norm(row) - found.unit) > 0.01:
            raise Problem(
                f"line {i} of {name} has {', '.join(found.names)} of length {np.linalg.norm(row):g}, but a rotation's quaternion "
                f"has length {found.unit:g}; mend it"
            )
    if len(rows) < 2:
        raise Problem(f"{name} holds one row, and none is left to hold out; give a longer table")
    return torch.from_numpy(rows), found


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip().strip("\"'").strip() for cell in line.split(separator)]


def _number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell) is not None


def _columns(header: list[str], name: str) -> tuple[Chart, tuple[int, ...]]:
    """The chart of the table, and in which columns it stands."""
    names = [cell.lower() for cell in header]
    for one in CHARTS:
        places = [[i for i, n in enumerate(names) if n in (what, *others)] for what, others in one.columns.items()]
        if all(len(place) == 1 for place in places):
            return one, tuple(place[0] for place in places)
    told = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
    raise Problem(
        f"{name} has the columns {told}, but one latitude and one longitude are needed (or "
        f"{'; or '.join(', '.join(c.names) for c in CHARTS[1:])}); name them so"
    )
