r"""Points on a manifold as a data set: places on the earth, and angles of molecules.

    load("airports")                        # built in: 28,298 airports, on the sphere
    load("torsions")                        # built in: the angles phi and psi of 10,146 residues of a ribosome, on the torus
    load("quakes.csv")                      # any table of latitudes and longitudes, or of phi and psi, in degrees

A table has numbers between commas, semicolons, tabs or blanks, a place a line; lines that begin with # are comments. A header
says which columns are meant (lat, latitude; lon, long, lng, longitude; phi; psi), in any order; without one the first two are
latitude and longitude. A place is (cos lat cos lon, cos lat sin lon, sin lat); an angle a is (cos a, sin a).

Held out: one row in five, by the hash of its number. Rows that are alike are not kept together: where the same volcano erupts
again, a model is meant to know.
"""

from __future__ import annotations

import bz2
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import Problem, UsageProblem
from .dataset import DataSet, Facts
from .splits import held_out

SHIPPED = Path(__file__).parent / "shipped"
RULE = "one row in five, by the sha256 of 'points/' and its number"
MOST = 1 << 28  # bytes of a table that are read
COLUMNS = {
    "latitude": ("lat", "latitude"),
    "longitude": ("lon", "long", "lng", "longitude"),
    "phi": ("phi",),
    "psi": ("psi",),
}
"""What a column may be called."""
MANIFOLDS = {("latitude", "longitude"): "sphere", ("phi", "psi"): "torus-2"}
LIMITS = {"latitude": 90.0, "longitude": 360.0, "phi": 360.0, "psi": 360.0}

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
BUILT_IN = {"airports": (AIRPORTS, "earth/airports.csv.bz2"), "torsions": (TORSIONS, "proteins/torsions.csv.bz2")}


def coordinates(degrees: Tensor, manifold: str) -> Tensor:
    """Degrees (n, 2), latitude and longitude or phi and psi, as points of the sphere (n, 3) or the torus (n, 4); float32."""
    a, b = torch.deg2rad(degrees.double()).unbind(1)
    if manifold == "sphere":
        return torch.stack([a.cos() * b.cos(), a.cos() * b.sin(), a.sin()], 1).float()
    return torch.stack([a.cos(), a.sin(), b.cos(), b.sin()], 1).float()


def degrees(points: Tensor, manifold: str) -> Tensor:
    """Back again, (n, 2): latitudes in [-90, 90], other angles in [-180, 180]."""
    x = points.double()
    if manifold == "sphere":
        lat = torch.atan2(x[:, 2], x[:, :2].norm(dim=1))
        return torch.rad2deg(torch.stack([lat, torch.atan2(x[:, 1], x[:, 0])], 1))
    return torch.rad2deg(torch.atan2(x[:, 1::2], x[:, ::2]))


def load(path: str | Path, split: str, size: Any = None) -> DataSet:
    """A split of a table. Raises Problem or UsageProblem, in one sentence, for what is no such table."""
    path = Path(path)
    try:
        changed = path.stat().st_mtime_ns
        table, manifold = _file(str(path.resolve()), changed)
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}); give the path of a table (.csv)") from error
    out = _held_out(len(table))
    facts = Facts(
        name=str(path),
        shape=(coordinates(table[:1], manifold).shape[1],),
        train=int((~out).sum()),
        held_out=int(out.sum()),
        rule=RULE,
        licence="as the owner of the file says",
        source=str(path.resolve()),
        kind="points",
        manifold=manifold,
    )
    return _split(facts, table, split, size)


def built_in(name: str, split: str, size: Any = None) -> DataSet:
    """A split of a table that is shipped."""
    facts, file = BUILT_IN[name]
    return _split(facts, _shipped(file), split, size)


@lru_cache(maxsize=2)
def _shipped(file: str) -> Tensor:
    return read(bz2.decompress((SHIPPED / file).read_bytes()).decode(), file)[0]


@lru_cache(maxsize=8)
def _file(path: str, changed: int) -> tuple[Tensor, str]:
    """The table of a file, as it was when last changed."""
    with open(path, "rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise Problem(f"{path} is longer than the {MOST >> 20} MB of a table that are read; give a part of it")
    try:
        return read(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError:
        raise Problem(f"{path} is no text in UTF-8; save the table as one") from None


def _held_out(count: int) -> np.ndarray:
    return held_out((f"points/{i}" for i in range(count)), one_in=5)


def _split(facts: Facts, table: Tensor, split: str, size: Any) -> DataSet:
    if size is not None:
        raise UsageProblem(f"{facts.name} holds points, which have no size; leave --size out")
    chosen = torch.from_numpy(_held_out(len(table)) == (split == "held-out"))
    return DataSet(facts, split, coordinates(table[chosen], facts.manifold or ""))


def read(text: str, name: str) -> tuple[Tensor, str]:
    """The degrees (n, 2) of a table, float64, and the manifold they are of. Raises Problem."""
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise Problem(f"{name} holds no row; give a table of latitudes and longitudes in degrees")
    separator = next((c for c in ",;\t" if c in lines[0][1]), None)
    first = _cells(lines[0][1], separator)
    if any(map(_number, first)):
        wanted, places = ("latitude", "longitude"), (0, 1)
    else:
        wanted, places = _columns(first, name)
        lines = lines[1:]
        if not lines:
            raise Problem(f"{name} holds a header and no row; give a table with rows")
    rows = np.empty((len(lines), 2))
    for row, (i, line) in zip(rows, lines, strict=True):
        cells = _cells(line, separator)
        for k, (what, place) in enumerate(zip(wanted, places, strict=True)):
            found = cells[place] if place < len(cells) else ""
            try:
                row[k] = float(found)
            except ValueError:
                raise Problem(f"line {i} of {name} has {found!r} for its {what}, not a number; mend it") from None
            if not abs(row[k]) <= LIMITS[what]:
                raise Problem(
                    f"line {i} of {name} has a {what} of {found}, beyond {LIMITS[what]:g} degrees; mend it, or name the columns"
                )
    if len(rows) < 2:
        raise Problem(f"{name} holds one row, and none is left to hold out; give a longer table")
    return torch.from_numpy(rows), MANIFOLDS[wanted]


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip().strip("\"'").strip() for cell in line.split(separator)]


def _number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell) is not None


def _columns(header: list[str], name: str) -> tuple[tuple[str, str], tuple[int, int]]:
    """What the table is of, and in which columns it stands."""
    names = [cell.lower() for cell in header]
    found = {what: [i for i, n in enumerate(names) if n in known] for what, known in COLUMNS.items()}
    for wanted in MANIFOLDS:
        if all(len(found[what]) == 1 for what in wanted):
            return wanted, (found[wanted[0]][0], found[wanted[1]][0])
    told = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
    raise Problem(
        f"{name} has the columns {told}, but one latitude and one longitude are needed (or phi and psi); name them so"
    )
