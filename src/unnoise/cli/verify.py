"""`unnoise verify PAPER`: what it claims, measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..errors import UsageProblem, unknown
from .parse import parse
from .show import print_json


@dataclass(frozen=True)
class Verify:
    """Run a paper's exact checks, then the experiments for its claims; a verdict each, written to OUT/PAPER.json,
    and figures, to OUT/PAPER/.

    Experiments train small models, for minutes each; they are kept in WORK, so an interrupted verification goes on where
    it stopped. Ends with 1 if an exact check does not hold.
    """

    papers: Annotated[Positional[tuple[str, ...]], arg(metavar="PAPER")] = ()
    """Names on the shelf (`unnoise papers`)."""
    all: bool = False
    """Every paper on the shelf."""
    only: str | None = None
    """This claim only, by its name; then nothing is written to OUT."""
    fresh: bool = False
    """Measure again what was measured before (models that were trained are kept)."""
    seeds: str = "0,1,2"
    """Training seeds of the claims that repeat."""
    out: Path = Path("results")
    """Where the results go."""
    work: Path = Path("runs/verify")
    """Where models and samples are kept."""
    json: bool = False
    """Print JSON for machines."""


def run(argv: list[str]) -> int:
    form = parse(Verify, argv, "verify")
    if bool(form.papers) == form.all:
        raise UsageProblem("which paper? `unnoise verify PAPER`, or `unnoise verify --all`")
    try:
        seeds = tuple(int(seed) for seed in form.seeds.split(","))
    except ValueError:
        raise UsageProblem(f"--seeds takes whole numbers with commas, such as 0,1,2, not {form.seeds!r}") from None
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageProblem(f"--seeds takes different numbers, 0 or more, not {form.seeds!r}")
    from ..papers import find, slugs
    from ..verify.lab import Lab
    from ..verify.report import verify

    chosen = slugs() if form.all else list(form.papers)
    recipes = [find(slug) for slug in chosen]  # unknown names are told before an hour of work
    claims = [claim.name for recipe in recipes for claim in recipe.info.claims if claim.name]
    if form.only is not None and form.only not in claims:
        raise unknown("claim", form.only, claims) if claims else UsageProblem("no claim is declared to choose from")
    say = partial(print, file=sys.stderr if form.json else sys.stdout, flush=True)
    lab = Lab(form.work, seeds, say)
    records = []
    for slug in chosen:
        say(f"{slug}: {find(slug).info.title}")
        records.append(verify(slug, lab, results=form.out, only=form.only, fresh=form.fresh, say=say))
        if form.only is None:
            say(f"written to {form.out / f'{slug}.json'}")
    if form.json:
        print_json(records if form.all or len(records) > 1 else records[0])
    broken = (not check["holds"] for record in records for check in record["checks"])
    failed = (claim["verdict"] == "failed" for record in records for claim in record["claims"])
    return int(any(broken) or any(failed))
