"""`unnoise papers`: the shelf."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageProblem
from .parse import parse
from .show import print_json, print_table

VERDICTS = ("reproduced", "not reproduced", "not testable at this scale")


@dataclass(frozen=True)
class Papers:
    """The papers that can be trained, sampled and verified here, and what their verification found."""

    json: bool = False
    """Print JSON for machines."""
    results: Path | None = None
    """Where `unnoise verify` left its results; ./results or the checkout's unless given."""


def results_folder() -> Path:
    """./results, or that of the checkout this package is run from."""
    here, checkout = Path("results"), Path(__file__).parents[3] / "results"
    return here if here.is_dir() or not checkout.is_dir() else checkout


def verified(slug: str, results: Path) -> dict[str, int] | None:
    """How many claims have each verdict, and of the exact checks how many hold; None if the paper was not verified."""
    try:
        record = json.loads((results / f"{slug}.json").read_text("utf-8"))
        counts = {verdict: sum(c["verdict"] == verdict for c in record["claims"]) for verdict in VERDICTS}
        return {"checks": len(record["checks"]), "hold": sum(bool(c["holds"]) for c in record["checks"]), **counts}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run(argv: list[str]) -> None:
    form = parse(Papers, argv, "papers")
    from ..papers import shelf

    if form.results is not None and not any((form.results / f"{slug}.json").is_file() for slug in shelf()):
        raise UsageProblem(f"{form.results} holds no results; name a folder that `unnoise verify` has written into")
    rows: list[dict[str, Any]] = []
    for slug, recipe in shelf().items():
        info = recipe.info
        known = {"paper": slug, "title": info.title, "year": info.year, "arxiv": info.arxiv, "summary": info.summary}
        rows.append({**known, "verified": verified(slug, form.results or results_folder())})
    rows.sort(key=lambda row: (row["year"], row["paper"]))
    if form.json:
        print_json(rows)
        return
    table = [[row["paper"], str(row["year"]), _short(row["verified"]), row["title"]] for row in rows]
    print_table(["paper", "year", "verified", "title"], table)
    print("\nverified: claims reproduced / not reproduced / not testable at this scale; run `unnoise verify PAPER`")


def _short(found: dict[str, int] | None) -> str:
    return "-" if found is None else " / ".join(str(found[verdict]) for verdict in VERDICTS)
