"""The shelf: one file per paper, found by walking this package.

A paper's file derives a `Recipe` and registers it with `@paper(...)`; its command, page, citation and tests follow.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import unknown
from ..recipe import Recipe


@dataclass(frozen=True)
class Info:
    """What is known of a paper."""

    slug: str
    arxiv: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    summary: str
    claims: list = field(default_factory=list)
    checks: list = field(default_factory=list)

    @property
    def key(self) -> str:
        surname = self.authors[0].split()[-1].lower()
        return f"{surname}{self.year}{self.slug.replace('-', '')}"

    def bibtex(self) -> str:
        """A BibTeX entry."""
        return (
            f"@misc{{{self.key},\n  title = {{{self.title}}},\n  author = {{{' and '.join(self.authors)}}},\n"
            f"  year = {{{self.year}}},\n  note = {{{self.venue}}},\n"
            f"  eprint = {{{self.arxiv}}},\n  archivePrefix = {{arXiv}},\n}}"
        )


_SHELF: dict[str, type[Recipe]] = {}
R = TypeVar("R", bound=Recipe)


def paper(arxiv: str, title: str, authors: str, year: int, venue: str) -> Callable[[type[R]], type[R]]:
    """Registers a recipe as the paper of this arXiv number. `authors` are separated by commas."""

    def register(recipe: type[R]) -> type[R]:
        slug = recipe.__module__.rsplit(".", 1)[-1].replace("_", "-")
        summary = (recipe.__doc__ or "").strip().splitlines()[0]
        names = tuple(name.strip() for name in authors.split(","))
        recipe.slug, recipe.info = slug, Info(slug, arxiv, title, names, year, venue, summary)
        _SHELF[slug] = recipe
        return recipe

    return register


def stage(recipe: type[R]) -> type[R]:
    """Registers a recipe that is no paper but a stage of one, by the file it stands in: "ldm.autoencoder"."""
    paper = recipe.__module__.rsplit(".", 1)[-1].replace("_", "-")
    recipe.slug = f"{paper}.{recipe.__name__.lower()}"
    summary = (recipe.__doc__ or "").strip().splitlines()[0]
    recipe.info = Info(recipe.slug, "", f"a stage of {paper}", ("",), 0, "", summary)
    _SHELF[recipe.slug] = recipe
    return recipe


def slugs() -> list[str]:
    """The names of all papers, without importing any."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find(slug: str) -> type[Recipe]:
    """The recipe of a paper, or of a stage. Raises UsageProblem for a name that is not on the shelf."""
    file = slug.partition(".")[0]
    if file in slugs():
        importlib.import_module(f"{__name__}.{file.replace('-', '_')}")
    if slug not in _SHELF:
        raise unknown("paper", slug, slugs())
    return _SHELF[slug]


def shelf() -> dict[str, type[Recipe]]:
    """Every paper."""
    return {slug: find(slug) for slug in slugs()}
