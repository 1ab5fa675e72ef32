"""Kinds of data: how each is stored, and how samples of it become files that a person opens."""

from __future__ import annotations

from ..errors import UsageProblem
from .images import Images
from .kind import About, Kind
from .points import Points
from .sound import Sound
from .text import Text

__all__ = ["KINDS", "About", "Kind", "kind_of", "takes"]

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Images(), Text(), Sound(), Points())}
"""Every kind of data there is, by name."""


def kind_of(about: About) -> Kind:
    """The kind of the data that a `Spec` or `Facts` describes."""
    return KINDS[about.kind]


def takes(wanted: tuple[str, ...], slug: str, data: str, kind: str) -> None:
    """Refuses, with a sentence, data of a kind that a paper cannot learn from."""
    if kind not in wanted:
        raise UsageProblem(f"{slug} learns {' or '.join(wanted)}, and {data} is {kind}; choose another --data")
