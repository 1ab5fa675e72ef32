"""`unnoise cite PAPER`: its BibTeX entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from .parse import parse


@dataclass(frozen=True)
class Cite:
    """Print the BibTeX entry of a paper."""

    paper: Annotated[Positional[str], arg(metavar="PAPER")]
    """Its name on the shelf (`unnoise papers`)."""


def run(argv: list[str]) -> None:
    form = parse(Cite, argv, "cite")
    from ..papers import find

    print(find(form.paper).info.bibtex())
